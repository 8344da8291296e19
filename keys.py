"""What Idempotency-Keys were used for, so that a trigger that is sent again makes no second message.

As draft-ietf-httpapi-idempotency-key-header has it: another body with a known key is 422, a key that is just being
accepted is 409. A key is in the journal's record of its message, so both are on the disk at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from messages import Message, NotPossible
from records import Use, message_record

LIFETIME = 86_400.0  # seconds that a key is known
MAX_KEYS = 50_000  # known at once, of 255 characters at most; beyond them the oldest are forgotten earlier


class Reused(Exception):
    """The key was used with another body; str() says so."""


def use_of(key: str, body: bytes, deliveries: int) -> Use:
    return Use(key, deliveries, hashlib.sha256(body).hexdigest())


class Keys:
    """`clock` is Unix time. Its lock is the last one that a thread takes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._used: dict[str, tuple[Message, Use]] = {}  # oldest first; the messages have neither body nor deliveries
        self._claimed: set[str] = set()  # their messages are on the way to the disk

    @contextlib.contextmanager
    def claim(self, use: Use | None) -> Iterator[Message | None]:
        """The message that a key was used for, its deliveries None. None without a key or without such a message.

        Then the key is the caller's, until the end. NotPossible while it is another's; Reused: it had another body.
        """
        if use is None:
            yield None
            return
        with self._lock:
            self._forget()
            message, known = self._used.get(use.key, (None, use))
            if use.key in self._claimed:
                raise NotPossible("a request with this Idempotency-Key is being accepted: send it again in a second")
            if known.fingerprint != use.fingerprint:
                raise Reused("this Idempotency-Key was used with another event or data: a new event needs a new key")
            if message is None:
                self._claimed.add(use.key)
        if message is not None:
            message = Message(message.id, message.event, message.time, b"")
            message.deliveries = [None] * known.deliveries
        try:
            yield message
        finally:
            with self._lock:
                self._claimed.discard(use.key)

    def keep(self, message: Message, use: Use) -> None:
        """A message with this key is on the disk."""
        with self._lock:
            self._used[use.key] = Message(message.id, message.event, message.time, b""), use
            self._forget()

    def _forget(self) -> None:
        limit = self._clock() - LIFETIME
        while self._used and (len(self._used) > MAX_KEYS or next(iter(self._used.values()))[0].time <= limit):
            del self._used[next(iter(self._used))]

    def records(self) -> Iterator[bytes]:
        """For a journal that starts anew: of messages without deliveries, as these may be forgotten."""
        with self._lock:
            self._forget()
            used = list(self._used.values())
        return (message_record(message, [], use) for message, use in used)

    def replay(self, record: dict[str, Any]) -> None:
        """Let the record of a message happen again. KeyError, TypeError, ValueError: it is not ours."""
        if "key" in record:
            self.keep(Message(record["message"], record["event"], float(record["time"]), b""), Use(*record["key"]))
