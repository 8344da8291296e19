"""The dispatcher: takes messages, keeps them until every URL has its copy or has refused it for good.

    dispatcher = Dispatcher(store, journal)
    dispatcher.start()
    message = dispatcher.trigger("payment_received", b'{"event": "payment_received", "data": 1}')    # on the disk now

    trigger -> journal -> endpoint -> sender -> exchange -> settle -> journal
                             ^                                |
                             +-------- retry schedule --------+

What a message, a delivery and an attempt are, messages.py says; what is remembered, history.py; whose turn it is,
endpoints.py; how it is sent, sender.py. Here it is decided when they are accepted, tried again and given up.

Left out on purpose: order of arrival (retries break it anyway), and exactly-once (nobody has it: receivers
recognise a repeated webhook-id).
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from selectors import DefaultSelector

from addresses import Guard
from client import Exchange, exchange
from connections import Pool, Resolver
from durable import StoreError
from endpoints import Endpoint, Endpoints, limits
from history import History
from housekeeper import Housekeeper
from journal import Journal
from messages import CANCELLED, DELIVERED, DELIVERING, FAILED, OPEN, PENDING, PING, PING_BODY, RETRYING
from messages import Attempt, Delivery, Message, new_message_id, request
from records import delivery_record, message_record, records
from retries import RETRY_SCHEDULE, Schedule
from sender import Exchanging, InFlight, Sender
from store import WebhookStore

MAX_WAITING = 500_000  # deliveries that wait in all
MAX_BODIES = 268_435_456  # bytes of the messages that wait
MAX_BACKLOG = 10_000  # deliveries that wait for one URL
SHARE = 16  # a URL may have one part in so many of what is left of MAX_WAITING and of MAX_BODIES
CLOSE_SECONDS = 5.0  # what attempts under way get at shutdown
PING_SECONDS = 5.0  # what a round of pings waits for the last one to be sent


class NotPossible(Exception):
    """This cannot be done with the delivery now; str() says why."""


class Full(Exception):
    """There is no room for this now; str() says what is full."""


class Dispatcher:
    """Accepts messages and delivers them; safe to use from many threads.

    `clock` is Unix time, `monotonic` is what plans, `chance` gives numbers from 0 to 1, `log` gets a line for people
    now and then, `show` the bytes of every attempt, as Printer.show takes them.

    `changed` is a lock and a bell. As a lock it guards the history, the endpoints and the attributes below; plain
    counters may be read without it. As a bell it is rung when deliveries change.

    Order of locks: the journal's turn first, then `changed`. So nothing that takes the turn, a commit or a flush, is
    called with `changed` held; `note` takes no turn and may be.
    """

    def __init__(
        self,
        store: WebhookStore,
        journal: Journal,
        guard: Guard | None = None,
        *,
        schedule: Iterable[float] = RETRY_SCHEDULE,
        timeout: float = 10.0,
        workers: int = 1,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        log: Callable[[str], None] = lambda line: None,
        show: Callable[..., None] | None = None,
        exchanging: Exchanging = exchange,
    ) -> None:
        self._store, self._journal, self._log, self._show = store, journal, log, show
        self._schedule = Schedule(tuple(schedule), chance, clock, monotonic)
        self.changed = threading.Condition(threading.Lock())
        self.history = History(self.changed)
        under_way, idle = limits()
        self._endpoints, resolver = Endpoints(under_way), Resolver()
        pools = [Pool(DefaultSelector(), resolver, guard, idle // workers, monotonic) for _ in range(workers)]
        self._senders = [Sender(self, self.changed, pool, exchanging, timeout, monotonic) for pool in pools]
        self._gone: dict[str, None] = {}  # URLs that answered 410, until they are unregistered
        self._pinging = threading.Lock()  # held while a round of pings begins; taken before the other one
        self._housekeeper = Housekeeper(self.upkeep, log)
        self._resume()

    def start(self) -> None:
        """Start to deliver."""
        for sender in self._senders:
            sender.start()
        self._housekeeper.start()

    # Accepting

    def trigger(self, event: str, body: bytes) -> Message:
        """Accept an event for all URLs that are registered for it: on the disk when this returns.

        `body` is what they are sent. Full when too much waits; StoreError when the disk refused.
        """
        urls = self._store.urls_for(event)
        # Others may pass this check at the same time, each with a message of its own: the limits are soft by that.
        if self.history.waiting + len(urls) > MAX_WAITING:
            raise Full(f"{self.history.waiting:,} deliveries wait already, {MAX_WAITING:,} are the limit")
        if self.history.bodies + len(body) > MAX_BODIES:
            raise Full(f"the messages that wait have {self.history.bodies:,} bytes already")
        return self._commit(event, body, urls)

    def _commit(self, event: str, body: bytes, urls: list[str]) -> Message:
        message = Message(new_message_id(), event, self._schedule.clock(), body)
        self._journal.commit(message_record(message, urls), lambda: self._accept(message, urls))
        return message

    def _accept(self, message: Message, urls: list[str]) -> None:
        """The message is on the disk: its deliveries may start."""
        with self.changed:
            self.history.add(message, urls)
            for delivery in filter(None, message.deliveries):
                if message.event == PING:
                    self._endpoints.rush(delivery)
                elif self._has_room(delivery):
                    self._endpoints.add(delivery)
                else:
                    self._end(delivery, FAILED, "backlog full")
                self.history.changed(delivery)
            self.wake()

    def _has_room(self, delivery: Delivery) -> bool:
        """Whether one more may wait for this URL: so URLs that are dead never close /trigger for the others."""
        endpoint = self._endpoints.get(delivery.url)
        backlog = len(endpoint.waiting) + len(endpoint.retrying)
        if not backlog:
            return True
        count = min(MAX_BACKLOG, (MAX_WAITING - self.history.waiting) // SHARE)
        size = (MAX_BODIES - self.history.bodies) // SHARE
        return backlog < count and endpoint.size < size

    def wake(self) -> None:
        """Tell the senders of new work or another time, and all who wait of changes; with the lock held."""
        for sender in self._senders:
            sender.wake()
        self.changed.notify_all()

    def redeliver(self, delivery: Delivery) -> None:
        """One more attempt now. NotPossible when one is under way or the URL is gone; StoreError.

        No retries come after it if the delivery was over; if it is retrying, the planned ones stay.
        """
        with self.changed:
            if delivery.state in (PENDING, DELIVERING):
                raise NotPossible(f"an attempt of {delivery.id} is under way or about to be")
            if not self._store.has(delivery.url):
                raise NotPossible(f"{delivery.url} is no longer registered")
            if delivery.state == RETRYING and not self._is_wanted(delivery):
                raise NotPossible(f"{delivery.url} is no longer registered for {delivery.message.event}")
            record = delivery_record(delivery, PENDING, manual=True)
        self._journal.commit(record, lambda: self._redeliver(delivery))

    def _redeliver(self, delivery: Delivery) -> None:
        with self.changed:
            if delivery.state in (PENDING, DELIVERING) or self.history.find(delivery.id) is None:
                # another caller was quicker, or it has been forgotten meanwhile: the record told what is not so
                return self._journal.note(delivery, delivery_record(delivery))
            if delivery.state != RETRYING:
                self.history.reopen(delivery)
            delivery.state, delivery.manual, delivery.error = PENDING, True, None
            self._endpoints.rush(delivery)
            self.history.changed(delivery)
            self.wake()

    # Pinging

    def ping(self) -> list[Delivery]:
        """Ping each distinct URL past its queue; the newest ping of each, under way or over. StoreError.

        One round begins when the last one has been sent. All who ask meanwhile share the next, and a URL whose ping is
        under way is not sent another.
        """
        before = self.history.pings
        with self._pinging:
            if self.history.pings is before:
                self._begin_round()
        with self.changed:
            return list(filter(None, map(self.history.pings.get, self._store.urls())))

    def _begin_round(self) -> None:
        with self.changed:
            pings = list(self.history.pings.values())
            self.changed.wait_for(lambda: all(ping.state != PENDING for ping in pings), PING_SECONDS)
            under_way = {ping.url for ping in pings if ping.state in OPEN}
        self._commit(PING, PING_BODY, [url for url in self._store.urls() if url not in under_way])

    def confirm_ping(self, url: str) -> None:
        """Mark the newest ping to `url` as confirmed. NotPossible when it failed, or when there is none."""
        with self.changed:
            ping = self.history.pings.get(url)
            if ping is None:
                raise NotPossible("there is no ping to this url in the history: ask for one with GET /ping first")
            if ping.state in (FAILED, CANCELLED):
                raise NotPossible(f"the newest ping to this url failed: {ping.outcome()}")
            ping.confirmed = True
            self._changed(ping)
            self.changed.notify_all()

    # Unregistering

    def cancel(self, url: str, event: str) -> int:
        """This webhook was unregistered: what waits for it is not sent. Returns how many deliveries that concerns.

        That is on the disk when this returns. StoreError when the disk refused.
        """
        with self.changed:
            gone = self._cancel(url, lambda delivery: delivery.message.event == event)
            self.changed.notify_all()
        self._journal.commit(b"")  # also when a sender was quicker, and nothing waits any more
        return gone

    def _cancel(self, url: str, concerns: Callable[[Delivery], bool]) -> int:
        """Cancel what waits for a URL, except for what it is registered for: that may have been registered anew."""
        orphans = self._endpoints.orphans.pop(url, [])
        waiting = [d for d in (*self._endpoints.planned(url), *orphans) if d.state in (PENDING, RETRYING)]
        gone = {d for d in waiting if concerns(d) and not self._store.registered(url, d.message.event)}
        if left := [delivery for delivery in orphans if delivery not in gone]:
            self._endpoints.orphans[url] = left
        for delivery in gone:
            self._end(delivery, CANCELLED, "unregistered")
        self._endpoints.withdraw(url, gone)
        for delivery in filter(concerns, self._endpoints.in_flight(url)):
            if not self._store.registered(url, delivery.message.event):  # after a crash now, it is not sent again
                self._journal.note(delivery, delivery_record(delivery, CANCELLED))
        return len(gone)

    def registered(self, url: str) -> None:
        """A webhook was registered: what has waited for it is sent, and a 410 that came before counts no longer."""
        if url not in self._gone and url not in self._endpoints.orphans:
            return  # to wake the senders for nothing makes a registration a fifth slower
        with self.changed:
            self._gone.pop(url, None)
            for delivery in self._endpoints.orphans.pop(url, []):
                self._plan(delivery)
            self.wake()

    def upkeep(self) -> bool:
        """What blocks, and no sender may do; called about once a second. False when the disk has refused."""
        unregistered = self._unregister_gone() if self._gone else True
        self._store.repair()
        self._journal.compact(self._records)
        return self._journal.flush() and unregistered

    def _records(self) -> Iterator[bytes]:
        with self.changed:
            messages, over = self.history.snapshot()
        return records(messages, over)

    def _unregister_gone(self) -> bool:
        """Unregister all URLs that answered 410 with one replacement of webhooks.json; cancel what waits for them."""
        try:
            self._store.unregister_urls(self._gone)  # which reads them when it is its turn to write
        except StoreError as error:
            self._log(f"{len(self._gone)} URLs answered 410 Gone, but could not be unregistered: {error}")
            return False
        with self.changed:
            for url in [url for url in self._gone if not self._store.has(url)]:
                del self._gone[url]
                count = self._cancel(url, lambda delivery: True)
                self._log(f"{url} answered 410 Gone: unregistered" + (f", {count} waiting cancelled" if count else ""))
            self.changed.notify_all()
        return True

    # What the senders ask; see sender.Decisions

    def turn(self, over: list[InFlight], room: int) -> list[tuple[Endpoint, Delivery]]:
        version = self.history.version
        for attempt in over:
            try:
                self._settle(attempt)
            except Exception as error:  # a bug must not lose the other outcomes
                self.report(error)
        now = self._schedule.monotonic()
        while self._endpoints.due() <= now:
            self._retry(self._endpoints.pop_due(), now)
        claimed: list[tuple[Endpoint, Delivery]] = []
        while len(claimed) < room and (taken := self._endpoints.take()):
            endpoint, delivery = taken
            if delivery.state == PENDING and self._is_wanted(delivery):
                delivery.state = DELIVERING
                self.history.changed(delivery)
                claimed.append(taken)
                continue
            if delivery.state == PENDING:  # it was unregistered between the trigger and now
                self._end(delivery, CANCELLED, "unregistered")
            self._endpoints.finish(endpoint, delivery, False, 0.0)
        if self.history.version != version:
            self.changed.notify_all()
        return claimed

    def due(self) -> float:
        return self._endpoints.due()

    def _retry(self, delivery: Delivery, now: float) -> None:
        if delivery.state == RETRYING:
            delivery.state, delivery.due = PENDING, 0.0
            self._endpoints.add(delivery)
            self.history.changed(delivery)
        elif delivery.state in OPEN:  # an attempt by hand is under way or about to be: what comes of it decides
            self._endpoints.postpone(delivery, now + 1.0)

    def _is_wanted(self, delivery: Delivery) -> bool:
        if delivery.message.event == PING:
            return True
        if delivery.url in self._gone:
            return False
        if delivery.manual:
            return self._store.has(delivery.url)
        return self._store.registered(delivery.url, delivery.message.event)

    def compose(self, endpoint: Endpoint, delivery: Delivery) -> bytes:
        timestamp = int(self._schedule.clock())
        data = request(endpoint.head, delivery.message, timestamp, self._store.secret(endpoint.url))
        if self._show:  # before it is sent, so that what it causes stands below it
            self._show(f"--- attempt {delivery.count + 1} of {delivery.id}: we call {endpoint.url}", ("> ", data, None))
        return data

    def report(self, error: Exception) -> None:
        self._log(f"an error on our side: {error!r}")

    # What comes after an attempt

    def _settle(self, over: InFlight) -> None:
        """Record the outcome of an attempt, and decide what comes next."""
        delivery, outcome = over.delivery, over.outcome
        began = self._schedule.clock() - over.duration
        attempt = Attempt(began, over.duration, outcome.status, outcome.error, outcome)
        self.history.keep_bytes(attempt)
        delivery.add(attempt)
        success = outcome.error is None and 200 <= outcome.status < 300
        self._endpoints.finish(over.endpoint, delivery, success, over.duration)
        if success:
            self._finish(delivery, DELIVERED)
        else:
            self._failed(delivery, outcome)
        if not self._store.has(delivery.url):  # unregistered meanwhile: let go of its endpoint, proven or not
            self._endpoints.withdraw(delivery.url, ())
        self._changed(delivery)
        if self._show:
            ending = attempt.error or "it answers"
            answer = [("< ", outcome.response, outcome.received)] if outcome.response else []
            self._show(f"--- attempt {delivery.count} of {delivery.id} to {delivery.url}: {ending}", *answer)
        self._log_attempt(delivery, attempt)

    def _failed(self, delivery: Delivery, outcome: Exchange) -> None:
        if outcome.error is None and outcome.status == 410:  # it does not want to hear from us again
            self._gone[delivery.url] = None
            self._housekeeper.wake()
            self._finish(delivery, FAILED)
        elif delivery.message.event == PING or delivery.manual and not delivery.due:
            self._finish(delivery, FAILED)
        elif not self._store.registered(delivery.url, delivery.message.event):
            self._finish(delivery, CANCELLED)
        elif delivery.manual:
            delivery.state, delivery.manual = RETRYING, False  # as planned before
        elif delivery.tries >= len(self._schedule.delays):
            self._finish(delivery, FAILED)
        else:
            delay = self._schedule.delay(delivery.tries, outcome.head)
            delivery.tries += 1
            self._postpone(delivery, delay)

    def _postpone(self, delivery: Delivery, delay: float) -> None:
        delivery.state, delivery.due = RETRYING, self._schedule.clock() + delay
        self._endpoints.postpone(delivery, self._schedule.monotonic() + delay)

    def _finish(self, delivery: Delivery, state: str) -> None:
        if delivery.due:  # it was attempted by hand, and its retries are not needed any more
            self._endpoints.withdraw(delivery.url, {delivery})
        self.history.finish(delivery, state)

    def _end(self, delivery: Delivery, state: str, why: str) -> None:
        """End a delivery without an attempt."""
        delivery.error = why
        self.history.finish(delivery, state)
        self._changed(delivery)

    def _changed(self, delivery: Delivery) -> None:
        self._journal.note(delivery, delivery_record(delivery))
        self.history.changed(delivery)

    def _log_attempt(self, delivery: Delivery, attempt: Attempt) -> None:
        outcome = attempt.error or f"{attempt.status} in {attempt.duration * 1000:.0f} ms"
        again = f", next attempt in {max(0.0, delivery.due - self._schedule.clock()):.0f} s" if delivery.due else ""
        self._log(f"{delivery.message.event} -> {delivery.url}: {outcome}, {delivery.state}{again}")

    def counts(self) -> dict[str, int]:
        """How many deliveries wait and are under way."""
        return {"waiting": self.history.waiting, "under_way": self._endpoints.under_way}

    # Start and end

    def _resume(self) -> None:
        """Read the journal: remember what is over, plan what is not."""
        for record in self._journal.read():
            try:
                self.history.replay(record)
            except (KeyError, TypeError, ValueError, AttributeError):
                where = f"{self._journal.path}, line {self._journal.line}"
                raise StoreError(f"{where}: not a record of ours; mend it, or move the file away") from None
        for delivery in self.history.open_deliveries():
            if delivery.message.event == PING:
                self._end(delivery, FAILED, "interrupted by a restart")
            else:
                self._plan(delivery)
        self.history.trim()

    def _plan(self, delivery: Delivery) -> None:
        """Let a delivery that was read from the journal wait for what it waited for before."""
        if not self._is_wanted(delivery):
            self._endpoints.orphans.setdefault(delivery.url, []).append(delivery)
        elif delivery.state == RETRYING:
            self._postpone(delivery, self._schedule.left(delivery.due))
        elif delivery.manual:
            self._endpoints.rush(delivery)
            if delivery.due:
                left = self._schedule.left(delivery.due)
                delivery.due = self._schedule.clock() + left
                self._endpoints.postpone(delivery, self._schedule.monotonic() + left)
        else:
            self._endpoints.add(delivery)

    def orphans(self) -> dict[str, int]:
        """How many deliveries wait for a URL that nobody is registered with for their event."""
        return {url: len(deliveries) for url, deliveries in self._endpoints.orphans.items()}

    def close(self, seconds: float = CLOSE_SECONDS) -> int:
        """Stop: attempts under way get `seconds`; returns how many deliveries wait in the journal."""
        under_way = self.counts()["under_way"]
        if under_way:
            self._log(f"Waiting up to {seconds:.0f} s for what is under way: {under_way}")
        for patience in (seconds, 0.0):
            with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C cuts the wait short
                for sender in self._senders:
                    sender.stop(patience)
                for sender in filter(Sender.is_alive, self._senders):
                    sender.join()
        with self.changed:
            for ping in self.history.pings.values():
                if ping.state in OPEN:
                    self._end(ping, FAILED, "interrupted by the end of the exposee")
        self._housekeeper.close()
        for sender in self._senders:
            sender.pool.resolver.close()
        self.history.close()
        self._journal.close()
        return self.history.waiting
