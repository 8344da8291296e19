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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from selectors import DefaultSelector

from addresses import Guard
from client import Exchange, exchange
from connections import Pool, Resolver
from durable import StoreError
from endpoints import NEVER, RETRY_SCHEDULE, Endpoints, Schedule, limits
from history import History, Keys, fingerprint
from housekeeper import Housekeeper
from journal import Journal, compacted, delivery_record, message_record
from messages import CANCELLED, DELIVERED, DELIVERING, FAILED, OPEN, PENDING, PING, RETRYING
from messages import Attempt, Delivery, Full, Message, new_message_id, request
from sender import Exchanging, InFlight, Sender
from store import WebhookStore

MAX_WAITING = 500_000  # deliveries that wait in all
MAX_BODIES = 268_435_456  # bytes of the messages that wait
MAX_BACKLOG = 10_000  # deliveries that wait for one URL
SHARE = 16  # a URL may have one part in so many of what is left of MAX_WAITING and of MAX_BODIES
CLOSE_SECONDS = 5.0  # what attempts under way get at shutdown


class Dispatcher:
    """Accepts messages and delivers them; safe to use from many threads.

    `clock` is Unix time, `monotonic` is what plans, `chance` gives numbers from 0 to 1, `log` gets a line for people
    now and then, `show` the bytes of every attempt, as Printer.show takes them.

    `changed` is a lock and a bell. As a lock it guards the history, the endpoints and the housekeeper's `gone`; plain
    counters may be read without it. As a bell it is rung when deliveries change. `_keys` is changed in
    the journal's turn only, and read with the key's lock held.

    Order of locks: the one of OnDemand or one of Keys, the turn of the store or of the journal, `changed`, and last
    those of the journal's notes and of the printer. So nothing that takes a turn (commit, flush, compact, close) is
    called with `changed` held; `note` takes none and may be.
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
        self.store, self.journal, self.log, self._show = store, journal, log, show
        self._schedule = Schedule(tuple(schedule), chance, clock, monotonic)
        self.changed = threading.Condition(threading.Lock())
        self.history = History(self.changed)
        under_way, idle = limits()
        self.endpoints, resolver = Endpoints(under_way), Resolver()
        pools = [Pool(DefaultSelector(), resolver, guard, idle // workers, monotonic) for _ in range(workers)]
        self._senders = [Sender(self, pool, exchanging, timeout, monotonic) for pool in pools]
        self._keys = Keys(clock)
        self.housekeeper = Housekeeper(self)
        self._resume()

    def start(self) -> None:
        """Start to deliver."""
        for sender in self._senders:
            sender.start()
        self.housekeeper.start()

    # Accepting

    def trigger(self, event: str, body: bytes, key: str = "") -> Message:
        """Accept an event for all URLs that are registered for it: on the disk when this returns.

        `body` is what they are sent. With an Idempotency-Key that was used before, returns the message of that time.
        Reused if the key had another body (history.py), Full when too much waits, StoreError when the disk refused.
        """
        with self._keys.accepting(key):
            if known := self._keys.find(key, body):
                return known
            urls = self.store.urls_for(event)
            # Others may pass this check at the same time, each with a message of its own: the limits are soft by that.
            if self.history.waiting + len(urls) > MAX_WAITING:
                raise Full(f"{self.history.waiting:,} deliveries wait already, {MAX_WAITING:,} are the limit")
            if self.history.bodies + len(body) > MAX_BODIES:
                raise Full(f"the messages that wait have {self.history.bodies:,} bytes already")
            return self.commit(event, body, urls, key)

    def commit(self, event: str, body: bytes, urls: list[str], key: str = "") -> Message:
        """A message for these URLs, whatever waits already: on the disk when this returns."""
        mark = fingerprint(body) if key else ""
        message = Message(new_message_id(), event, self._schedule.clock(), body, key, mark)
        # _accept is called by the thread that has written the group of records, which may be another request's
        self.journal.commit(message_record(message, urls), lambda: self._accept(message, urls))
        return message

    def _accept(self, message: Message, urls: list[str]) -> None:
        """The message is on the disk: its deliveries may start."""
        if message.key:
            self._keys.keep(message)
        with self.changed:
            self.history.add(message, urls)  # makes the deliveries
            # What one URL may have that waits: so URLs that are dead never close /trigger for the others.
            count = min(MAX_BACKLOG, (MAX_WAITING - self.history.waiting) // SHARE)
            size = (MAX_BODIES - self.history.bodies) // SHARE
            is_ping = message.event == PING
            for delivery in filter(None, message.deliveries):
                if is_ping or self.endpoints.has_room(delivery.url, count, size):
                    self.endpoints.add(delivery, urgent=is_ping)
                else:
                    self._end(delivery, FAILED, "backlog full")
                self.history.changed(delivery)
            self.wake()

    def wake(self) -> None:
        """Tell the senders of new work or another time, and all who wait of changes; with the lock held."""
        for sender in self._senders:
            sender.wake()
        self.changed.notify_all()

    # Unregistering

    def cancel(self, url: str, event: str) -> int:
        """This webhook was unregistered: what waits for it is not sent. Returns how many deliveries that concerns.

        That is on the disk when this returns. StoreError when the disk refused.
        """
        with self.changed:
            gone = self.withdraw(url, event)
            self.changed.notify_all()
        self.journal.flush()  # also when a sender was quicker, and nothing waits any more
        return gone

    def withdraw(self, url: str, event: str | None = None) -> int:
        """Cancel what waits for a URL, of one event or of all, but not what the URL is registered for (it may be anew).

        With the lock held. What is under way goes on: only the journal has it as cancelled, so that a crash does not
        send it again; its outcome becomes a later record. Returns how many deliveries have waited.
        """

        def is_gone(delivery: Delivery) -> bool:
            own = delivery.message.event
            return event in (None, own) and not self.store.registered(url, own)

        endpoint = self.endpoints.by_url.get(url)
        if endpoint is None:
            return 0
        for delivery in filter(is_gone, endpoint.under_way):
            self.journal.note(delivery, delivery_record(replace(delivery, state=CANCELLED)))
        gone = set(filter(is_gone, endpoint.planned()))
        for delivery in gone:
            self._end(delivery, CANCELLED, "unregistered")
        self.endpoints.withdraw(url, gone)
        return len(gone)

    def registered(self, url: str) -> None:
        """A webhook was registered: what waits for it is sent."""
        with self.changed:
            orphans = self.endpoints.pop_orphans(url)
            for delivery in orphans:
                self._plan(delivery)
            if orphans:  # to wake the senders for nothing makes a registration a fifth slower
                self.wake()

    def records(self) -> Iterator[bytes]:
        """Those of a journal that starts anew."""
        with self.changed:
            messages, over = self.history.snapshot()
            return compacted([*self._keys.forgotten(), *messages], over)

    # What the senders ask

    def turn(self, over: list[InFlight], room: int) -> tuple[list[Delivery], float]:
        """Settle what is over. Returns what to attempt now, `room` at most, and when the next retry is due (monotonic).

        With the lock held.
        """
        version = self.history.version
        for attempt in over:
            try:
                self._settle(attempt)
            except Exception as error:  # a bug must not lose the other outcomes
                self.report(error)
        self._queue_due()
        claimed = self._claim(room)
        if self.history.version != version:
            self.changed.notify_all()
        return claimed, self.endpoints.due()

    def _queue_due(self) -> None:
        """Retries whose time has come wait for their turn as any other delivery."""
        now = self._schedule.monotonic()
        while self.endpoints.due() <= now:
            delivery = self.endpoints.pop_due()
            delivery.state, delivery.due = PENDING, 0.0
            self.endpoints.add(delivery)
            self.history.changed(delivery)

    def _claim(self, room: int) -> list[Delivery]:
        """What to attempt now; what was unregistered since it was accepted is cancelled on the way."""
        claimed = list[Delivery]()
        while len(claimed) < room and (delivery := self.endpoints.take()):
            if self._is_wanted(delivery):
                delivery.state = DELIVERING
                self.history.changed(delivery)
                claimed.append(delivery)
            else:
                self._end(delivery, CANCELLED, "unregistered")
                self.endpoints.finish(delivery, False, 0.0)
        return claimed

    def _is_wanted(self, delivery: Delivery) -> bool:
        if delivery.message.event == PING:
            return True
        if delivery.url in self.housekeeper.gone:
            return False
        if delivery.manual:
            return self.store.has(delivery.url)
        return self.store.registered(delivery.url, delivery.message.event)

    def compose(self, delivery: Delivery) -> bytes:
        """The request of an attempt; without the lock."""
        head, url = self.endpoints.by_url[delivery.url].head, delivery.url
        data = request(head, delivery.message, int(self._schedule.clock()), self.store.secrets(url))
        if self._show:  # before it is sent, so that what it causes stands below it
            self._show(f"--- attempt {delivery.count + 1} of {delivery.id}: we call {url}", ("> ", data, None))
        return data

    def report(self, error: Exception) -> None:
        """Say on the terminal that there is a bug; with the lock or without."""
        self.log(f"an error on our side: {error!r}")

    # What comes after an attempt

    def _settle(self, flight: InFlight) -> None:
        """Record the outcome of an attempt, and decide what comes next."""
        delivery, outcome = flight.delivery, flight.outcome
        began = self._schedule.clock() - flight.duration
        attempt = Attempt(began, flight.duration, outcome.status, outcome.error, outcome)
        self.history.keep_bytes(attempt)
        delivery.add(attempt)
        success = outcome.error is None and 200 <= outcome.status < 300
        good = success and self.store.has(delivery.url)  # unregistered meanwhile: nothing is remembered of its endpoint
        self.endpoints.finish(delivery, good, flight.duration)
        if success:
            self.history.finish(delivery, DELIVERED)
        else:
            self._failed(delivery, outcome)
        self._record(delivery)
        if self._show:
            ending = attempt.error or "it answers"
            answer = [("< ", outcome.response, outcome.received)] if outcome.response else []
            self._show(f"--- attempt {delivery.count} of {delivery.id} to {delivery.url}: {ending}", *answer)
        self._log_attempt(delivery, attempt)

    def _failed(self, delivery: Delivery, outcome: Exchange) -> None:
        """Decide what comes after a failure. A redelivery (`manual`) has a `due` only if a retry was planned before."""
        if outcome.error is None and outcome.status == 410:
            self.housekeeper.unregister(delivery.url)
            self.history.finish(delivery, FAILED)
        elif delivery.message.event == PING or (delivery.manual and not delivery.due):
            self.history.finish(delivery, FAILED)  # no retries: a ping, or a redelivery of what was over
        elif not self.store.registered(delivery.url, delivery.message.event):
            self.history.finish(delivery, CANCELLED)
        elif delivery.manual:  # it was retrying when somebody redelivered it: as planned before
            delivery.manual = False
            self.postpone(delivery, self._schedule.left(delivery.due))
        elif delivery.tries >= len(self._schedule.delays):
            self.history.finish(delivery, FAILED)
        else:
            delay = self._schedule.delay(delivery.tries, outcome.head)
            delivery.tries += 1
            self.postpone(delivery, delay)

    def postpone(self, delivery: Delivery, delay: float) -> None:
        """Plan an attempt in so many seconds; with the lock held."""
        delivery.state, delivery.due = RETRYING, self._schedule.clock() + delay
        self.endpoints.postpone(delivery, self._schedule.monotonic() + delay)

    def _end(self, delivery: Delivery, state: str, why: str) -> None:
        """End a delivery without an attempt."""
        delivery.error = why
        self.history.finish(delivery, state)
        self._record(delivery)

    def _record(self, delivery: Delivery) -> None:
        """To the journal, within a second, and to whoever waits for changes."""
        self.journal.note(delivery, delivery_record(delivery))
        self.history.changed(delivery)

    def _log_attempt(self, delivery: Delivery, attempt: Attempt) -> None:
        outcome = attempt.error or f"{attempt.status} in {attempt.duration * 1000:.0f} ms"
        again = f", next attempt in {max(0.0, delivery.due - self._schedule.clock()):.0f} s" if delivery.due else ""
        self.log(f"{delivery.message.event} -> {delivery.url}: {outcome}, {delivery.state}{again}")

    def counts(self) -> dict[str, int]:
        """How many deliveries wait and are under way."""
        return {"waiting": self.history.waiting, "under_way": self.endpoints.under_way}

    # Start and end

    def _resume(self) -> None:
        """Read the journal: remember what is over, plan what is not."""
        for record in self.journal.read():
            try:
                message = self.history.replay(record)
                if message and message.key:
                    self._keys.keep(message)
            except (KeyError, TypeError, ValueError, AttributeError):
                where = f"{self.journal.path}, line {self.journal.line}"
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
            self.endpoints.postpone(delivery, NEVER)
        elif delivery.state == RETRYING:
            self.postpone(delivery, self._schedule.left(delivery.due))
        else:
            self.endpoints.add(delivery)

    def orphans(self) -> dict[str, int]:
        """How many deliveries wait for a URL that nobody is registered with for their event."""
        return Counter(it.url for it in self.history.open_deliveries() if not self._is_wanted(it))

    def close(self, seconds: float = CLOSE_SECONDS) -> int:
        """Stop: attempts under way get `seconds`; returns how many deliveries wait in the journal."""
        under_way = self.counts()["under_way"]
        if under_way:
            self.log(f"Waiting up to {seconds:.0f} s for what is under way: {under_way}")
        for patience in (seconds, 0.0):  # the second time only after a second Ctrl-C, which cuts the wait short
            with contextlib.suppress(KeyboardInterrupt):
                for sender in self._senders:
                    sender.stop(patience)
                for sender in filter(Sender.is_alive, self._senders):
                    sender.join()
        with self.changed:
            for ping in list(self.history.pings.values()):
                if ping.state in OPEN:
                    self._end(ping, FAILED, "interrupted by the end of the exposee")
        self.history.close()  # requests that wait are answered while the files are closed
        self.housekeeper.close()
        for sender in self._senders:
            sender.pool.resolver.close()
        self.journal.close()
        return self.history.waiting
