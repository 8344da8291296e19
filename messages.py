"""What is delivered: messages, deliveries, attempts, and how they are signed.

A *message* is one occurrence of an event, a *delivery* is one message for one URL, an *attempt* is one HTTP request
of it. Here is what they are; delivery.py decides what happens to them.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from dataclasses import dataclass, field

from client import Exchange
from strict_json import to_json

SECRET_BYTES = range(24, 65)  # of a key (Standard Webhooks)
PING = "ping"
PING_DATA = "Ping from Exposee"
MAX_ATTEMPTS = 20  # of a delivery that are remembered: the retry schedule's ten, and as many by hand

FIELDS = (
    b"Content-Type: application/json\r\n"
    b"User-Agent: Exposee/1.0\r\n"
    b"Bypass-Tunnel-Reminder: 1\r\n"  # localtunnel shows a reminder page to clients that do not send it
)

PENDING, DELIVERING, RETRYING = "pending", "delivering", "retrying"
DELIVERED, FAILED, CANCELLED = "delivered", "failed", "cancelled"
STATES = (PENDING, DELIVERING, RETRYING, DELIVERED, FAILED, CANCELLED)
OPEN = (PENDING, DELIVERING, RETRYING)


class NotPossible(Exception):
    """This cannot be done now; str() says why."""


class Full(Exception):
    """There is no room for this now; str() says what is full."""


@dataclass(slots=True, eq=False, repr=False)
class Attempt:
    """One HTTP request of a delivery. `error` is None exactly when a whole answer came."""

    time: float  # when it began (Unix)
    duration: float  # seconds
    status: int
    error: str | None
    exchange: Exchange | None = None  # the bytes that passed, until they are forgotten


@dataclass(slots=True, eq=False, repr=False)
class Message:
    """One occurrence of an event."""

    id: str
    event: str
    time: float  # Unix
    body: bytes  # what is sent
    key: str = ""  # its Idempotency-Key (history.py)
    fingerprint: str = ""  # of its body, with a key
    deliveries: list[Delivery | None] = field(default_factory=list)  # None: forgotten; none when all of them are
    count: int = 0  # deliveries in all
    left: int = 0  # deliveries that are not forgotten
    open: int = 0  # deliveries that are not over


def new_message_id() -> str:
    """`msg_` and 24 hex digits that nobody can guess."""
    return "msg_" + secrets.token_hex(12)


@dataclass(slots=True, eq=False, repr=False)
class Delivery:
    """One message for one URL."""

    message: Message
    index: int
    url: str
    state: str = PENDING
    attempts: tuple[Attempt, ...] = ()  # the newest MAX_ATTEMPTS
    count: int = 0  # attempts in all
    tries: int = 0  # retries that the schedule has planned so far
    due: float = 0.0  # when the next attempt is planned (Unix); 0.0 when none is
    error: str | None = None  # why it ended without an attempt
    confirmed: bool = False  # a ping that the receiver has pinged back
    manual: bool = False  # its next attempt, or the one under way, is a redelivery

    @property
    def id(self) -> str:
        return f"dlv_{self.message.id[4:]}_{self.index}"

    def add(self, attempt: Attempt) -> None:
        """An attempt is over."""
        self.attempts = (*self.attempts, attempt)[-MAX_ATTEMPTS:]
        self.count += 1


# --- what is sent -----------------------------------------------------------------------------------------------------


def body_of(event: str, data: bytes) -> bytes:
    """The body of an event's deliveries: exactly these two members. `data` is JSON, sent as it is spelled."""
    return b'{"event": %b, "data": %b}' % (to_json(event).encode(), data)


PING_BODY = body_of(PING, to_json(PING_DATA).encode())


def request(head: bytes, message: Message, timestamp: int, secrets: list[str]) -> bytes:
    """The request of an attempt. `head` is the part that depends on the URL only; no secrets, no signature."""
    return b"%b%bContent-Length: %d\r\nwebhook-id: %b\r\nwebhook-timestamp: %d\r\n%b\r\n%b" % (
        head,
        FIELDS,
        len(message.body),
        message.id.encode(),
        timestamp,
        sign(secrets, message.id, timestamp, message.body) if secrets else b"",
        message.body,
    )


def is_secret(value: object) -> bool:
    """Whether it is a secret of the Standard Webhooks form: whsec_ and base64 of 24 to 64 bytes."""
    if not isinstance(value, str) or not value.startswith("whsec_"):
        return False
    try:
        key = base64.b64decode(value[6:], validate=True)
    except ValueError:
        return False
    return len(key) in SECRET_BYTES and base64.b64encode(key).decode() == value[6:]  # it lets too many = pass


def sign(secrets: list[str], message_id: str, timestamp: int, body: bytes) -> bytes:
    """The two signature fields of a delivery, over exactly the bytes that are sent; the newest secret comes first.

    Standard Webhooks signs id, time and body (so that an old request cannot be replayed as a new one), with the
    decoded key, and takes a list, so that a receiver may still have an old secret; GitHub signs the body only, with the
    secret as it is written, and takes one signature.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    standard = [b"v1," + base64.b64encode(hmac.digest(key, content, "sha256")) for key in keys]
    github = hmac.digest(secrets[0].encode(), body, "sha256").hex().encode()
    return b"webhook-signature: %b\r\nX-Hub-Signature-256: sha256=%b\r\n" % (b" ".join(standard), github)
