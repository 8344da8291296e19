"""Sending: endpoints, of which each has a queue and a window, and threads that have thousands of attempts under way.

    trigger -> Endpoints.add -> Sender takes, begins an exchange (client.py) -> Dispatcher.settle

An endpoint is one URL. Its window is how many attempts may be under way for it: it opens with each success and closes
to one with a failure. A sender is one thread with a selector: an attempt that hangs costs it a generator and a socket,
and no other endpoint anything. How many are under way in all is limited, so `Endpoints.take` decides for whom.

Left out on purpose: asyncio, which would do the same with more names for it.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import math
import selectors
import socket
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Generator
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from addresses import Guard
from client import Exchange, request_head
from connections import KEPT_OPEN, NextAddress, Pool, Resolver, Wait
from messages import Delivery

WINDOW = 16  # attempts under way for one endpoint at the most
PROMPT = 1.0  # seconds: an endpoint that answers within them has proven itself
BATCH = 64  # attempts begun before the selector is asked again: so none of them waits long for being read
UNDER_WAY = 4_000  # attempts under way in all, at some 10 KiB each; fewer when there are fewer file descriptors
RESERVED = 160  # file descriptors for the callers of the exposee and for its files

# For whom an attempt is begun while this share of UNDER_WAY is not reached. So endpoints that hang never take what the
# proven ones need, and endpoints with much to do never take what the others need for a first attempt.
PROVEN, FIRST, FURTHER, URGENT_PROVEN, URGENT = range(5)
SHARES = (
    1.0,  # PROVEN: its last attempt was a prompt success, and none is under way
    0.75,  # FIRST: any other that has none under way
    0.5,  # FURTHER: any that has some under way
    1.0,  # URGENT_PROVEN: a ping or a redelivery, which no window holds back
    0.75,  # URGENT: the same for any other
)


class Endpoint:
    """One URL: what waits for it, and how its receiver has behaved. Guarded by the dispatcher's lock."""

    __slots__ = (
        "url",
        "head",
        "waiting",
        "urgent",
        "retrying",
        "size",
        "under_way",
        "window",
        "proven",
        "gone",
        "queued",
    )

    def __init__(self, url: str) -> None:
        self.url, self.head = url, request_head("POST", url)
        self.waiting: deque[Delivery] = deque()
        self.urgent: deque[Delivery] = deque()  # pings and redeliveries
        self.retrying: list[tuple[float, int, Delivery]] = []  # a heap of what waits for its time (monotonic)
        self.size = 0  # bytes of the bodies in `waiting` and `retrying`
        self.under_way, self.window = 0, 1
        self.proven = False
        self.gone = False  # it answered 410: nothing more is sent until it is registered again
        self.queued: list[int | None] = [None, None]  # in which queue it stands, and in which for what is urgent

    @property
    def backlog(self) -> int:
        """How many deliveries wait for it."""
        return len(self.waiting) + len(self.retrying)

    def planned(self) -> list[Delivery]:
        """What waits for its turn or its time."""
        return [*self.waiting, *(delivery for _, _, delivery in self.retrying)]

    def kinds(self) -> tuple[int | None, int | None]:
        """The queues in which it belongs: for what waits, and for what is urgent."""
        ready = self.waiting and self.under_way < self.window and not self.gone
        kind = FURTHER if self.under_way else PROVEN if self.proven else FIRST
        urgent = URGENT_PROVEN if self.proven else URGENT
        return kind if ready else None, urgent if self.urgent else None


