"""What the dispatcher knows of messages: all that wait, the newest of those that are over, and Idempotency-Keys.

It is in memory only and within limits; after a restart it is made anew from the journal's records. At the end stands
how people see it, as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from client import KEPT_RESPONSE
from journal import message_of, restore
from messages import OPEN, PENDING, PING, Attempt, Delivery, Message

KEY_SECONDS = 86_400.0  # that an Idempotency-Key is known
MAX_KEYS = 50_000  # known at once, of 255 characters at most; beyond them the oldest are forgotten earlier
LOCKS = 64  # keys that share one wait for each other
MAX_OVER = 10_000  # deliveries that are over and remembered
MAX_PAST = 16_777_216  # bytes of the messages that are remembered only
MAX_RAW = 16_777_216  # bytes of requests and responses to remember
RAW_ATTEMPTS = 1_000  # attempts whose bytes are remembered, if they are short
CHANGES = 20_000  # changes that a subscriber may be behind


class History:
    """Messages and their deliveries. The condition's lock guards them; plain counters may be read without it."""

    def __init__(self, condition: threading.Condition) -> None:
        self._condition, self._closed = condition, False
        self.waiting = 0  # deliveries that are not over
        self.bodies = self._all_bodies = 0  # bytes of the bodies: of messages with such deliveries, and of all
        self.version = 0  # how many changes there have been
        self._messages: dict[str, Message] = {}  # oldest first
        self._over: OrderedDict[Delivery, None] = OrderedDict()  # in the order in which they ended
        self.pings: dict[str, Delivery] = {}  # the newest of each URL
        self._raw: deque[tuple[Attempt, int]] = deque()  # whose bytes are remembered, and how many, oldest first
        self._raw_bytes = 0
        self._changes: deque[Delivery] = deque(maxlen=CHANGES)  # the newest last

    def add(self, message: Message, urls: list[str]) -> None:
        """A new message, with a delivery for each URL. An empty URL stands for a delivery that is forgotten."""
        message.count = message.count or len(urls)
        message.deliveries = [Delivery(message, index, url) if url else None for index, url in enumerate(urls)]
        deliveries = list(filter(None, message.deliveries))
        if not deliveries:
            message.body = b""
            return  # nothing to remember
        message.left = len(deliveries)
        self._messages[message.id] = message
        self._all_bodies += len(message.body)
        self._wait(message, len(deliveries))
        if message.event == PING:
            self.pings.update((delivery.url, delivery) for delivery in deliveries)

    def _wait(self, message: Message, deliveries: int) -> None:
        """So many more deliveries of a message wait, or fewer."""
        if message.open == 0:
            self.bodies += len(message.body)
        message.open += deliveries
        self.waiting += deliveries
        if message.open == 0:
            self.bodies -= len(message.body)

    def finish(self, delivery: Delivery, state: str) -> None:
        """A delivery is over; what is older than the limits allow is forgotten."""
        self._end(delivery, state)
        self.trim()

    def _end(self, delivery: Delivery, state: str) -> None:
        delivery.state, delivery.due, delivery.manual = state, 0.0, False
        self._over[delivery] = None
        self._wait(delivery.message, -1)

    def reopen(self, delivery: Delivery) -> None:
        """A delivery that is over is to be attempted once more."""
        delivery.state = PENDING
        del self._over[delivery]
        self._wait(delivery.message, 1)

    def trim(self) -> None:
        """Forget the oldest of what is over, until the rest is within the limits."""
        while len(self._over) > MAX_OVER or self._all_bodies - self.bodies > MAX_PAST:
            old, _ = self._over.popitem(last=False)
            message = old.message
            message.deliveries[old.index] = None
            message.left -= 1
            if message.left == 0:
                self._all_bodies -= len(message.body)
                message.body, message.deliveries = b"", []  # `_changes` and Keys may still know the message
                del self._messages[message.id]
            if self.pings.get(old.url) is old:
                del self.pings[old.url]

    def keep_bytes(self, attempt: Attempt) -> None:
        """Remember the bytes that passed in an attempt, at the expense of the oldest ones."""
        exchange = attempt.exchange
        size = len(exchange.request) + len(exchange.response) if exchange else 0
        self._raw.append((attempt, size))
        self._raw_bytes += size
        while self._raw_bytes > MAX_RAW or len(self._raw) > RAW_ATTEMPTS:
            old, size = self._raw.popleft()
            self._raw_bytes -= size
            old.exchange = None

    def changed(self, delivery: Delivery) -> None:
        """Something about a delivery has changed."""
        self._changes.append(delivery)
        self.version += 1

    # Asking: `newest`, `wait`, `changes` and `close` take the lock; `find` can do without

    def newest(self, matches: Callable[[Delivery], bool], limit: int, message_id: str = "") -> list[Delivery]:
        """The newest `limit` deliveries that match, newest first; of one message, if its id is given."""
        with self._condition:
            one = [self._messages[message_id]] if message_id in self._messages else []
            messages = one if message_id else reversed(self._messages.values())
            found = (d for message in messages for d in reversed(message.deliveries) if d and matches(d))
            return list(itertools.islice(found, limit))

    def wait(self, deliveries: Iterable[Delivery], seconds: float) -> bool:
        """Wait for the first attempts of these, and for pings to be over, as a redelivered one is shared as well.

        False when they take longer than `seconds`, or after `close`.
        """
        left = deque(deliveries)

        def is_over() -> bool:
            while left and (left[0].state not in OPEN or left[0].attempts and left[0].message.event != PING):
                left.popleft()
            return not left

        with self._condition:
            self._condition.wait_for(lambda: is_over() or self._closed, seconds)
            return not left

    def changes(self, since: int, limit: int, seconds: float) -> tuple[int, list[Delivery]] | None:
        """The deliveries of the first `limit` changes since a version, each once, and the version after these.

        Waits up to `seconds` for a change. None when there were more than are remembered, and after `close`.
        """
        with self._condition:
            self._condition.wait_for(lambda: self.version != since or self._closed, seconds)
            start = len(self._changes) - (self.version - since)
            if start < 0 or self._closed:
                return None
            found = list(itertools.islice(self._changes, start, start + limit))
            return since + len(found), list(dict.fromkeys(found))

    def close(self) -> None:
        """End what `wait` and `changes` are called for."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def find(self, delivery_id: str) -> Delivery | None:
        """The delivery with this id, if it is remembered."""
        name, _, index = delivery_id.removeprefix("dlv_").rpartition("_")
        try:
            delivery = self._messages["msg_" + name].deliveries[int(index)]
        except (KeyError, ValueError, IndexError):
            return None
        return delivery if delivery and delivery.id == delivery_id else None

    def open_deliveries(self) -> Iterator[Delivery]:
        """Those that are not over; they may end meanwhile."""
        for message in list(self._messages.values()):
            yield from [d for d in message.deliveries if d and d.state in OPEN]

    # The journal's records, out and in

    def snapshot(self) -> tuple[list[Message], list[Delivery]]:
        """The messages, oldest first, and the deliveries that are over, in the order in which they ended."""
        return list(self._messages.values()), list(self._over)

    def replay(self, record: dict[str, Any]) -> Message | None:
        """Let what a record tells happen again; returns the message, if it is of one that is new.

        KeyError, TypeError, ValueError, AttributeError: it is not ours.
        """
        if "message" in record:
            if record["message"] not in self._messages:
                message = message_of(record)
                self.add(message, record["urls"])
                return message
        elif delivery := self.find(record["delivery"]):  # else it is forgotten
            if delivery in self._over:
                self.reopen(delivery)
            restore(delivery, record)
            if delivery.state not in OPEN:
                self._end(delivery, delivery.state)
        return None


# --- Idempotency-Keys -------------------------------------------------------------------------------------------------


class Reused(Exception):
    """The key was used with another body; str() says so."""


def fingerprint(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Keys:
    """The messages that were triggered with a key. `clock` is Unix time.

    Once deliveries have started, only the thread that has the journal's turn calls `keep` and `forgotten`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._messages: dict[str, Message] = {}  # oldest first
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def accepting(self, key: str) -> contextlib.AbstractContextManager[object]:
        """To be held from `find` to `keep`: a trigger that is repeated meanwhile waits for what comes of the first."""
        return self._locks[hash(key) % LOCKS] if key else contextlib.nullcontext()

    def find(self, key: str, body: bytes) -> Message | None:
        """The message that a key was used for within a day. Reused: it had another body."""
        message = self._messages.get(key)
        if message is None or message.time + KEY_SECONDS <= self._clock():
            return None
        if message.fingerprint != fingerprint(body):
            raise Reused("this Idempotency-Key was used with another event or data: a new event needs a new key")
        return message

    def keep(self, message: Message) -> None:
        """A message with a key is on the disk."""
        if message.key in self._messages:
            self._forget(message.key)
        self._messages[message.key] = message
        if len(self._messages) > MAX_KEYS:
            self._forget(next(iter(self._messages)))

    def _forget(self, key: str) -> None:
        self._messages.pop(key).key = ""

    def forgotten(self) -> list[Message]:
        """Those whose deliveries are forgotten: for a journal that starts anew."""
        return [message for message in self._messages.values() if not message.left]


