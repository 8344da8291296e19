"""The post office: takes messages, keeps them until every URL has its copy or has refused it for good.

    office = PostOffice(store, journal, transport)
    office.start()
    message = office.trigger("payment_received", {"amount": 100})    # on the disk when this returns

A *message* is one occurrence of an event, a *delivery* is one message for one URL, an *attempt* is one HTTP
request of it. Deliveries of one URL wait in a *lane*. A lane has a window, the number of attempts that may be
under way in it: it opens with each success and closes to one with a failure. Lanes that are ready queue up
for workers:

    trigger -> journal -> lane -> worker -> transport -> outcome -> journal
                           ^                                |
                           +------- retry schedule ---------+

No receiver slows another, because a worker waits for nobody for long: a few workers serve the lanes that
answer within PATIENCE, and an overseer moves a worker that takes longer to the slow ones, of which there may be
hundreds, and puts a fresh one in its place.

Left out on purpose: order of arrival (retries break it anyway), and exactly-once (nobody has it: receivers
recognise a repeated webhook-id).
"""

from __future__ import annotations

import base64
import functools
import heapq
import hmac
import itertools
import json
import random
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from typing import Any

from store import Journal, WebhookStore
from transport import KEPT_RESPONSE, Exchange, Transport, request_head, retry_after

PING = "ping"
PING_DATA = "Ping from Exposee"
USER_AGENT = "Exposee/1.0"

RETRY_SCHEDULE = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
# standardwebhooks.com: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: 75 hours in all
JITTER = 0.2  # of each delay, so that what failed together does not come back together
MAX_RETRY_AFTER = 86_400.0  # a receiver may postpone us, but not for ever

PATIENCE = 0.01  # seconds that a quick worker may wait: ten times what a receiver on a local network needs
WORKERS = 4  # quick ones: more only fight for the interpreter lock
MAX_SLOW = 300  # threads that wait for slow receivers
MAX_FAILING = 250  # of these, for receivers whose last attempt failed: the rest is for the slow and honest
SPARE_SECONDS = 5.0  # a slow worker without work ends after this
WINDOW = 8  # attempts under way in one lane at the most

MAX_LANE = 10_000  # deliveries that wait for one URL
MAX_WAITING = 500_000  # deliveries that wait in all
MAX_BODIES = 268_435_456  # bytes of the messages that wait
HISTORY = 10_000  # finished deliveries to remember
MAX_PAST = 16_777_216  # bytes of the messages that are remembered only
MAX_RAW = 16_777_216  # bytes of requests and responses to remember
MAX_WATCHERS = 8
MAX_WATCHED = 1_000  # changes that a slow watcher may be behind
CLOSE_SECONDS = 5.0  # what attempts under way get at shutdown

PENDING, DELIVERING, RETRYING = "pending", "delivering", "retrying"
DELIVERED, FAILED, CANCELLED = "delivered", "failed", "cancelled"
STATES = (PENDING, DELIVERING, RETRYING, DELIVERED, FAILED, CANCELLED)
OPEN = (PENDING, DELIVERING, RETRYING)
QUICK, STEADY, FAILING = "quick", "steady", "failing"  # what a lane's last attempt was like


class Full(Exception):
    """There is no room for this message now; str() says what is full."""


class NotPossible(Exception):
    """This delivery cannot be attempted now; str() says why."""


# --- what is delivered ----------------------------------------------------------------------------------------


class Attempt:
    """One HTTP request of a delivery. `time` is when it began (Unix), `duration` in seconds; `error` is None
    exactly when a whole response came. `request` and `response` are bytes, or None when they are gone."""

    __slots__ = ("time", "duration", "status", "error", "request", "response", "received")

    def __init__(self, began: float, duration: float, status: int, error: str | None) -> None:
        self.time, self.duration, self.status, self.error = began, duration, status, error
        self.request: bytes | None = None
        self.response: bytes | None = None
        self.received = 0

    def to_json(self) -> dict[str, Any]:
        gone = "the bytes of this attempt are no longer kept" if self.request is None else None
        response = self.response.decode("latin-1") if self.response is not None else None
        return {
            "time": iso(self.time),
            "duration": round(self.duration, 6),
            **({"error": self.error} if self.error else {}),
            **({"status": self.status} if self.status else {}),
            "request": self.request.decode("latin-1") if self.request is not None else None,
            "response": response,
            **({"response_bytes": self.received} if self.received > KEPT_RESPONSE else {}),
            **({"gone": gone} if gone else {}),
        }


