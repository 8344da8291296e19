"""Whose turn it is, and when: endpoints with what waits for them, the policy that keeps them apart, the retry schedule.

An endpoint is one URL. Its window is how many attempts may be under way for it: it opens with each success and closes
to one with a failure. Pings and redeliveries go past the window and past what waits for the URL, and their endpoint
takes turns with all others.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from client import fields_of, request_head
from connections import KEPT_OPEN
from messages import Delivery

UNDER_WAY = 4_000  # attempts under way in all, at some 10 KiB each; fewer when there are fewer file descriptors
RESERVED = 160  # file descriptors for the callers of the exposee and for its files
NEVER = math.inf  # when an orphan is due: a delivery that waits, and whose webhook is not registered
WINDOW = 16  # attempts under way for one endpoint at the most
PROMPT = 1.0  # seconds: an endpoint that answers within them has proven itself
RETRY_SCHEDULE = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
# standardwebhooks.com: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: 75 hours in all
JITTER = 0.2  # of each delay, so that what failed together does not come back together
MAX_RETRY_AFTER = 86_400.0  # a receiver may postpone us, but not for ever

# The kinds of attempts. One begins only while fewer are under way, of all kinds, than its share of the limit. So
# endpoints that hang never take what the proven ones need, and endpoints with much to do never what others need for
# their first.
PROVEN, FIRST, FURTHER = range(3)
SHARES = (
    1.00,  # PROVEN: the endpoint's last attempt was a prompt success, and none is under way or this one is urgent
    0.75,  # FIRST: the same of any other endpoint
    0.50,  # FURTHER: any endpoint that has some under way
)
TURNS = ((FIRST, FURTHER, PROVEN), (FURTHER, PROVEN, FIRST), (PROVEN, FIRST, FURTHER))  # where to look after each kind


Planned = tuple[float, int, str]  # when a retry is due (monotonic), a number that decides between equals, its URL


class Endpoint:
    """One URL: what waits for it, and how its receiver has behaved. Guarded by the dispatcher's lock."""

    __slots__ = ("url", "head", "urgent", "waiting", "retrying", "size", "under_way", "window", "proven", "kind")

    def __init__(self, url: str) -> None:
        self.url, self.head = url, request_head("POST", url)
        self.urgent: list[Delivery] = []  # pings and redeliveries
        self.waiting: list[Delivery] = []  # up to thousands; but a deque of none takes ten times as much memory
        self.retrying: dict[Planned, Delivery] = {}
        self.size = 0  # bytes of the bodies in all three
        self.under_way: list[Delivery] = []
        self.window, self.proven = 1, False
        self.kind: int | None = None  # the queue in which it stands

    def planned(self) -> list[Delivery]:
        """What waits for its turn or its time."""
        return [*self.urgent, *self.waiting, *self.retrying.values()]


