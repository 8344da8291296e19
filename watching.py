"""Who is told of changes: streams of them, and requests that wait for the first attempts of their deliveries.

The post office tells of each change once, here; nobody asks again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from messages import OPEN, Delivery

MAX_WATCHERS = 8
MAX_WATCHED = 20_000  # deliveries that a watcher may be behind
WATCH_BATCH = 150  # deliveries that a watcher is told of at once


class Full(Exception):
    """There is no room for this now; str() says what is full."""


class Watcher:
    """The changes of deliveries as they happen, each delivery once however often it changed since.

    A burst comes out in batches: to write all of it down as JSON at once would slow the deliveries.
    """

    def __init__(self) -> None:
        self._changed: dict[Delivery, None] = {}  # without a lock: to add, to copy and to remove is one step each
        self._news = threading.Event()
        self.closed = False

    def add(self, delivery: Delivery) -> None:
        if self.closed:
            return
        self._changed[delivery] = None
        if len(self._changed) > MAX_WATCHED:
            self.closed = True
        if not self._news.is_set():
            self._news.set()

    def close(self) -> None:
        self.closed = True
        self._news.set()

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """WATCH_BATCH of the deliveries that changed, as JSON; empty when nothing did within `seconds`."""
        self._news.wait(seconds)
        self._news.clear()
        batch = list(self._changed)[:WATCH_BATCH]
        for delivery in batch:
            del self._changed[delivery]
        if self._changed or self.closed:
            self._news.set()
        return [delivery.to_json() for delivery in batch]


class Watchers:
    """All who want to know. Their methods take the lock of the office, but for `changed` and `settled`."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock  # guards the two below
        self._watchers: list[Watcher] = []
        self._waits: dict[Delivery, list[_Wait]] = {}

    # Called with the lock held

    def changed(self, delivery: Delivery) -> None:
        for watcher in self._watchers:
            watcher.add(delivery)

    def settled(self, delivery: Delivery) -> None:
        """An attempt is over, or there will be none."""
        self.changed(delivery)
        for wait in self._waits.pop(delivery, ()) if self._waits else ():
            wait.count()

    # Called without it

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

    def close(self) -> None:
        with self._lock:
            for watcher in self._watchers:
                watcher.close()


class _Wait:
    """Counts first attempts down. Used with the office's lock held, but for `done`."""

    def __init__(self) -> None:
        self.left, self.done = 0, threading.Event()

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.done.set()