class Endpoints:
    """The endpoints of one sender, and which is next. Guarded by the dispatcher's lock."""

    def __init__(self, limit: int = UNDER_WAY) -> None:
        self._by_url: dict[str, Endpoint] = {}
        self._queues: tuple[OrderedDict[Endpoint, None], ...] = tuple(OrderedDict() for _ in SHARES)
        self._limits = [max(1, int(limit * share)) for share in SHARES]
        self._turn = 0
        self._due: list[tuple[float, int, Endpoint]] = []  # a heap: when which has a retry to make
        self._numbers = itertools.count()  # decide between two that are due at the same time
        self.under_way = 0

    def get(self, url: str) -> Endpoint:
        """The endpoint of a URL."""
        endpoint = self._by_url.get(url)
        if endpoint is None:
            endpoint = self._by_url[url] = Endpoint(url)
        return endpoint

    def forget(self, endpoint: Endpoint) -> None:
        """Let go of an endpoint if it has nothing to do."""
        if not (endpoint.waiting or endpoint.urgent or endpoint.retrying or endpoint.under_way):
            self._by_url.pop(endpoint.url, None)

    def add(self, delivery: Delivery) -> None:
        """Let a delivery wait for its turn."""
        endpoint = self.get(delivery.url)
        endpoint.waiting.append(delivery)
        endpoint.size += len(delivery.message.body)
        self.queue(endpoint)

    def rush(self, delivery: Delivery) -> None:
        """Let a ping or a redelivery go past the window and what waits, in turn with all other endpoints."""
        endpoint = self.get(delivery.url)
        endpoint.urgent.append(delivery)
        self.queue(endpoint)

    def postpone(self, delivery: Delivery, due: float) -> None:
        """Let a delivery wait until `due` (monotonic)."""
        endpoint = self.get(delivery.url)
        heapq.heappush(endpoint.retrying, (due, next(self._numbers), delivery))
        endpoint.size += len(delivery.message.body)
        self._plan(endpoint)

    def _plan(self, endpoint: Endpoint) -> None:
        """See that the endpoint is looked at when its first retry is due."""
        if endpoint.retrying:
            heapq.heappush(self._due, (endpoint.retrying[0][0], next(self._numbers), endpoint))

    def due(self) -> float:
        """The time when the next retry is due (monotonic), infinity without any."""
        while self._due:
            due, _, endpoint = self._due[0]
            if endpoint.retrying and endpoint.retrying[0][0] == due:
                return due
            heapq.heappop(self._due)  # it was withdrawn, or is looked at twice
        return math.inf

    def pop_due(self) -> Delivery:
        """The delivery whose retry is due next; it no longer waits for its time."""
        endpoint = heapq.heappop(self._due)[2]
        delivery = heapq.heappop(endpoint.retrying)[2]
        endpoint.size -= len(delivery.message.body)
        self._plan(endpoint)
        return delivery

    def withdraw(self, endpoint: Endpoint, gone: Collection[Delivery]) -> None:
        """Take these out of what waits for the endpoint."""
        endpoint.waiting = deque(delivery for delivery in endpoint.waiting if delivery not in gone)
        endpoint.retrying = [entry for entry in endpoint.retrying if entry[2] not in gone]
        heapq.heapify(endpoint.retrying)
        endpoint.size = sum(len(delivery.message.body) for delivery in endpoint.planned())
        self._plan(endpoint)
        self.queue(endpoint)

    def queue(self, endpoint: Endpoint) -> None:
        """Let the endpoint stand in the queues in which it belongs, at the end if it is new there."""
        for index, kind in enumerate(endpoint.kinds()):
            stands = endpoint.queued[index]
            if kind != stands:
                if stands is not None:
                    del self._queues[stands][endpoint]
                if kind is not None:
                    self._queues[kind][endpoint] = None
                endpoint.queued[index] = kind

    def take(self) -> tuple[Endpoint, Delivery] | None:
        """The next delivery to attempt: the queues take turns, and in each the endpoints."""
        for _ in SHARES:
            self._turn = kind = (self._turn + 1) % len(SHARES)
            if self._queues[kind] and self.under_way < self._limits[kind]:
                endpoint, _none = self._queues[kind].popitem(last=False)
                if kind in (URGENT, URGENT_PROVEN):
                    endpoint.queued[1] = None
                    delivery = endpoint.urgent.popleft()
                else:
                    endpoint.queued[0] = None
                    delivery = endpoint.waiting.popleft()
                    endpoint.size -= len(delivery.message.body)
                endpoint.under_way += 1
                self.under_way += 1
                self.queue(endpoint)
                return endpoint, delivery
        return None

    def finish(self, endpoint: Endpoint, success: bool | None, duration: float = 0.0) -> None:
        """An attempt is over; `success` None: it was not made."""
        endpoint.under_way -= 1
        self.under_way -= 1
        if success is not None:
            endpoint.window = min(2 * endpoint.window, WINDOW) if success else 1
            endpoint.proven = success and duration < PROMPT
        self.queue(endpoint)


