"""Senders: threads that have thousands of attempts under way each, as no attempt makes its thread wait.

    Dispatcher.turn says what to attempt -> exchange (client.py) yields what it waits for -> the selector resumes it
                 ^                                                                                         |
                 +---------------------------------- it is over -------------------------------------------+

An attempt is a generator: `next` runs it to its next `yield`, which says what it waits for, and `throw` raises an error
at that place. Its end raises StopIteration, whose `value` is what it has returned. An attempt that hangs costs a
generator and a socket, and no other endpoint anything.

Left out on purpose: asyncio, which would do the same and hide how.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client import Exchange
from connections import NextAddress, Pool, Wait
from messages import Delivery

if TYPE_CHECKING:
    from delivery import Dispatcher  # which imports this module

BATCH = 128  # attempts begun in one go; then answers are read, whose connections the next attempts can use

Exchanging = Callable[[Pool, str, Callable[[], bytes], float], Generator[Wait, None, Exchange]]  # as client.exchange


@dataclass(slots=True, eq=False, repr=False)
class InFlight:
    """An attempt under way; `duration` and `outcome` are there when it is over."""

    delivery: Delivery
    generator: Generator[Wait, None, Exchange]
    began: float  # monotonic
    duration: float = field(init=False)  # seconds
    outcome: Exchange = field(init=False)


class Sender(threading.Thread):
    """A thread that makes attempts, and asks the dispatcher which. `timeout` is for each attempt, in seconds."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        pool: Pool,
        exchanging: Exchanging,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="sender", daemon=True)
        self._dispatcher, self.pool, self._exchanging = dispatcher, pool, exchanging
        self._timeout, self._clock = timeout, clock
        self._bell = Bell(pool.selector)
        self._under_way: dict[InFlight, float] = {}  # their deadlines; as all have the same time, in order
        self._over: list[InFlight] = []
        self._until = math.inf  # after `stop`, when to end, even if something is under way

    def wake(self) -> None:
        """Tell of new work, or of another time."""
        self._bell.ring()

    def stop(self, seconds: float) -> None:
        """Begin no more attempts, and end when none is under way, after `seconds` at the latest."""
        self._until = self._clock() + seconds
        self._bell.ring()

    def run(self) -> None:
        """Until `stop`: begin what is next, wait for what is under way."""
        while self._until == math.inf or self._under_way and self._clock() < self._until:
            try:
                until = self._begin()
                self._wait(until)
            except Exception as error:  # a bug must not end all sending
                self._dispatcher.report(error)
        with self._dispatcher.changed:
            self._dispatcher.turn(self._over, 0)
        for attempt in self._under_way:
            attempt.generator.close()
        self.pool.close_idle(0.0)
        self._bell.close()
        self.pool.selector.close()

    def _begin(self) -> float:
        """Begin what is next. Returns when to look again: at once after a full batch, else when a retry is due."""
        over, self._over = self._over, []
        room = BATCH if self._until == math.inf else 0
        with self._dispatcher.changed:
            claimed, due = self._dispatcher.turn(over, room)
        for delivery in claimed:
            compose, began = functools.partial(self._dispatcher.compose, delivery), self._clock()
            generator = self._exchanging(self.pool, delivery.url, compose, began + self._timeout)
            attempt = InFlight(delivery, generator, began)
            self._under_way[attempt] = began + self._timeout
            self._resume(attempt)
        more = 0 < room == len(claimed) or self._over  # an attempt may be over without having waited
        return self._clock() if more else min(due, self._until)

    def _wait(self, until: float) -> None:
        """Wait for sockets, names and deadlines, and resume what they belong to."""
        # the next deadline, of an attempt or of one of its addresses
        first = min(next(iter(self._under_way.values()), math.inf), self.pool.next_address())
        until = min(until, first, self.pool.close_idle())
        for key, _ in self.pool.selector.select(None if until == math.inf else max(0.0, until - self._clock())):
            if key.data is None:  # the bell
                self._bell.hear()
            elif key.data.waiter is None:  # an idle connection
                self.pool.look(key.data)
            else:
                self._resume(key.data.waiter)
        while self._bell.resolved:
            self._resume(self._bell.resolved.popleft())
        if (now := self._clock()) >= first:
            for waiter in self.pool.out_of_patience(now):
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
            self._dispatcher.report(problem)
            attempt.outcome = Exchange(b"", b"", 0, 0, b"", f"an error on our side: {problem!r}")
        else:
            if isinstance(wait, Future):
                wait.add_done_callback(lambda _: self._bell.ring(attempt))
            else:
                self.pool.watch(*wait, attempt)
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
        self._rung = False  # once is enough until it is heard: a byte for each trigger makes them a tenth slower
        self.resolved: deque[InFlight] = deque()  # attempts whose names were resolved
        selector.register(self._inside, selectors.EVENT_READ, None)

    def ring(self, attempt: InFlight | None = None) -> None:
        if attempt is not None:
            self.resolved.append(attempt)
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # it is closed: there is nobody to wake
                self._outside.send(b"!")

    def hear(self) -> None:
        """To be called before looking for what it was rung for."""
        with contextlib.suppress(BlockingIOError):
            self._inside.recv(4_096)
        self._rung = False

    def close(self) -> None:
        self._inside.close()
        self._outside.close()