class Message:
    """One occurrence of an event. `body` is what is sent, `head` the header fields that all deliveries share."""

    __slots__ = ("id", "event", "time", "body", "head", "deliveries", "left", "open")

    def __init__(self, message_id: str, event: str, created: float, body: bytes) -> None:
        self.id, self.event, self.time, self.body = message_id, event, created, body
        self.head = (
            "Content-Type: application/json\r\n"
            f"User-Agent: {USER_AGENT}\r\n"
            "Bypass-Tunnel-Reminder: 1\r\n"  # localtunnel shows a reminder page to whoever does not send it
            f"Content-Length: {len(body)}\r\n"
            f"webhook-id: {message_id}\r\n"
        ).encode()
        self.deliveries: list[Delivery | None] = []  # None: forgotten
        self.left = self.open = 0  # deliveries that are not forgotten, and that are not finished


class Delivery:
    """One message for one URL. `due` is when the next attempt is planned (Unix), 0.0 when none is."""

    __slots__ = ("message", "index", "url", "state", "attempts", "due", "error", "confirmed", "manual")

    def __init__(self, message: Message, index: int, url: str) -> None:
        self.message, self.index, self.url = message, index, url
        self.state = PENDING
        self.attempts: list[Attempt] = []
        self.due = 0.0
        self.error: str | None = None  # why it ended without an attempt
        self.confirmed = False  # a ping that the receiver has pinged back
        self.manual = False  # one attempt and no more: a redelivery

    @property
    def id(self) -> str:
        return f"dlv_{self.message.id[4:]}_{self.index}"

    def to_json(self, attempts: bool = False) -> dict[str, Any]:
        """What GET /deliveries shows; with `attempts`, what GET /deliveries/{id} shows."""
        last = self.attempts[-1] if self.attempts else None
        error = last.error if last else self.error
        return {
            "id": self.id,
            "message": self.message.id,
            "event": self.message.event,
            "url": self.url,
            "state": self.state,
            "time": iso(self.message.time),
            "attempt_count": len(self.attempts),
            **({"status": last.status} if last and last.status else {}),
            **({"error": error} if error else {}),
            **({"next_attempt": iso(self.due)} if self.due else {}),
            **({"confirmed": self.confirmed} if self.message.event == PING else {}),
            **({"attempts": [attempt.to_json() for attempt in list(self.attempts)]} if attempts else {}),
        }


class Lane:
    """What waits for one URL."""

    __slots__ = ("url", "head", "urgent", "waiting", "retrying", "under_way", "window", "pace", "queued")

    def __init__(self, url: str) -> None:
        self.url, self.head = url, request_head("POST", url)
        self.urgent: list[Delivery] = []  # pings and redeliveries: past the window
        self.waiting: deque[Delivery] = deque()
        self.retrying: set[Delivery] = set()
        self.under_way, self.window = 0, 1
        self.pace: str | None = None  # nothing is known yet
        self.queued = False  # whether it stands in one of the queues for workers

    def ready(self) -> bool:
        return bool(self.urgent or self.waiting and self.under_way < self.window)

    def take(self) -> Delivery | None:
        if self.urgent:
            delivery = self.urgent.pop(0)
        elif self.waiting and self.under_way < self.window:
            delivery = self.waiting.popleft()
        else:
            return None
        self.under_way += 1
        return delivery


def iso(seconds: float) -> str:
    """Unix time as ISO 8601 with milliseconds, UTC."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


# --- signatures -----------------------------------------------------------------------------------------------


@functools.lru_cache(4_096)
def signing_key(secret: str) -> bytes:
    """The bytes that a `whsec_` secret stands for."""
    return base64.b64decode(secret.removeprefix("whsec_"))


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> bytes:
    """The two signature fields of a delivery, over exactly the bytes that are sent.

    Standard Webhooks signs id, time and body (so that an old request cannot be replayed as a new one), with the
    decoded key; GitHub signs the body only, with the secret as it is written.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    standard = base64.b64encode(hmac.digest(signing_key(secret), content, "sha256"))
    github = hmac.digest(secret.encode(), body, "sha256").hex()
    return b"webhook-signature: v1," + standard + b"\r\nX-Hub-Signature-256: sha256=" + github.encode() + b"\r\n"


# --- workers --------------------------------------------------------------------------------------------------


