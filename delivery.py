"""The post office: takes messages, keeps them until every URL has its copy or has refused it for good.

    office = PostOffice(store, journal, transport)
    office.start()
    message = office.trigger("payment_received", {"amount": 100})    # on the disk when this returns

    trigger -> journal -> lane -> worker -> transport -> outcome -> journal
                           ^                                |
                           +------- retry schedule ---------+

What a message, a delivery and an attempt are, messages.py says; what is remembered, history.py. Who sends, workers.py:
deliveries for one URL wait in a lane, a trip is an attempt under way. Here it is decided what happens to them: when
they are accepted, tried again (a thread, the overseer, looks for what is due) and given up.

Left out on purpose: order of arrival (retries break it anyway), and exactly-once (nobody has it: receivers
recognise a repeated webhook-id).
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from durable import StoreError
from history import History
from journal import Journal
from messages import (
    CANCELLED,
    DELIVERED,
    DELIVERING,
    FAILED,
    OPEN,
    PENDING,
    PING,
    PING_DATA,
    RETRYING,
    Attempt,
    Delivery,
    Message,
    attempt_record,
    body_of,
    change_record,
    message_record,
    new_message_id,
    request,
)
from store import WebhookStore
from transport import Exchange, Transport, retry_after
from watching import Full, Watchers
from workers import PATIENCE, QUICK_PLACES, Lane, Trip, Workers

RETRY_SCHEDULE = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
# standardwebhooks.com: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: 75 hours in all
JITTER = 0.2  # of each delay, so that what failed together does not come back together
MAX_RETRY_AFTER = 86_400.0  # a receiver may postpone us, but not for ever

MAX_LANE = 10_000  # deliveries that wait for one URL
MAX_WAITING = 500_000  # deliveries that wait in all
MAX_BODIES = 268_435_456  # bytes of the messages that wait
FLUSH_SECONDS = 1.0  # after which an outcome is in the journal's file at the latest
CLOSE_SECONDS = 5.0  # what attempts under way get at shutdown


class NotPossible(Exception):
    """This delivery cannot be attempted now; str() says why."""


class PostOffice:
    """Accepts messages and delivers them; safe to use from many threads.

    `clock` is Unix time, `chance` gives numbers from 0 to 1, `log` gets a line for people now and then,
    `watch_bytes` every attempt's (url, exchange). `watchers` are told of every change.
    """

    def __init__(
        self,
        store: WebhookStore,
        journal: Journal,
        transport: Transport,
        *,
        schedule: Iterable[float] = RETRY_SCHEDULE,
        timeout: float = 10.0,
        workers: int = QUICK_PLACES,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        log: Callable[[str], None] = lambda line: None,
        watch_bytes: Callable[[str, Exchange], None] | None = None,
    ) -> None:
        self._store, self._journal, self._transport = store, journal, transport
        self._schedule, self._clock, self._chance = tuple(schedule), clock, chance
        self._log, self._watch_bytes = log, watch_bytes
        self._lock = threading.Lock()  # held by who changes anything below; single numbers are read without it
        self._history = History()
        self._lanes: dict[str, Lane] = {}
        self._due: list[tuple[float, int, Delivery]] = []  # a heap of retries
        self._unplanned = 0  # retries in the heap that will not be
        self._number = itertools.count()  # decides between two that are due at the same time
        self.watchers = Watchers(self._lock)
        self._workers = Workers(self._lock, self, transport, timeout=timeout, places=workers, clock=clock)
        self._workers.wake_overseer = self._wake_overseer
        self._stir = threading.Event()  # wakes the overseer
        self._dozing = False  # the overseer sleeps for long: who finds work wakes it
        self._running = False
        self._resume()

    # Accepting

    def trigger(self, event: str, data: Any) -> Message:
        """Accept an event for all URLs that are registered for it: on the disk when this returns.

        Full when the office is; StoreError when the disk refused.
        """
        urls = self._store.urls_for(event)
        message = Message(new_message_id(), event, self._clock(), body_of(event, data))
        # Others may pass this check at the same time, each with a message of its own: the limits are soft by that.
        if self._history.waiting + len(urls) > MAX_WAITING:
            raise Full(f"{self._history.waiting:,} deliveries wait already, {MAX_WAITING:,} are the limit")
        if self._history.bodies + len(message.body) > MAX_BODIES:
            raise Full(f"the messages that wait have {self._history.bodies:,} bytes already")
        self._journal.commit(message_record(message, urls), lambda: self._accept(message, urls))
        return message

    def _accept(self, message: Message, urls: list[str]) -> None:
        """The message is on the disk: its deliveries may start."""
        with self._lock:
            self._history.add(message, urls)
            for delivery in message.deliveries:
                assert delivery is not None
                lane = self._lane(delivery.url)
                if len(lane.waiting) + len(lane.retrying) >= MAX_LANE:
                    self._end(delivery, FAILED, "backlog full")
                else:
                    lane.waiting.append(delivery)
                    self._workers.queue(lane)
                self.watchers.changed(delivery)
            self._workers.call()

    def ping(self) -> tuple[str, list[Delivery]]:
        """Ping each distinct URL past all queues: (message id, deliveries).

        A URL whose last ping is still under way is not sent another: that one's delivery is returned.
        """
        with self._lock:
            urls = self._store.urls()
            shared = [p for url in urls if (p := self._history.newest_ping(url)) and p.state in OPEN]
            busy = {delivery.url for delivery in shared}
            message = Message(new_message_id(), PING, self._clock(), body_of(PING, PING_DATA))
            fresh = [url for url in urls if url not in busy]
            if fresh:
                self._journal.note(message_record(message, fresh))
                self._history.add(message, fresh)
            for delivery in (sent := [d for d in message.deliveries if d is not None]):
                self._rush(delivery)
            return (message if fresh or not shared else shared[0].message).id, shared + sent

    def redeliver(self, delivery: Delivery) -> None:
        """One more attempt now, and no retries after it. NotPossible when one is under way or the URL is gone."""
        with self._lock:
            self._check_redeliverable(delivery)
        self._journal.commit(change_record(delivery, redeliver=True), lambda: self._redeliver(delivery))

    def _redeliver(self, delivery: Delivery) -> None:
        with self._lock:
            if delivery.state in (PENDING, DELIVERING) or self.find(delivery.id) is None:
                return  # somebody else asked for the same meanwhile, or it has been forgotten meanwhile
            was_retrying = delivery.state == RETRYING
            self._lane(delivery.url).retrying.discard(delivery)
            self._history.reopen(delivery)
            if was_retrying:
                self._unplan(1)
            self._rush(delivery)

    def _check_redeliverable(self, delivery: Delivery) -> None:
        if delivery.state in (PENDING, DELIVERING):
            raise NotPossible(f"an attempt of {delivery.id} is under way or about to be")
        if not self._store.has(delivery.url):
            raise NotPossible(f"{delivery.url} is no longer registered")

    def _rush(self, delivery: Delivery) -> None:
        lane = self._lane(delivery.url)
        lane.urgent.append(delivery)
        self._workers.queue(lane, first=True)
        self._workers.call()
        self.watchers.changed(delivery)

    def cancel(self, url: str, event: str | None = None) -> None:
        """The webhook was unregistered: what waits for it will not be sent (every event's, without `event`)."""
        with self._lock:
            lane = self._lanes.get(url)
            if lane is None:
                return
            of_it = [d for d in (*lane.waiting, *lane.retrying) if event in (None, d.message.event)]
            # what somebody has registered anew meanwhile stays
            gone = [d for d in of_it if not self._store.registered(url, d.message.event)]
            for delivery in gone:
                self._end(delivery, CANCELLED, "unregistered")
            if gone:
                self._log(f"{event or 'all'} -> {url}: unregistered, {len(gone)} waiting cancelled")
            self._unplan(sum(d.state == CANCELLED for d in lane.retrying))
            lane.waiting = deque(d for d in lane.waiting if d.state != CANCELLED)
            lane.retrying = {d for d in lane.retrying if d.state != CANCELLED}
            self.drop_if_unused(lane)

    def _unplan(self, count: int) -> None:
        """So many retries will not be: when that is most of the heap, let go of them and of their bodies."""
        self._unplanned += count
        if self._unplanned > len(self._due) // 2:
            self._due = [(due, n, d) for due, n, d in self._due if d.state == RETRYING and d.due == due]
            heapq.heapify(self._due)
            self._unplanned = 0

    def drop_if_unused(self, lane: Lane) -> None:
        """Forget a lane that nothing waits in, and whose URL is no longer registered."""
        if not (lane.waiting or lane.urgent or lane.retrying or lane.under_way or self._store.has(lane.url)):
            self._lanes.pop(lane.url, None)

    def confirm_ping(self, url: str) -> bool:
        """Mark the newest ping to `url` as confirmed; False when there is none."""
        with self._lock:
            delivery = self._history.newest_ping(url)
            if delivery is None:
                return False
            delivery.confirmed = True
            self._journal.note(change_record(delivery, confirmed=True))
            self.watchers.changed(delivery)
            return True

    # Asking

    def find(self, delivery_id: str) -> Delivery | None:
        """The delivery with this id, if it is remembered."""
        return self._history.find(delivery_id)

    def deliveries(self, matches: Callable[[Delivery], bool], limit: int, message_id: str = "") -> list[Delivery]:
        """The newest `limit` deliveries that match, newest first; of one message, if its id is given."""
        with self._lock:
            return self._history.newest(matches, limit, message_id)

    def counts(self) -> dict[str, int]:
        """How many deliveries wait and are under way."""
        return {"waiting": self._history.waiting, "under_way": self._workers.under_way}

    def _lane(self, url: str) -> Lane:
        lane = self._lanes.get(url)
        if lane is None:
            lane = self._lanes[url] = Lane(url)
        return lane

    # What the workers need; compose and before_settle are called without the lock

    def claim(self, delivery: Delivery) -> bool:
        """Whether a delivery whose turn has come is still to be sent."""
        event = delivery.message.event
        if event == PING:
            wanted = True
        elif delivery.manual:
            wanted = self._store.has(delivery.url)
        else:
            wanted = self._store.registered(delivery.url, event)
        if not wanted:
            self._end(delivery, CANCELLED, "unregistered")  # between the trigger and now
            return False
        delivery.state, delivery.due = DELIVERING, 0.0
        self.watchers.changed(delivery)
        return True

    def compose(self, delivery: Delivery, lane: Lane, timestamp: int) -> bytes:
        """The request of an attempt, with the secret that the URL has today."""
        return request(lane.head, delivery.message, timestamp, self._store.secret(delivery.url))

    def before_settle(self, trip: Trip) -> None:
        exchange = trip.exchange
        assert exchange is not None
        if self._watch_bytes:
            self._watch_bytes(trip.lane.url, exchange)
        if exchange.error is None and exchange.status == 410:
            self._gone(trip.lane.url)

    def settle(self, trip: Trip) -> None:
        """Record an attempt's outcome, and decide what comes next."""
        delivery, lane, exchange = trip.delivery, trip.lane, trip.exchange
        assert exchange is not None
        attempt = Attempt(trip.started, trip.duration, exchange.status, exchange.error)
        self._history.keep_bytes(attempt, exchange)
        delivery.attempts += (attempt,)
        success = exchange.error is None and 200 <= exchange.status < 300
        lane.learn(success, trip.duration < PATIENCE)
        if success:
            self._history.finish(delivery, DELIVERED)
        else:
            self._failed(delivery, exchange, trip.started + trip.duration)
        self._journal.note(attempt_record(delivery, attempt))
        self.watchers.settled(delivery)
        self.drop_if_unused(lane)
        self._log_attempt(delivery, attempt)

    def _gone(self, url: str) -> None:
        """The receiver answered 410 Gone: it does not want to hear from us again."""
        try:
            self._store.unregister_all(url)
            self._log(f"{url} answered 410 Gone: unregistered")
        except Exception as error:
            self._log(f"{url} answered 410 Gone, but could not be unregistered: {error}")
        self.cancel(url)

    def _failed(self, delivery: Delivery, exchange: Exchange, now: float) -> None:
        tries = len(delivery.attempts)
        over = delivery.manual or delivery.message.event == PING or tries > len(self._schedule)
        gone = exchange.error is None and exchange.status == 410
        if over or gone:
            self._history.finish(delivery, FAILED)
        elif not self._store.registered(delivery.url, delivery.message.event):
            self._history.finish(delivery, CANCELLED)
        else:
            delay = self._schedule[tries - 1] * (1 + JITTER * (2 * self._chance() - 1))
            delay = max(delay, min(retry_after(exchange.head, now), MAX_RETRY_AFTER))
            self._postpone(delivery, now + delay)

    def _postpone(self, delivery: Delivery, due: float) -> None:
        delivery.state, delivery.due = RETRYING, due
        self._lane(delivery.url).retrying.add(delivery)
        heapq.heappush(self._due, (due, next(self._number), delivery))
        self._stir.set()

    def _end(self, delivery: Delivery, state: str, why: str) -> None:
        """End a delivery without an attempt."""
        delivery.error = why
        self._history.finish(delivery, state)
        self._journal.note(change_record(delivery, state=state, error=why))
        self.watchers.settled(delivery)

    def _log_attempt(self, delivery: Delivery, attempt: Attempt) -> None:
        outcome = attempt.error or f"{attempt.status} in {attempt.duration * 1000:.0f} ms"
        again = f", next attempt in {max(0.0, delivery.due - self._clock()):.0f} s" if delivery.due else ""
        self._log(f"{delivery.message.event} -> {delivery.url}: {outcome}, {delivery.state}{again}")

    # Time

    def start(self) -> None:
        """Start to deliver."""
        with self._lock:
            self._running = True
            self._workers.start()
        threading.Thread(target=self._oversee, name="overseer", daemon=True).start()

    def _oversee(self) -> None:
        while self._running:
            pause = 1.0
            try:
                pause = self.look_after()
                self._journal.flush()
                self._journal.compact(self._history.records)
                self._transport.close_idle()
            except Exception as error:  # a bug, or a disk that fails: deliveries must go on
                self._log(f"error: {error!r}")
            self._stir.wait(pause)
            self._stir.clear()

    def _wake_overseer(self) -> None:
        if self._dozing:
            self._dozing = False
            self._stir.set()

    def look_after(self) -> float:
        """What the overseer does each time: free the places of workers that are stuck, start retries that are due.

        Returns the seconds until there may be something to do again.
        """
        with self._lock:
            due = self._start_due()
            self._workers.call()
            self._dozing = False
            soon = self._workers.free_places()
            if soon:
                return soon
            self._dozing = True
            return min(FLUSH_SECONDS, max(0.0, due - self._clock()))

    def _start_due(self) -> float:
        """Queue the retries that are due; the time when the next one is."""
        while self._due:
            due, _, delivery = self._due[0]
            if delivery.state != RETRYING or delivery.due != due:
                heapq.heappop(self._due)  # cancelled, or attempted by hand meanwhile
                self._unplanned -= 1
            elif due <= self._clock():
                heapq.heappop(self._due)
                lane = self._lane(delivery.url)
                lane.retrying.discard(delivery)
                delivery.state, delivery.due = PENDING, 0.0
                lane.waiting.append(delivery)
                self._workers.queue(lane)
                self.watchers.changed(delivery)
            else:
                return due
        return self._clock() + 60.0

    def close(self, seconds: float = CLOSE_SECONDS) -> int:
        """Stop: attempts under way get `seconds`; returns how many deliveries wait in the journal."""
        with self._lock:
            self._running = False
            self._workers.stop()
        self.watchers.close()
        self._stir.set()
        if self._workers.under_way:
            self._log(f"Waiting up to {seconds:.0f} s for what is under way: {self._workers.under_way}")
        deadline = time.monotonic() + seconds
        while self._workers.under_way and time.monotonic() < deadline:
            time.sleep(0.01)
        self._journal.close()
        self._transport.close()
        return self._history.waiting

    def _resume(self) -> None:
        """Read the journal: remember what is finished, take up what is not."""
        for line, record in enumerate(self._journal.read(), 1):
            try:
                self._history.replay(record)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise StoreError(
                    f"{self._journal.path}, line {line}: not a record of ours; mend it, or move the file"
                ) from None
        for delivery in self._history.open_deliveries():
            lane = self._lane(delivery.url)
            if delivery.message.event == PING:
                self._end(delivery, FAILED, "interrupted by a restart")
            elif not self._store.has(delivery.url):
                self._end(delivery, CANCELLED, "unregistered")
            elif delivery.state == RETRYING:
                self._postpone(delivery, delivery.due)
            else:
                lane.waiting.append(delivery)
                self._workers.queue(lane)
        for lane in list(self._lanes.values()):
            self.drop_if_unused(lane)