Exchanging = Callable[[Pool, str, Callable[[], bytes], float], Generator[Wait, None, Exchange]]  # as client.exchange


class Outcome(NamedTuple):
    """An attempt that is over. `duration` is in seconds."""

    endpoint: Endpoint
    delivery: Delivery
    duration: float
    exchange: Exchange


class Decisions(Protocol):
    """What a sender asks of the dispatcher."""

    def claim(self, endpoints: Endpoints, count: int) -> list[tuple[Endpoint, Delivery]]:
        """What to attempt now, so many at the most; with the lock held."""

    def compose(self, endpoint: Endpoint, delivery: Delivery) -> bytes:
        """The request of an attempt; without the lock."""

    def settle(self, endpoints: Endpoints, outcomes: list[Outcome]) -> None:
        """Record the outcomes, and decide what comes next; with the lock held."""

    def report(self, error: Exception) -> None:
        """An error of ours; without the lock."""


class InFlight:
    """An attempt under way. `began` is monotonic."""

    __slots__ = ("endpoint", "delivery", "began", "generator")

    def __init__(
        self, endpoint: Endpoint, delivery: Delivery, began: float, generator: Generator[Wait, None, Exchange]
    ) -> None:
        self.endpoint, self.delivery, self.began, self.generator = endpoint, delivery, began, generator