class _Worker:
    __slots__ = ("slow", "failing", "began", "wake")

    def __init__(self, slow: bool) -> None:
        self.slow = slow
        self.failing = False  # the lane it serves is one of the failing
        self.began = 0.0  # when its attempt began (monotonic), 0.0 without one
        self.wake = threading.Lock()
        self.wake.acquire()  # held while it sleeps; to release it is to wake the worker


class Watcher:
    """The changes of deliveries as they happen, each delivery once however often it changed since."""

    def __init__(self) -> None:
        self._changed: dict[Delivery, None] = {}
        self._news = threading.Event()
        self.closed = False

    def add(self, delivery: Delivery) -> None:
        self._changed[delivery] = None
        if len(self._changed) > MAX_WATCHED:
            self.closed = True
        self._news.set()

    def close(self) -> None:
        self.closed = True
        self._news.set()

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """The deliveries that changed, as JSON; empty when nothing did within `seconds`."""
        self._news.wait(seconds)
        self._news.clear()
        changed, self._changed = self._changed, {}
        return [delivery.to_json() for delivery in list(changed)]


class PostOffice:
    """Accepts messages and delivers them; safe to use from many threads.

    `clock` is Unix time, `chance` gives numbers from 0 to 1, `log` gets a line for people now and then,
    `watch_bytes` every attempt's (url, exchange).
    """

    def __init__(
        self,
        store: WebhookStore,
        journal: Journal,
        transport: Transport,
        *,
        schedule: Iterable[float] = RETRY_SCHEDULE,
        timeout: float = 10.0,
        workers: int = WORKERS,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        log: Callable[[str], None] = lambda line: None,
        watch_bytes: Callable[[str, Exchange], None] | None = None,
    ) -> None:
        self._store, self._journal, self._transport = store, journal, transport
        self._schedule, self._timeout, self._places = tuple(schedule), timeout, workers
        self._clock, self._chance, self._log, self._watch_bytes = clock, chance, log, watch_bytes
        self._lock = threading.Lock()  # guards everything below
        self._messages: dict[str, Message] = {}  # oldest first
        self._lanes: dict[str, Lane] = {}
        self._finished: OrderedDict[Delivery, None] = OrderedDict()  # oldest first
        self._raw: deque[Attempt] = deque()  # those with bytes, oldest first
        self._raw_bytes = self._waiting = self._body_bytes = self._past_bytes = 0
        self._pings: dict[str, Delivery] = {}  # the newest of each URL
        self._due: list[tuple[float, int, Delivery]] = []  # a heap of retries
        self._number = itertools.count()  # decides between two that are due at the same time
        self._waits: dict[Delivery, list[_Wait]] = {}
        self._watchers: list[Watcher] = []
        self._queues: dict[str, deque[Lane]] = {QUICK: deque(), STEADY: deque(), FAILING: deque()}
        self._quick: set[_Worker] = set()
        self._idle: dict[bool, list[_Worker]] = {False: [], True: []}  # by whether they are slow ones
        self._slow_count = self._failing_count = self._under_way = 0
        self._stir = threading.Event()  # wakes the overseer
        self._dozing = self._running = False
        self._resume()

    # Accepting

    def trigger(self, event: str, data: Any) -> Message:
        """Accept an event for all URLs that are registered for it: on the disk when this returns.

        Full when the office is; StoreError when the disk refused.
        """
        urls = self._store.urls_for(event)
        message = Message("msg_" + secrets.token_hex(12), event, self._clock(), _body(event, data))
        # Others may pass this check at the same time, each with a message of its own: the limits are soft by that.
        if self._waiting + len(urls) > MAX_WAITING:
            raise Full(f"{self._waiting:,} deliveries wait already, {MAX_WAITING:,} are the limit")
        if self._body_bytes + len(message.body) > MAX_BODIES:
            raise Full(f"the messages that wait have {self._body_bytes:,} bytes already")
        self._journal.commit(_message_record(message, urls), lambda: self._accept(message, urls))
        return message

    def _accept(self, message: Message, urls: list[str]) -> None:
        """The message is on the disk: its deliveries may start."""
        with self._lock:
            self._add(message, urls)
            for delivery in message.deliveries:
                assert delivery is not None
                lane = self._lane(delivery.url)
                if len(lane.waiting) + len(lane.retrying) >= MAX_LANE:
                    self._end(delivery, FAILED, "backlog full")
                else:
                    lane.waiting.append(delivery)
                    self._queue(lane)
                self._changed(delivery)

    def _add(self, message: Message, urls: list[str]) -> None:
        self._messages[message.id] = message
        message.deliveries = [Delivery(message, index, url) for index, url in enumerate(urls)]
        message.left = message.open = len(urls)
        self._waiting += len(urls)
        if urls:
            self._body_bytes += len(message.body)
        else:
            del self._messages[message.id]  # for nobody: nothing to remember

    def ping(self) -> tuple[str, list[Delivery]]:
        """Ping each distinct URL past all queues: (message id, deliveries).

        A URL whose last ping is still under way is not sent another: that one's delivery is returned.
        """
        with self._lock:
            urls = self._store.urls()
            shared = [p for url in urls if (p := self._pings.get(url)) is not None and p.state in OPEN]
            busy = {delivery.url for delivery in shared}
            message = Message("msg_" + secrets.token_hex(12), PING, self._clock(), _body(PING, PING_DATA))
            fresh = [url for url in urls if url not in busy]
            if fresh:
                self._journal.note(_message_record(message, fresh))
                self._add(message, fresh)
            for delivery in (sent := [d for d in message.deliveries if d is not None]):
                self._pings[delivery.url] = delivery
                self._rush(delivery)
            return (message if fresh or not shared else shared[0].message).id, shared + sent

    def redeliver(self, delivery: Delivery) -> None:
        """One more attempt now, and no retries after it. NotPossible when one is under way or the URL is gone."""
        with self._lock:
            self._check_redeliverable(delivery)
        self._journal.commit(_record(delivery, redeliver=True), lambda: self._redeliver(delivery))

    def _redeliver(self, delivery: Delivery) -> None:
        with self._lock:
            if delivery.state in (PENDING, DELIVERING):
                return  # somebody else asked for the same at the same time
            self._reopen(delivery)
            self._rush(delivery)

    def _check_redeliverable(self, delivery: Delivery) -> None:
        if delivery.state in (PENDING, DELIVERING):
            raise NotPossible(f"an attempt of {delivery.id} is under way or about to be")
        if not self._store.has(delivery.url):
            raise NotPossible(f"{delivery.url} is no longer registered")

    def _reopen(self, delivery: Delivery) -> None:
        if delivery.state == RETRYING:
            self._lane(delivery.url).retrying.discard(delivery)
        else:
            self._finished.pop(delivery, None)
            self._waiting += 1
            message = delivery.message
            if message.open == 0:
                self._past_bytes -= len(message.body)
                self._body_bytes += len(message.body)
            message.open += 1
        delivery.state, delivery.manual, delivery.due = PENDING, True, 0.0

    def _rush(self, delivery: Delivery) -> None:
        lane = self._lane(delivery.url)
        lane.urgent.append(delivery)
        self._queue(lane, first=True)
        self._changed(delivery)

    def cancel(self, url: str, event: str | None = None) -> None:
        """The webhook was unregistered: what waits for it will not be sent (every event's, without `event`)."""
        with self._lock:
            lane = self._lanes.get(url)
            if lane is None:
                return
            for delivery in [*lane.waiting, *lane.retrying]:
                if event is None or delivery.message.event == event:
                    self._end(delivery, CANCELLED, "unregistered")
            lane.waiting = deque(d for d in lane.waiting if d.state != CANCELLED)
            lane.retrying = {d for d in lane.retrying if d.state != CANCELLED}
            self._drop_if_unused(lane)

    def _drop_if_unused(self, lane: Lane) -> None:
        if not (lane.waiting or lane.urgent or lane.retrying or lane.under_way or self._store.has(lane.url)):
            self._lanes.pop(lane.url, None)

    def confirm_ping(self, url: str) -> bool:
        """Mark the newest ping to `url` as confirmed; False when there is none."""
        with self._lock:
            delivery = self._pings.get(url)
            if delivery is None:
                return False
            delivery.confirmed = True
            self._journal.note(_record(delivery, confirmed=True))
            self._changed(delivery)
            return True

    # Asking

    def find(self, delivery_id: str) -> Delivery | None:
        """The delivery with this id, if it is remembered."""
        name, _, index = delivery_id.removeprefix("dlv_").rpartition("_")
        message = self._messages.get("msg_" + name)
        if message is None or not index.isdecimal() or len(index) > 7 or int(index) >= len(message.deliveries):
            return None
        delivery = message.deliveries[int(index)]
        return delivery if delivery is not None and delivery.id == delivery_id else None

    def deliveries(self, matches: Callable[[Delivery], bool], limit: int) -> list[Delivery]:
        """The newest `limit` deliveries that match, newest first."""
        with self._lock:
            newest = (d for message in reversed(self._messages.values()) for d in reversed(message.deliveries))
            return list(itertools.islice((d for d in newest if d is not None and matches(d)), limit))

    def counts(self) -> dict[str, int]:
        """How many deliveries wait and are under way."""
        return {"waiting": self._waiting, "under_way": self._under_way}

    def wait(self, deliveries: Iterable[Delivery | None], seconds: float) -> bool:
        """Wait for the first attempts of these; False when they take longer than `seconds`."""
        wait = _Wait()
        with self._lock:
            missing = [d for d in deliveries if d is not None and not d.attempts and d.state in OPEN]
            wait.left = len(missing)
            for delivery in missing:
                self._waits.setdefault(delivery, []).append(wait)
        try:
            return not missing or wait.done.wait(seconds)
        finally:
            with self._lock:
                for delivery in missing:
                    waits = self._waits.get(delivery, [])
                    if wait in waits:
                        waits.remove(wait)
                    if not waits:
                        self._waits.pop(delivery, None)

    def watch(self) -> Watcher:
        """A new watcher. Full when there are MAX_WATCHERS; `unwatch` it in the end."""
        with self._lock:
            self._watchers = [watcher for watcher in self._watchers if not watcher.closed]
            if len(self._watchers) >= MAX_WATCHERS:
                raise Full(f"{MAX_WATCHERS} streams are open, which is the limit")
            watcher = Watcher()
            self._watchers.append(watcher)
            return watcher

    def unwatch(self, watcher: Watcher) -> None:
        with self._lock:
            watcher.close()
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    # Lanes and workers; all of this is called with the lock held

    def _lane(self, url: str) -> Lane:
        lane = self._lanes.get(url)
        if lane is None:
            lane = self._lanes[url] = Lane(url)
        return lane

    def _queue(self, lane: Lane, first: bool = False) -> None:
        """Let the lane stand in the queue for its pace, if it has work, and see that somebody comes for it."""
        if lane.queued or not lane.ready():
            return
        unknown = QUICK if self._slow_count < MAX_SLOW else FAILING  # too many hang already: no experiments
        pace = lane.pace or unknown
        lane.queued = True
        queue = self._queues[pace]
        queue.appendleft(lane) if first else queue.append(lane)
        self._summon(slow=pace != QUICK)

    def _summon(self, slow: bool) -> None:
        if self._idle[slow]:
            self._idle[slow].pop().wake.release()
        elif not self._running:
            return
        elif (self._slow_count < MAX_SLOW) if slow else (len(self._quick) < self._places):
            worker = _Worker(slow)
            if slow:
                self._slow_count += 1
            else:
                self._quick.add(worker)
            name = f"{'slow' if slow else 'quick'} worker {next(self._number)}"
            threading.Thread(target=self._work, args=(worker,), name=name, daemon=True).start()
        if self._dozing:
            self._dozing = False
            self._stir.set()

    def _pick(self, worker: _Worker) -> Delivery | None:
        """The next delivery for this worker, by the lane that has waited longest."""
        if not worker.slow:
            return self._take_from(self._queues[QUICK])
        delivery = self._take_from(self._queues[STEADY])
        if delivery is None and self._failing_count < MAX_FAILING:
            delivery = self._take_from(self._queues[FAILING])
            worker.failing = delivery is not None
            self._failing_count += worker.failing
        return delivery

    def _take_from(self, queue: deque[Lane]) -> Delivery | None:
        while queue:
            lane = queue.popleft()
            lane.queued = False
            delivery = lane.take()
            if delivery is None:
                continue
            self._queue(lane)  # it may have more that its window allows
            if not (delivery.manual or delivery.message.event == PING):
                if not self._store.registered(delivery.url, delivery.message.event):
                    lane.under_way -= 1  # unregistered between trigger and now
                    self._end(delivery, CANCELLED, "unregistered")
                    self._changed(delivery)
                    continue
            delivery.state, delivery.due = DELIVERING, 0.0
            self._under_way += 1
            self._changed(delivery)
            return delivery
        return None

    def _work(self, worker: _Worker) -> None:
        """What a worker thread does: the outcome of the last attempt, then the next one, until it is not needed."""
        with self._lock:
            delivery = self._next(worker)
        while delivery is not None:
            worker.began = began = time.monotonic()
            started = self._clock()
            exchange = self._attempt(delivery, int(started))
            worker.began = 0.0
            duration = time.monotonic() - began
            if exchange.error is None and exchange.status == 410:
                self._gone(delivery.url)
            with self._lock:
                self._settle(delivery, exchange, started, duration)
                self._failing_count -= worker.failing
                worker.failing = False
                delivery = self._next(worker)

    def _next(self, worker: _Worker) -> Delivery | None:
        """Wait for work; None when this worker is to end. Called with the lock, which it lets go of to wait."""
        while self._running:
            delivery = self._pick(worker)
            if delivery is not None:
                return delivery
            idle = self._idle[worker.slow]
            idle.append(worker)
            self._lock.release()
            woken = worker.wake.acquire(timeout=SPARE_SECONDS if worker.slow else -1)
            self._lock.acquire()
            if not woken and worker in idle:
                idle.remove(worker)
                break
            if not woken:
                worker.wake.acquire()  # somebody woke it at the very moment it gave up
        if worker.slow:
            self._slow_count -= 1
        else:
            self._quick.discard(worker)
        return None

    # Attempts

    def _attempt(self, delivery: Delivery, timestamp: int) -> Exchange:
        message, secret = delivery.message, self._store.secret(delivery.url)
        signatures = sign(secret, message.id, timestamp, message.body) if secret else b""
        request = b"%bwebhook-timestamp: %d\r\n%b\r\n%b" % (
            self._lanes[delivery.url].head + message.head,
            timestamp,
            signatures,
            message.body,
        )
        try:
            exchange = self._transport.send(delivery.url, request, self._timeout)
        except Exception as error:  # a bug of ours: this delivery's problem, and nobody else's
            exchange = Exchange(request, b"", 0, 0, b"", b"", f"an error on our side: {error!r}")
        if self._watch_bytes:
            self._watch_bytes(delivery.url, exchange)
        return exchange

    def _gone(self, url: str) -> None:
        """The receiver answered 410 Gone: it does not want to hear from us again."""
        try:
            self._store.unregister_all(url)
            self._log(f"{url} answered 410 Gone: unregistered")
        except Exception as error:
            self._log(f"{url} answered 410 Gone, but could not be unregistered: {error}")
        self.cancel(url)

    def _settle(self, delivery: Delivery, exchange: Exchange, started: float, duration: float) -> None:
        """Record an attempt's outcome, and decide what comes next."""
        attempt = Attempt(started, duration, exchange.status, exchange.error)
        self._keep_bytes(attempt, exchange)
        delivery.attempts.append(attempt)
        self._under_way -= 1
        success = exchange.error is None and 200 <= exchange.status < 300
        lane = self._lane(delivery.url)
        lane.under_way -= 1
        lane.window = min(2 * lane.window, WINDOW) if success else 1
        lane.pace = QUICK if duration < PATIENCE else STEADY if success else FAILING
        if success:
            self._close_delivery(delivery, DELIVERED)
        else:
            self._failed(delivery, exchange, started + duration)
        self._journal.note(_attempt_record(delivery, attempt))
        self._changed(delivery)
        self._queue(lane)
        self._drop_if_unused(lane)
        for wait in self._waits.pop(delivery, ()) if self._waits else ():
            wait.count()
        self._log_attempt(delivery, attempt)

    def _failed(self, delivery: Delivery, exchange: Exchange, now: float) -> None:
        tries = len(delivery.attempts)
        over = delivery.manual or delivery.message.event == PING or tries > len(self._schedule)
        if over or exchange.status == 410:
            self._close_delivery(delivery, FAILED)
        elif not self._store.registered(delivery.url, delivery.message.event):
            self._close_delivery(delivery, CANCELLED)
        else:
            delay = self._schedule[tries - 1] * (1 + JITTER * (2 * self._chance() - 1))
            delay = max(delay, min(retry_after(exchange.head, now), MAX_RETRY_AFTER))
            self._postpone(delivery, now + delay)

    def _postpone(self, delivery: Delivery, due: float) -> None:
        delivery.state, delivery.due = RETRYING, due
        self._lane(delivery.url).retrying.add(delivery)
        heapq.heappush(self._due, (due, next(self._number), delivery))
        self._stir.set()

    def _close_delivery(self, delivery: Delivery, state: str) -> None:
        """Move a delivery to the history, and forget what is older than that reaches."""
        delivery.state, delivery.due, delivery.manual = state, 0.0, False
        self._waiting -= 1
        message = delivery.message
        message.open -= 1
        if message.open == 0:
            self._body_bytes -= len(message.body)
            self._past_bytes += len(message.body)
        self._finished[delivery] = None
        while len(self._finished) > HISTORY or self._past_bytes > MAX_PAST:
            self._forget(next(iter(self._finished)))

    def _forget(self, old: Delivery) -> None:
        self._finished.pop(old, None)
        message = old.message
        message.deliveries[old.index] = None
        message.left -= 1
        if message.left == 0:
            self._past_bytes -= len(message.body)
            del self._messages[message.id]
        if self._pings.get(old.url) is old:
            del self._pings[old.url]

    def _end(self, delivery: Delivery, state: str, why: str) -> None:
        """End a delivery without an attempt."""
        delivery.error = why
        self._close_delivery(delivery, state)
        self._journal.note(_record(delivery, state=state, error=why))
        self._changed(delivery)
        for wait in self._waits.pop(delivery, ()):
            wait.count()

    def _keep_bytes(self, attempt: Attempt, exchange: Exchange) -> None:
        attempt.request, attempt.response, attempt.received = exchange.request, exchange.response, exchange.received
        self._raw.append(attempt)
        self._raw_bytes += len(exchange.request) + len(exchange.response)
        while self._raw_bytes > MAX_RAW or len(self._raw) > HISTORY:
            old = self._raw.popleft()
            self._raw_bytes -= len(old.request or b"") + len(old.response or b"")
            old.request = old.response = None

    def _changed(self, delivery: Delivery) -> None:
        for watcher in self._watchers:
            watcher.add(delivery)

    def _log_attempt(self, delivery: Delivery, attempt: Attempt) -> None:
        outcome = attempt.error or f"{attempt.status} in {attempt.duration * 1000:.0f} ms"
        again = f", next attempt {formatdate(delivery.due, usegmt=True)}" if delivery.due else ""
        self._log(f"{delivery.message.event} -> {delivery.url}: {outcome}, {delivery.state}{again}")

    # Time

    def start(self) -> None:
        """Start to deliver."""
        with self._lock:
            self._running = True
            for pace, lanes in self._queues.items():
                for _ in range(min(len(lanes), self._places)):
                    self._summon(slow=pace != QUICK)
        self._overseer = threading.Thread(target=self._oversee, name="overseer", daemon=True)
        self._overseer.start()

    def _oversee(self) -> None:
        while self._running:
            pause = self.look_after()
            self._journal.flush()
            self._journal.compact(self._records)
            self._stir.wait(pause)
            self._stir.clear()

    def look_after(self) -> float:
        """What the overseer does each time: hand over slow workers, start retries that are due.

        Returns the seconds until there may be something to do again.
        """
        with self._lock:
            self._dozing = False
            now = time.monotonic()
            for worker in [w for w in self._quick if w.began and now - w.began > PATIENCE]:
                self._quick.discard(worker)
                worker.slow = True
                self._slow_count += 1
                if self._queues[QUICK]:
                    self._summon(slow=False)
            due = self._start_due()
            if any(worker.began for worker in self._quick):
                return PATIENCE
            self._dozing = True
            return min(60.0, max(0.0, due - self._clock()))

    def _start_due(self) -> float:
        """Queue the retries that are due; the time when the next one is."""
        while self._due:
            due, _, delivery = self._due[0]
            if delivery.state != RETRYING or delivery.due != due:
                heapq.heappop(self._due)  # cancelled, or attempted by hand meanwhile
            elif due <= self._clock():
                heapq.heappop(self._due)
                lane = self._lane(delivery.url)
                lane.retrying.discard(delivery)
                delivery.state, delivery.due = PENDING, 0.0
                lane.waiting.append(delivery)
                self._queue(lane)
                self._changed(delivery)
            else:
                return due
        return self._clock() + 60.0

    def close(self, seconds: float = CLOSE_SECONDS) -> int:
        """Stop: attempts under way get `seconds`; returns how many deliveries wait in the journal."""
        with self._lock:
            self._running = False
            for worker in [*self._idle[False], *self._idle[True]]:
                worker.wake.release()
            self._idle = {False: [], True: []}
            for watcher in self._watchers:
                watcher.close()
        self._stir.set()
        deadline = time.monotonic() + seconds
        while self._under_way and time.monotonic() < deadline:
            time.sleep(0.01)
        self._journal.close()
        self._transport.close()
        return self._waiting

    # The journal's records, out and in

    def _records(self) -> Iterator[bytes]:
        """All that is worth keeping, for a journal that starts anew."""
        with self._lock:
            messages = list(self._messages.values())
        for message in messages:
            deliveries = list(message.deliveries)
            yield _message_record(message, [d.url if d else "" for d in deliveries])
            for delivery in deliveries:
                if delivery is not None:
                    yield from _delivery_records(delivery)

    def _resume(self) -> None:
        """Read the journal: remember what is finished, take up what is not."""
        for record in self._journal.read():
            self._replay(record)
        for message in list(self._messages.values()):
            for delivery in message.deliveries:
                if delivery is None or delivery.state not in OPEN:
                    continue
                lane = self._lane(delivery.url)
                if message.event == PING:
                    self._end(delivery, FAILED, "interrupted by a restart")
                elif not self._store.has(delivery.url):
                    self._end(delivery, CANCELLED, "unregistered")
                elif delivery.state == RETRYING:
                    self._postpone(delivery, delivery.due)
                else:
                    lane.waiting.append(delivery)
                    self._queue(lane)

    def _replay(self, record: dict[str, Any]) -> None:
        if "message" in record:
            if record["message"] in self._messages:
                return
            body = record["body"]
            message = Message(record["message"], body["event"], record["time"], _body(body["event"], body["data"]))
            self._add(message, record["urls"])
            for delivery in list(message.deliveries):
                if delivery is not None and not delivery.url:  # forgotten before the journal started anew
                    self._close_delivery(delivery, DELIVERED)
                    self._forget(delivery)
                elif delivery is not None and message.event == PING:
                    self._pings[delivery.url] = delivery
            return
        delivery = self.find(record["delivery"])
        if delivery is None:
            return  # forgotten already
        if record.get("redeliver"):
            self._reopen(delivery)
        if "attempt" in record and record["attempt"] > len(delivery.attempts):
            attempt = Attempt(record["time"], record["duration"], record["status"], record["error"])
            delivery.attempts.append(attempt)
        delivery.confirmed = delivery.confirmed or record.get("confirmed", False)
        state = record.get("state")
        if state in OPEN:
            delivery.state, delivery.due = state, record.get("due", 0.0)
        elif state is not None and delivery.state in OPEN:
            delivery.error = record.get("error") if "attempt" not in record else None
            self._close_delivery(delivery, state)


