"""What Idempotency-Keys were used for, so that a trigger that is sent again makes no second message.

As draft-ietf-httpapi-idempotency-key-header has it, another body with a known key is 422. A key is in the journal's
record of its message, so both are on the disk at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable

from messages import Message

LIFETIME = 86_400.0  # seconds that a key is known
MAX_KEYS = 50_000  # known at once, of 255 characters at most; beyond them the oldest are forgotten earlier
LOCKS = 64  # keys that share one wait for each other


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
        if message is None or message.time + LIFETIME <= self._clock():
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