class Endpoints:
    """All endpoints, for which at most `limit` attempts are under way. Guarded by the dispatcher's lock."""

    def __init__(self, limit: int) -> None:
        self.by_url: dict[str, Endpoint] = {}
        self._queues: tuple[OrderedDict[Endpoint, None], ...] = tuple(OrderedDict() for _ in SHARES)
        self._limits = [max(1, int(limit * share)) for share in SHARES]
        self._turn = 0
        self._due: list[Planned] = []  # a heap of all retries, and of some that were withdrawn
        self._most = 64  # how many these may be before the withdrawn ones are taken out
        self._numbers = itertools.count()
        self.under_way = 0

    def get(self, url: str) -> Endpoint:
        endpoint = self.by_url.get(url)
        if endpoint is None:
            endpoint = self.by_url[url] = Endpoint(url)
        return endpoint

    def has_room(self, url: str, count: int, size: int) -> bool:
        """Whether one more delivery may wait for a URL, for which so many may wait, with so many bytes."""
        endpoint = self.get(url)
        backlog = len(endpoint.waiting) + len(endpoint.retrying)
        return not backlog or backlog < count and endpoint.size < size

    def add(self, delivery: Delivery, *, urgent: bool = False) -> None:
        """Let a delivery wait for its turn; a ping or a redelivery is urgent."""
        endpoint = self.get(delivery.url)
        (endpoint.urgent if urgent else endpoint.waiting).append(delivery)
        endpoint.size += len(delivery.message.body)
        self._queue(endpoint)

    def _queue(self, endpoint: Endpoint) -> None:
        """Let an endpoint stand in the queue in which it belongs, at the end if it comes from another."""
        kind = None
        if endpoint.urgent or endpoint.waiting and not endpoint.under_way:
            kind = PROVEN if endpoint.proven else FIRST
        elif endpoint.waiting and len(endpoint.under_way) < endpoint.window:
            kind = FURTHER
        if kind != endpoint.kind:
            if endpoint.kind is not None:
                del self._queues[endpoint.kind][endpoint]
            if kind is not None:
                self._queues[kind][endpoint] = None
            endpoint.kind = kind

    def take(self) -> Delivery | None:
        """The next delivery to attempt, which is under way from now on: the queues take turns, and their endpoints."""
        for kind in TURNS[self._turn]:
            if self._queues[kind] and self.under_way < self._limits[kind]:
                self._turn = kind
                endpoint, _ = self._queues[kind].popitem(last=False)
                endpoint.kind = None
                delivery = (endpoint.urgent or endpoint.waiting).pop(0)
                endpoint.size -= len(delivery.message.body)
                endpoint.under_way.append(delivery)
                self.under_way += 1
                self._queue(endpoint)
                return delivery
        return None

    def finish(self, delivery: Delivery, success: bool, duration: float) -> None:
        """An attempt is over."""
        endpoint = self.by_url[delivery.url]
        self.under_way -= 1
        endpoint.under_way.remove(delivery)
        endpoint.window = min(2 * endpoint.window, WINDOW) if success else 1
        endpoint.proven = success and duration < PROMPT
        self._queue(endpoint)
        if not endpoint.proven:
            self._forget(endpoint)

    def _forget(self, endpoint: Endpoint) -> None:
        """Let go of an endpoint that has nothing to do; a new one begins unproven, with a window of one."""
        if not (endpoint.urgent or endpoint.waiting or endpoint.retrying or endpoint.under_way):
            self.by_url.pop(endpoint.url, None)

    # Retries

    def postpone(self, delivery: Delivery, due: float) -> None:
        """Let a delivery wait until `due` (monotonic)."""
        endpoint, planned = self.get(delivery.url), (due, next(self._numbers), delivery.url)
        endpoint.retrying[planned] = delivery
        endpoint.size += len(delivery.message.body)
        heapq.heappush(self._due, planned)

    def _is_planned(self, planned: Planned) -> bool:
        endpoint = self.by_url.get(planned[2])
        return endpoint is not None and planned in endpoint.retrying

    def due(self) -> float:
        """The time when the next retry is due (monotonic), infinity without any."""
        while self._due and not self._is_planned(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else math.inf

    def pop_due(self) -> Delivery:
        """The delivery that is due next; it waits no longer. To be called right after `due`."""
        planned = heapq.heappop(self._due)
        endpoint = self.by_url[planned[2]]
        delivery = endpoint.retrying.pop(planned)
        endpoint.size -= len(delivery.message.body)
        return delivery

    def pop_orphans(self, url: str) -> list[Delivery]:
        """What was postponed to NEVER, in that order; it waits no longer."""
        retrying = self.by_url[url].retrying if url in self.by_url else {}
        orphans = [delivery for (due, *_), delivery in retrying.items() if due == NEVER]
        if orphans:
            self.withdraw(url, set(orphans))
        return orphans

    def withdraw(self, url: str, gone: Collection[Delivery]) -> None:
        """Take these out of what waits for a URL."""
        endpoint = self.by_url[url]
        endpoint.urgent = [delivery for delivery in endpoint.urgent if delivery not in gone]
        endpoint.waiting = [delivery for delivery in endpoint.waiting if delivery not in gone]
        endpoint.retrying = {planned: it for planned, it in endpoint.retrying.items() if it not in gone}
        endpoint.size = sum(len(delivery.message.body) for delivery in endpoint.planned())
        self._queue(endpoint)
        self._forget(endpoint)
        if len(self._due) > self._most:
            self._due = list(filter(self._is_planned, self._due))
            heapq.heapify(self._due)
            self._most = 2 * len(self._due) + 64


class Schedule(NamedTuple):
    """When the next attempt is made. Planned by the monotonic clock: a step of the other one changes nothing."""

    delays: tuple[float, ...]
    chance: Callable[[], float]
    clock: Callable[[], float]
    monotonic: Callable[[], float]

    def delay(self, tries: int, head: bytes) -> float:
        """Seconds until the next attempt after `tries` retries; `head` is the answer's, which may postpone it."""
        delay = self.delays[tries] * (1 + JITTER * (2 * self.chance() - 1))
        return max(delay, min(retry_after(head, self.clock()), MAX_RETRY_AFTER))

    def left(self, due: float) -> float:
        """Seconds until `due` (Unix), which a journal has from a clock that may have been wrong."""
        longest = max(MAX_RETRY_AFTER, (1 + JITTER) * max(self.delays, default=0.0))
        return min(max(0.0, due - self.clock()), longest)


def retry_after(head: bytes, now: float) -> float:
    """The seconds that a Retry-After field asks for at `now` (RFC 9110, 10.2.3: seconds or a date); 0.0 without one."""
    text = (fields_of(head).get(b"retry-after") or [b""])[0].decode("latin-1")
    try:
        if text.isascii() and text.isdigit():
            return float(text.lstrip("0")[:10] or 0)
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0  # a date that is none: as if the field were absent


def limits() -> tuple[int, int]:
    """How many attempts under way, and idle connections, the file descriptors of this process are enough for.

    The soft limit is raised if it is less than can be used: macOS begins with 256. Windows' select takes 512.
    """
    wanted = limit = UNDER_WAY + KEPT_OPEN + RESERVED
    if sys.platform == "win32":
        limit = 512 + RESERVED
    else:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted:
            with contextlib.suppress(OSError, ValueError):
                soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    spare = max(16, min(limit, wanted) - RESERVED)
    idle = min(KEPT_OPEN, spare // 3)
    return min(UNDER_WAY, spare - idle), idle
