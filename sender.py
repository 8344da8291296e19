"""Senders: threads that have thousands of attempts under way each, as no attempt makes its thread wait.

    Dispatcher.turn says what to attempt -> exchange (client.py) yields what it waits for -> the selector resumes it
                 ^                                                                                         |
                 +---------------------------------- it is over -------------------------------------------+

An attempt that hangs costs a generator and a socket, and no other endpoint anything.

Left out on purpose: asyncio, which would do the same and hide how.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Protocol

from addresses import Guard
from client import Exchange
from connections import KEPT_OPEN, NextAddress, Pool, Resolver, Wait
from endpoints import Endpoint, Endpoints
from messages import Delivery

BATCH = 64  # attempts begun at once: more would open connections for what the idle ones can take a moment later
PATIENCE = 0.005  # seconds: what has not been answered by then does not keep the next attempts from being begun
UNDER_WAY = 4_000  # attempts under way in all, at some 10 KiB each; fewer when there are fewer file descriptors
RESERVED = 160  # file descriptors for the callers of the exposee and for its files

Exchanging = Callable[[Pool, str, Callable[[], bytes], float], Generator[Wait, None, Exchange]]  # as client.exchange


class InFlight:
    """An attempt under way. `began` is monotonic; `duration` in seconds and `outcome` are there when it is over."""

    __slots__ = ("endpoint", "delivery", "generator", "began", "duration", "outcome")

    def __init__(
        self, endpoint: Endpoint, delivery: Delivery, generator: Generator[Wait, None, Exchange], began: float
    ) -> None:
        self.endpoint, self.delivery, self.generator, self.began = endpoint, delivery, generator, began
        self.duration: float
        self.outcome: Exchange


class Decisions(Protocol):
    """What a sender asks of the dispatcher."""

    def turn(self, endpoints: Endpoints, over: list[InFlight], room: int) -> list[tuple[Endpoint, Delivery]]:
        """Settle what is over, and say what to attempt now, `room` at the most; with the lock held."""

    def compose(self, endpoint: Endpoint, delivery: Delivery) -> bytes:
        """The request of an attempt; without the lock."""

    def report(self, error: Exception) -> None:
        """An error of ours; without the lock."""


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
        self._over: list[InFlight] = []
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
            self._decisions.turn(self.endpoints, self._over, 0)
        for attempt in self._under_way:
            attempt.generator.close()
        self._pool.close_idle(0.0)
        self._bell.close()
        self._pool.selector.close()

    def _begin(self) -> float:
        """Begin what is next. Returns until when there is nothing else to begin."""
        over, self._over = self._over, []
        room = self._room() if self._until == math.inf else 0
        with self._lock:
            claimed = self._decisions.turn(self.endpoints, over, room)
            is_full = len(claimed) == room
            self._bell.asleep = not is_full
            until = self._clock() + PATIENCE if is_full else self.endpoints.due()
        for endpoint, delivery in claimed:
            compose, began = functools.partial(self._decisions.compose, endpoint, delivery), self._clock()
            generator = self._exchanging(self._pool, endpoint.url, compose, began + self._timeout)
            attempt = InFlight(endpoint, delivery, generator, began)
            self._under_way[attempt] = began + self._timeout
            self._resume(attempt)
        return self._clock() if self._over else min(until, self._until)  # it may be over without having waited

    def _room(self) -> int:
        """How many attempts to begin now: none until half of a batch has been answered, or has had its time."""
        new = self._clock() + self._timeout - PATIENCE
        young = sum(1 for _ in itertools.takewhile(new.__lt__, reversed(self._under_way.values())))
        return BATCH - young if young <= BATCH // 2 else 0

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
            attempt.outcome = end.value
        except Exception as problem:  # an error of ours is one failed attempt, and nothing else
            self._decisions.report(problem)
            attempt.outcome = Exchange(b"", b"", 0, 0, b"", f"an error on our side: {problem!r}")
        else:
            if isinstance(wait, Future):
                wait.add_done_callback(lambda _: self._bell.ring(attempt))
            else:
                self._pool.watch(*wait, attempt)
            return
        del self._under_way[attempt]
        attempt.duration = self._clock() - attempt.began
        self._over.append(attempt)


class Bell:
    """Wakes a sender that sleeps in its selector, from another thread."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self.asleep = False  # whether new work has to ring
        self.resolved: deque[InFlight] = deque()  # attempts whose names were resolved
        selector.register(self._inside, selectors.EVENT_READ, None)

    def ring(self, attempt: InFlight | None = None) -> None:
        if attempt is not None:
            self.resolved.append(attempt)
        with contextlib.suppress(OSError):  # it is full: it has rung. It is closed: there is nobody to wake
            self._outside.send(b"!")

    def hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._inside.recv(4_096)

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

    wanted, (soft, hard) = UNDER_WAY + KEPT_OPEN + RESERVED, resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