class _Wait:
    """Counts first attempts down. Used with the office's lock held, but for `done`."""

    def __init__(self) -> None:
        self.left, self.done = 0, threading.Event()

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.done.set()


def _body(event: str, data: Any) -> bytes:
    return json.dumps({"event": event, "data": data}, ensure_ascii=False).encode()


def _message_record(message: Message, urls: list[str]) -> bytes:
    return b'{"message": "%b", "time": %b, "body": %b, "urls": %b}\n' % (
        message.id.encode(),
        repr(message.time).encode(),
        message.body,
        json.dumps(urls).encode(),
    )


def _attempt_record(delivery: Delivery, attempt: Attempt) -> bytes:
    # By hand: json.dumps takes five times as long, and this is written for every attempt.
    error = json.dumps(attempt.error) if attempt.error else "null"
    return (
        f'{{"delivery": "{delivery.id}", "attempt": {len(delivery.attempts)}, "time": {attempt.time!r}, '
        f'"duration": {attempt.duration:.6f}, "status": {attempt.status}, "error": {error}, '
        f'"state": "{delivery.state}", "due": {delivery.due!r}}}\n'
    ).encode()


def _record(delivery: Delivery, **changes: object) -> bytes:
    return json.dumps({"delivery": delivery.id, **changes}).encode() + b"\n"


def _delivery_records(delivery: Delivery) -> Iterator[bytes]:
    for number, attempt in enumerate(list(delivery.attempts), 1):
        yield _record(
            delivery,
            attempt=number,
            time=attempt.time,
            duration=attempt.duration,
            status=attempt.status,
            error=attempt.error,
        )
    state = PENDING if delivery.state == DELIVERING else delivery.state
    yield _record(delivery, state=state, due=delivery.due, error=delivery.error, confirmed=delivery.confirmed)
