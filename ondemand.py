"""Attempts that somebody asks for: a ping for each URL, one more of a delivery, one more of all that have failed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace

from delivery import Dispatcher
from journal import delivery_record
from messages import CANCELLED, DELIVERING, FAILED, OPEN, PENDING, PING, PING_BODY, RETRYING, Delivery, NotPossible

RECOVERED = 500  # deliveries a second: a sender makes many times as many attempts, so live ones hardly notice


class OnDemand:
    """Pings, redeliveries and recoveries. A dispatcher may have one of these at the most: `_pinging` is its lock."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._store, self._history, self._changed = dispatcher.store, dispatcher.history, dispatcher.changed
        self._pinging = threading.Lock()  # held from the choice of the URLs until their pings are under way

    def ping(self) -> list[Delivery]:
        """Ping each distinct URL past its queue; the newest ping of each, under way or over. StoreError.

        A URL whose ping is under way is not sent another: all who ask share it.
        """
        with self._pinging:
            with self._changed:
                under_way = {ping.url for ping in self._history.pings.values() if ping.state in OPEN}
            self._dispatcher.commit(PING, PING_BODY, [url for url in self._store.urls() if url not in under_way])
        with self._changed:
            return list(filter(None, map(self._history.pings.get, self._store.urls())))

    def confirm_ping(self, url: str) -> None:
        """Mark the newest ping to `url` as confirmed. NotPossible when it failed, or when there is none."""
        with self._changed:
            ping = self._history.pings.get(url)
            if ping is None:
                raise NotPossible("there is no ping to this url in the history: ask for one with GET /ping first")
            if ping.state in (FAILED, CANCELLED):
                why = ping.error or ping.attempts[-1].error or f"answered {ping.attempts[-1].status}"
                raise NotPossible(f"the newest ping to this url failed: {why}")
            ping.confirmed = True
            self._dispatcher.journal.note(ping, delivery_record(ping))
            self._history.changed(ping)
            self._changed.notify_all()

    def redeliver(self, delivery: Delivery) -> None:
        """One more attempt now. NotPossible when one is under way or the URL is gone; StoreError.

        No retries come after it if the delivery was over; if it is retrying, the planned ones stay.
        """
        with self._changed:
            if not _is_free(delivery):
                raise NotPossible(f"an attempt of {delivery.id} is under way or about to be")
            if not self._store.has(delivery.url):
                raise NotPossible(f"{delivery.url} is no longer registered")
            if delivery.state == RETRYING and not self._store.registered(delivery.url, delivery.message.event):
                raise NotPossible(f"{delivery.url} is no longer registered for {delivery.message.event}")
        self._attempt_again([delivery], _is_free, lambda it: self._dispatcher.endpoints.add(it, urgent=True))

    def recover(self, matches: Callable[[Delivery], bool]) -> int:
        """One more attempt of each delivery that is over, matches and is registered for; returns how many. StoreError.

        They are planned as retries are, RECOVERED of them a second, and no retries come after them.
        """
        with self._changed:
            _, over = self._history.snapshot()
        found = [d for d in over if matches(d) and self._store.registered(d.url, d.message.event)]
        numbers = itertools.count()
        return self._attempt_again(found, matches, lambda it: self._dispatcher.postpone(it, next(numbers) / RECOVERED))

    def _attempt_again(
        self, asked: list[Delivery], possible: Callable[[Delivery], bool], queue: Callable[[Delivery], None]
    ) -> int:
        """Have these attempted once more: on the disk when this returns, and queued if that is possible still.

        Returns how many are queued.
        """
        queued: list[Delivery] = []

        def accept() -> None:
            with self._changed:
                for delivery in asked:
                    if not possible(delivery) or self._history.find(delivery.id) is None:
                        # Another caller was quicker, or it has been forgotten. This corrects the record on the disk.
                        self._dispatcher.journal.note(delivery, delivery_record(delivery))
                        continue
                    if delivery.state == RETRYING:
                        self._dispatcher.endpoints.withdraw(delivery.url, {delivery})  # until this attempt is over
                    else:
                        self._history.reopen(delivery)
                    delivery.state, delivery.manual, delivery.error = PENDING, True, None
                    queue(delivery)
                    queued.append(delivery)
                    self._history.changed(delivery)
                self._dispatcher.wake()

        queued_again = (replace(delivery, state=PENDING, manual=True, error=None) for delivery in asked)
        self._dispatcher.journal.commit(b"".join(map(delivery_record, queued_again)), accept)
        return len(queued)


def _is_free(delivery: Delivery) -> bool:
    """Whether no attempt is under way or about to be; a recovery is planned within seconds."""
    return delivery.state not in (PENDING, DELIVERING) and not delivery.manual
