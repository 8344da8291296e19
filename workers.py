"""Who sends: the lanes in which deliveries wait, and the threads that come for them.

Deliveries for one URL wait in a *lane*. A lane has a window, the number of attempts that may be under way in
it: it opens with each success and closes to one with a failure. A lane that has work stands in the queue for
its pace, which is what its last attempt was like:

    QUICK    over within PATIENCE, whatever the outcome: one worker is enough for any number of these
    NEW      nothing is known yet
    STEADY   answered with 2xx, but slowly: each attempt needs a thread that waits for it
    FAILING  slow, and then no answer or not 2xx
    LATE     not lanes but attempts: begun by a quick worker, and not over within PATIENCE

Each queue has a limited number of places for workers, so that the one kind cannot take the threads of the other.
And nobody sits on a place that others need: a quick worker posts a batch of requests before it looks for the first
answer, looks for PATIENCE, and leaves what is late to others; and if it, or one who tries a new lane, is stuck
for longer, in a connect say, the overseer takes its place away and gives it to the next. So a receiver that
hangs costs a thread that sleeps, and no other receiver anything.

Left out on purpose: selectors and asyncio, with which a sleeping attempt would not even cost a thread, and
every line would have to be written for it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from messages import PENDING, Delivery
from transport import Call, Exchange, Transport, request_head

PATIENCE = 0.02  # seconds: far more than a receiver on the local network needs
TRIAL = 0.01  # seconds that a new lane may take while others wait to be tried
QUICK_PLACES = 1  # a second one fights with the first for the interpreter lock: twice the time for each delivery
BATCH = 16  # requests that a quick worker posts before it looks for answers
SPARE_SECONDS = 5.0  # a worker without work ends after this
WINDOW = 16  # attempts under way in one lane at the most

QUICK, NEW, STEADY, FAILING, LATE = "quick", "new", "steady", "failing", "late"
PLACES = {QUICK: QUICK_PLACES, NEW: 24, STEADY: 300, FAILING: 250, LATE: 330}
MAX_THREADS = 350  # beside which QUICK and NEW still get theirs


class Lane:
    """What waits for one URL, and how its receiver has behaved. Guarded by the lock of the office."""

    __slots__ = ("url", "head", "urgent", "waiting", "retrying", "under_way", "window", "pace", "queued")

    def __init__(self, url: str) -> None:
        self.url, self.head = url, request_head("POST", url)
        self.urgent: list[Delivery] = []  # pings and redeliveries: past the window
        self.waiting: deque[Delivery] = deque()
        self.retrying: set[Delivery] = set()  # waits for its time, elsewhere
        self.under_way, self.window, self.pace = 0, 1, NEW
        self.queued = False

    def ready(self) -> bool:
        """Whether an attempt may begin."""
        return bool(self.urgent or self.waiting and self.under_way < self.window)

    def take(self) -> Delivery:
        """The next delivery of a lane that is ready; it is under way from now on."""
        self.under_way += 1
        return self.urgent.pop(0) if self.urgent else self.waiting.popleft()

    def learn(self, success: bool, quick: bool) -> None:
        """An attempt has ended."""
        self.under_way -= 1
        self.window = min(2 * self.window, WINDOW) if success else 1
        self.pace = QUICK if quick else STEADY if success else FAILING


class Trip:
    """An attempt under way. `started` is Unix time, `began` monotonic."""

    __slots__ = ("delivery", "lane", "request", "started", "began", "duration", "call", "exchange")

    def __init__(self, delivery: Delivery, lane: Lane) -> None:
        self.delivery, self.lane = delivery, lane
        self.request = b""
        self.started = self.began = self.duration = 0.0
        self.call: Call | None = None
        self.exchange: Exchange | None = None


class Office(Protocol):
    """What workers need of the post office."""

    def claim(self, delivery: Delivery) -> bool:
        """Whether it is still to be sent; the lock is held."""

    def drop_if_unused(self, lane: Lane) -> None:
        """Forget a lane that may have lost its last delivery; the lock is held."""

    def compose(self, delivery: Delivery, lane: Lane, timestamp: int) -> bytes:
        """The request of an attempt."""

    def before_settle(self, trip: Trip) -> None:
        """Called without the lock, before `settle`."""

    def settle(self, trip: Trip) -> None:
        """Record the outcome; the lock is held."""


class _Worker:
    __slots__ = ("place", "began", "wake")

    def __init__(self) -> None:
        self.place = ""  # the queue that it serves
        self.began = 0.0  # when it began to do what may take long (monotonic), 0.0 if it does no such thing
        self.wake = threading.Lock()
        self.wake.acquire()  # held while it sleeps: to release it is to wake the worker


class Workers:
    """The queues and the threads. Methods without a remark are to be called with `lock` held."""

    def __init__(
        self,
        lock: threading.Lock,
        office: Office,
        transport: Transport,
        *,
        timeout: float,
        places: int,
        clock: Callable[[], float],
    ) -> None:
        self._lock, self._office, self._transport = lock, office, transport
        self._timeout, self._clock = timeout, clock
        self._places = {**PLACES, QUICK: places}
        self._queues: dict[str, deque[Lane]] = {QUICK: deque(), NEW: deque(), STEADY: deque(), FAILING: deque()}
        self._late: deque[Trip] = deque()  # posted, and not answered within PATIENCE
        self._busy = dict.fromkeys(PLACES, 0)
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._coming = 0  # workers that have been woken or started, and have not picked anything yet
        self._number = itertools.count(1)
        self._running = False
        self.under_way = 0  # attempts
        self.wake_overseer: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._running = True
        self.call()

    def stop(self) -> None:
        """Begin no more attempts."""
        self._running = False
        for worker in self._idle:
            worker.wake.release()
        self._idle = []

    def queue(self, lane: Lane, first: bool = False) -> None:
        """Let the lane stand in the queue for its pace, if it is ready. When all are queued, `call`."""
        if not lane.queued and lane.ready():
            lane.queued = True
            queue = self._queues[lane.pace]
            queue.appendleft(lane) if first else queue.append(lane)

    def call(self) -> None:
        """See that somebody comes for what is queued."""
        for pace, lanes in self._queues.items():
            if lanes:
                self._summon(pace)
        if self._late:
            self._summon(LATE)

    def _summon(self, pace: str) -> None:
        """Wake or start a worker for a queue, if the queue has a place left."""
        if not (self._running or pace == LATE) or self._busy[pace] + self._coming >= self._places[pace]:
            return
        if self._idle:
            self._idle.pop().wake.release()
        elif pace in (QUICK, NEW) or len(self._workers) < MAX_THREADS:
            worker = _Worker()
            self._workers.add(worker)
            name = f"worker {next(self._number)}"
            try:
                threading.Thread(target=self._work, args=(worker,), name=name, daemon=True).start()
            except RuntimeError:  # the system has no thread left: the overseer calls again
                self._workers.discard(worker)
                return
        else:
            return
        self._coming += 1

    # What a worker does

    def _work(self, worker: _Worker) -> None:
        """Serve one queue after the other. Called without the lock, in a thread of its own."""
        with self._lock:
            self._coming -= 1
            trips = self._next(worker)
        while trips:
            if worker.place == QUICK:
                self._send_batch(worker, trips)
            else:
                self._run(worker, trips[0])
            with self._lock:
                self._busy[worker.place] -= 1
                trips = self._next(worker)

    def _next(self, worker: _Worker) -> list[Trip]:
        """Wait for work, with the lock let go of; nothing when this worker is to end."""
        worker.place = ""
        while self._running or self._late:  # at shutdown, what has been posted is read
            trips = self._pick(worker)
            if trips:
                self.call()  # each who finds work sees that what is left has somebody, too
                self.wake_overseer()
                return trips
            if not self._running:
                break
            self._idle.append(worker)
            self._lock.release()
            woken = worker.wake.acquire(timeout=SPARE_SECONDS)
            self._lock.acquire()
            if not woken and worker in self._idle:
                self._idle.remove(worker)
                break
            if not woken:
                worker.wake.acquire()  # somebody woke it at the very moment it gave up
            if self._running:
                self._coming -= 1
        self._workers.discard(worker)
        return []

    def _pick(self, worker: _Worker) -> list[Trip]:
        """Work from the first queue that has some and a place left."""
        if self._late and self._busy[LATE] < self._places[LATE]:
            worker.place = LATE
            self._busy[LATE] += 1
            return [self._late.popleft()]
        if not self._running:
            return []
        for pace, queue in self._queues.items():
            if (
                queue
                and self._busy[pace] < self._places[pace]
                and not (
                    pace == NEW and self._busy[LATE] >= self._places[LATE]  # too many hang already: no experiments
                )
            ):
                trips = self._take(queue, BATCH if pace == QUICK else 1)
                if trips:
                    worker.place = pace
                    self._busy[pace] += 1
                    return trips
        return []

    def _take(self, queue: deque[Lane], count: int) -> list[Trip]:
        """The next deliveries of the lanes that have waited longest, one of each in turn."""
        trips: list[Trip] = []
        while queue and len(trips) < count:
            lane = queue.popleft()
            lane.queued = False
            if not lane.ready():
                continue
            delivery = lane.take()
            if self._office.claim(delivery):
                trips.append(Trip(delivery, lane))
                self.under_way += 1
            else:
                lane.under_way -= 1
                self._office.drop_if_unused(lane)
            if lane.ready():
                lane.queued = True
                self._queues[lane.pace].append(lane)
        return trips

    def _give_back(self, trips: list[Trip]) -> None:
        for trip in reversed(trips):
            trip.delivery.state = PENDING
            trip.lane.under_way -= 1
            self.under_way -= 1
            trip.lane.urgent.insert(0, trip.delivery)  # it has waited before
            self.queue(trip.lane)
        self.call()

    # Sending; all of this is called without the lock

    def _send_batch(self, worker: _Worker, trips: list[Trip]) -> None:
        """Post as many as there are connections for and look for the answers, until all are sent."""
        while trips and worker.place == QUICK:
            unsent = self._post_batch(trips)
            if len(unsent) == len(trips):  # there is no connection: to open one may take its time
                self._run(worker, unsent.pop(0))
            trips = unsent
        if trips:  # it took its time, and the place is gone
            with self._lock:
                self._give_back(trips)

    def _post_batch(self, trips: list[Trip]) -> list[Trip]:
        """Post all, then look for the answers; returns those for which there was no connection."""
        until = time.monotonic() + PATIENCE
        for trip in trips:
            self._try(trip, self._post, until)
        for trip in trips:
            if trip.call:
                # who stands behind a late one is looked at late: up to PATIENCE of its duration is not its own
                self._try(trip, self._look, until)
        self._settle([trip for trip in trips if trip.exchange])
        late = [trip for trip in trips if trip.call and not trip.exchange]
        if late:
            with self._lock:
                self._late.extend(late)
                for trip in late:
                    trip.lane.window = 1  # it was quick, and may hang from now on: no more of it
                self.call()
        return [trip for trip in trips if not trip.call and not trip.exchange]

    def _post(self, trip: Trip, until: float) -> None:
        self._compose(trip)
        was_well = trip.lane.window > 1  # to connect to another one is for those who have the time
        patience = until - time.monotonic() if was_well else 0.0
        trip.call = self._transport.post(trip.lane.url, trip.request, self._timeout, patience)

    def _look(self, trip: Trip, until: float) -> Exchange | None:
        assert trip.call
        return self._transport.look(trip.call, until - time.monotonic())

    def _run(self, worker: _Worker, trip: Trip) -> None:
        """One attempt from its beginning, or from where a quick worker left it, to its end."""
        worker.began = time.monotonic()
        self._try(trip, self._send)
        worker.began = 0.0
        self._settle([trip])

    def _send(self, trip: Trip) -> Exchange:
        if trip.call:
            return self._transport.finish(trip.call)
        self._compose(trip)
        return self._transport.send(trip.lane.url, trip.request, self._timeout)

    def _compose(self, trip: Trip) -> None:
        trip.started, trip.began = self._clock(), time.monotonic()
        trip.request = self._office.compose(trip.delivery, trip.lane, int(trip.started))

    def _try(self, trip: Trip, step: Callable[..., Exchange | None], *more: float) -> None:
        """Do a step of an attempt. An error of ours is this delivery's problem, and nobody else's."""
        try:
            trip.exchange = step(trip, *more)
        except Exception as error:
            trip.exchange = Exchange(trip.request, b"", 0, 0, b"", b"", f"an error on our side: {error!r}")
        trip.duration = time.monotonic() - trip.began

    def _settle(self, trips: list[Trip]) -> None:
        for trip in trips:
            self._office.before_settle(trip)
        with self._lock:
            for trip in trips:
                self.under_way -= 1
                self._office.settle(trip)
                self.queue(trip.lane)
            self.call()

    # The overseer's part

    def free_places(self) -> float:
        """Take the places of workers that are stuck; the seconds until it is to be done again, 0.0 for never."""
        now = time.monotonic()
        late = {QUICK: now - PATIENCE, NEW: now - TRIAL}
        for worker in list(self._workers):
            room = self._busy[LATE] < self._places[LATE] or worker.place == QUICK and len(self._workers) < MAX_THREADS
            if room and 0.0 < worker.began < late.get(worker.place, 0.0):
                pace, worker.place = worker.place, LATE
                self._busy[pace] -= 1
                self._busy[LATE] += 1
                if self._queues[pace]:
                    self._summon(pace)
        return TRIAL / 2 if self._busy[NEW] else PATIENCE if self._busy[QUICK] else 0.0