# --- for people -------------------------------------------------------------------------------------------------------


def delivery_json(delivery: Delivery, attempts: bool = False) -> dict[str, Any]:
    """What GET /deliveries shows; with `attempts`, what GET /deliveries/{id} shows."""
    last = delivery.attempts[-1] if delivery.attempts else None
    error, due = delivery.error or (last.error if last else None), delivery.due  # another thread may change it
    return {
        "id": delivery.id,
        "message": delivery.message.id,
        "event": delivery.message.event,
        "url": delivery.url,
        "state": delivery.state,
        "time": iso(delivery.message.time),
        "attempt_count": delivery.count,
        **({"status": last.status} if last and last.status else {}),
        **({"error": error} if error else {}),
        **({"duration": round(last.duration, 6)} if last else {}),  # seconds, of the last attempt
        **({"next_attempt": iso(due)} if due else {}),
        **({"confirmed": delivery.confirmed} if delivery.message.event == PING else {}),
        **({"body": delivery.message.body.decode()} if attempts else {}),
        **({"attempts": [attempt_json(attempt) for attempt in delivery.attempts]} if attempts else {}),
    }


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    exchange = attempt.exchange  # another thread may let go of it meanwhile
    received = exchange.received if exchange else 0
    return {
        "time": iso(attempt.time),
        "duration": round(attempt.duration, 6),
        **({"error": attempt.error} if attempt.error else {}),
        **({"status": attempt.status} if attempt.status else {}),
        "request": exchange.request.decode("latin-1") if exchange else None,
        "response": exchange.response.decode("latin-1") if exchange else None,
        **({"response_bytes": received} if received > KEPT_RESPONSE else {}),
        **({} if exchange else {"gone": "the bytes of this attempt are no longer kept"}),
    }


def iso(seconds: float) -> str:
    """Unix time as ISO 8601, UTC, with microseconds: sorted by it, the messages of a burst are in their order."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1_000_000):06d}Z"