class Sender:
    """A thread that makes the attempts of its endpoints. `lock` is the dispatcher's; `timeout` is for each attempt."""

    def __init__(
        self,
        decisions: Decisions,
        lock: threading.Condition,
        pool: Pool,
        exchanging: Exchanging,
        *,
        limit: int,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoints = Endpoints(limit)  # guarded by the lock, as is the bell's `asleep`
        self._decisions, self._lock, self._pool, self._exchanging = decisions, lock, pool, exchanging
        self._timeout, self._clock = timeout, clock
        self._bell = Bell(pool.selector)
        self._under_way: dict[InFlight, float] = {}  # their deadlines, in order, as all of them are equally far
        self._finished: list[Outcome] = []
        self._until = math.inf  # when to end, even if something is under way
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Tell of new work, or of another time; with the lock held."""
        if self._bell.asleep:
            self._bell.asleep = False
            self._bell.ring()

    def stop(self, seconds: float) -> None:
        """Begin no more attempts, and end when none is under way, after `seconds` at the latest."""
        self._until = self._clock() + seconds
        self._bell.ring()

    def join(self) -> None:
        """Wait for the end."""
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while self._until == math.inf or self._under_way and self._clock() < self._until:
            try:
                self._wait(self._begin())
            except Exception as error:  # a bug must not end all sending
                self._decisions.report(error)
        with self._lock:
            self._decisions.settle(self.endpoints, self._finished)
        for attempt in self._under_way:
            attempt.generator.close()
        self._pool.close_idle(0.0)
        self._bell.close()
        self._pool.selector.close()

    def _begin(self) -> float:
        """Settle what is over and begin what is next. Returns until when there is nothing else to begin."""
        finished, self._finished = self._finished, []
        with self._lock:
            self._decisions.settle(self.endpoints, finished)
            claimed = self._decisions.claim(self.endpoints, BATCH) if self._until == math.inf else []
            self._bell.asleep = not claimed
            until = 0.0 if claimed else min(self._until, self.endpoints.due())
        for endpoint, delivery in claimed:
            began = self._clock()
            compose = functools.partial(self._decisions.compose, endpoint, delivery)
            generator = self._exchanging(self._pool, endpoint.url, compose, began + self._timeout)
            attempt = InFlight(endpoint, delivery, began, generator)
            self._under_way[attempt] = began + self._timeout
            self._resume(attempt)
        return until

    def _wait(self, until: float) -> None:
        """Wait for sockets, names and deadlines, and resume what they belong to."""
        first = next(iter(self._under_way.values()), math.inf)
        until = min(until, first, self._pool.close_idle(), self._pool.next_address())
        for key, _ in self._pool.selector.select(None if until == math.inf else max(0.0, until - self._clock())):
            if key.data is None:
                self._bell.hear()
            elif key.data.waiter is None:
                self._pool.look(key.data)
            else:
                self._resume(key.data.waiter)
        while self._bell.resolved:
            self._resume(self._bell.resolved.popleft())
        now = self._clock()
        for waiter in self._pool.out_of_patience(now):
            self._resume(waiter, NextAddress())
        for attempt, _ in list(itertools.takewhile(lambda item: item[1] <= now, self._under_way.items())):
            self._resume(attempt, TimeoutError())

    def _resume(self, attempt: InFlight, error: Exception | None = None) -> None:
        """Let an exchange go on until it has to wait again, or is over."""
        if attempt not in self._under_way:
            return  # its name was resolved after its deadline
        try:
            wait = attempt.generator.throw(error) if error else next(attempt.generator)
        except StopIteration as end:
            outcome: Exchange = end.value
        except Exception as problem:  # an error of ours is one failed attempt, and nothing else
            self._decisions.report(problem)
            outcome = Exchange(b"", b"", 0, 0, b"", f"an error on our side: {problem!r}")
        else:
            if isinstance(wait, Future):
                wait.add_done_callback(lambda _: self._bell.ring(attempt))
            else:
                self._pool.watch(*wait, attempt)
            return
        del self._under_way[attempt]
        duration = self._clock() - attempt.began
        self._finished.append(Outcome(attempt.endpoint, attempt.delivery, duration, outcome))


class Bell:
    """Wakes a sender that sleeps in its selector, from another thread."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self.asleep = False  # whether new work has to ring; guarded by the dispatcher's lock
        self.resolved: deque[InFlight] = deque()  # attempts whose names were resolved
        selector.register(self._inside, selectors.EVENT_READ, None)

    def ring(self, attempt: InFlight | None = None) -> None:
        if attempt is not None:
            self.resolved.append(attempt)
        with contextlib.suppress(OSError):  # it is full: it has rung. It is closed: there is nobody to wake
            self._outside.send(b"!")

    def hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._inside.recv(4_096):
                pass

    def close(self) -> None:
        self._inside.close()
        self._outside.close()


def senders(
    count: int,
    decisions: Decisions,
    lock: threading.Condition,
    guard: Guard | None,
    exchanging: Exchanging,
    timeout: float,
    clock: Callable[[], float],
) -> list[Sender]:
    """So many senders, which share the resolver, and the file descriptors that this process may have."""
    resolver, spare = Resolver(), max(16, (_descriptors() - RESERVED) // count)
    idle = min(KEPT_OPEN, spare // 3)
    limit = min(UNDER_WAY // count, spare - idle)
    pools = [Pool(selectors.DefaultSelector(), resolver, guard, idle, clock) for _ in range(count)]
    return [Sender(decisions, lock, pool, exchanging, limit=limit, timeout=timeout, clock=clock) for pool in pools]


def _descriptors() -> int:
    """How many file descriptors this process may have; the soft limit is raised if it is less than we can use."""
    if sys.platform == "win32":
        return 512 + RESERVED  # what select takes there
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = UNDER_WAY + KEPT_OPEN + RESERVED
    for limit in (wanted, hard):
        if limit > soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
