"""What a request must be, and who may make it: each check returns the value or raises the Problem that names the field.

SECURITY.md tells people who may do what. addresses.py knows who is local; everybody else is a stranger.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from addresses import Guard, is_local, spelled, url_problem
from messages import CANCELLED, FAILED, Delivery, is_secret
from strict_json import shown
from wire import Problem, Request

STRANGER_RATE, STRANGER_BURST = 10.0, 50.0  # pings and triggers of all strangers: a second, and in a row
MAX_WAIT = 30.0  # seconds, of Prefer: wait
ABROAD = ": this exposee is not on your machine; register the public URL of your tunnel with --url"
WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d+)\"?\s*(?:[,;]|$)", re.IGNORECASE)
ISO_8601 = re.compile(  # those forms that all Pythons from 3.10 on read alike
    r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{3}(?:\d{3})?)?)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
KEY = re.compile(r'"[ !#-\[\]-~]{1,255}"|[!#-+\--\[\]-~]{1,255}')


def permit(request: Request, *carried: str | None) -> Callable[[str | None], None]:
    """A check for the store: Problem 403 if a stranger changes a URL with a secret, and carries another one or none."""

    def check(secret: str | None) -> None:
        if secret is None or is_local(request):
            return
        if not any(hmac.compare_digest(secret.encode(), it.encode()) for it in carried if it is not None):
            how = "send the same one as secret (--secret) to change its webhooks, as old_secret to replace it"
            raise Problem(403, f"this url has a secret: {how}")

    return check


class Allowance:
    """`rate` a second on average, `burst` in a row. All strangers share it: a tunnel hides them."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap, self._ahead, self._clock = 1 / rate, (burst - 1) / rate, clock
        self._lock, self._due = threading.Lock(), 0.0  # guarded by it: when the next one is due at the average rate

    def take(self) -> float:
        """0.0, or the seconds to wait for the next one."""
        with self._lock:
            now = self._clock()
            due = max(self._due, now)
            wait = max(0.0, due - now - self._ahead)
            self._due = due if wait else due + self._gap
            return wait


class Rules:
    """What the owner has chosen: the event types, the destinations that strangers may register, and the token."""

    def __init__(self, event_types: Sequence[str], guard: Guard, token: str = "") -> None:
        self.event_types, self._guard, self._token = tuple(event_types), guard, token
        self._allowance = Allowance(STRANGER_RATE, STRANGER_BURST)

    def is_owner(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(token.strip().encode("latin-1"), self._token.encode())
        return is_local(request) or (same and self._token != "" and scheme.lower() == "bearer")

    def owner_only(self, request: Request) -> None:
        if not (self._token or is_local(request)):
            raise Problem(403, "for local callers only; the owner can start the exposee with --token")
        self.check_token_if_set(request)

    def check_token_if_set(self, request: Request) -> None:
        if self._token and not self.is_owner(request):
            detail = "the token is missing or wrong, expected the field Authorization: Bearer TOKEN"
            raise Problem(401, detail, {"WWW-Authenticate": "Bearer"})

    def limit(self, request: Request) -> None:
        """Problem 429 when strangers ask too often."""
        if not is_local(request) and (seconds := self._allowance.take()):
            detail = f"strangers may ping and trigger {STRANGER_RATE:.0f} times a second; try again later"
            raise Problem(429, detail, {"Retry-After": f"{max(1, round(seconds))}"})

    def check_destination(self, request: Request, url: str) -> None:
        host = urllib.parse.urlsplit(url).hostname or ""
        if spelled(host) == "link-local":
            raise Problem(403, f"{host} is a link-local destination, which nobody may register")
        if not is_local(request) and (reason := self._guard.refuse_spelling(host)):
            raise Problem(403, reason + ABROAD * (spelled(host) == "loopback"))

    def reason(self, request: Request, url: str, reason: str) -> str:
        """Why a ping to `url` failed: a stranger learns no address, and nothing of a URL that strangers cannot have."""
        if self.is_owner(request):
            return reason
        if self._guard.refuse_spelling(urllib.parse.urlsplit(url).hostname or ""):
            return reason.partition(":")[0]
        return re.sub(r"( resolves to the [a-z-]+ address) [0-9A-Fa-f:.%]+", r"\1", reason)

    def check_event(self, value: Any, name: str = "event") -> str:
        if value not in self.event_types:
            raise Problem(422, f"{name} is {shown(value)}, expected one of {', '.join(self.event_types)}")
        return str(value)

    def check_event_types(self, value: Any) -> list[str]:
        """The known event types of a list, each once."""
        if not isinstance(value, list) or not value:
            known = ", ".join(self.event_types)
            raise Problem(422, f"event_types is {shown(value)}, expected a list with one or more of {known}")
        return list(dict.fromkeys(self.check_event(each, "an item of event_types") for each in value))


def members(request: Request, *known: str) -> dict[str, Any]:
    """The request's body, which has to be an object; other members than the known ones are ignored."""
    body = request.json()
    if not isinstance(body, dict):
        raise Problem(422, f"the body is {json.dumps(body)[:80]}, expected an object with {', '.join(known)}")
    return body


def text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Problem(422, f"{name} is {shown(value)}, expected a text")
    return value


def check_url(value: Any) -> str:
    if problem := url_problem(value):
        raise Problem(422, problem)
    return str(value)


def check_secret(value: Any, name: str = "secret") -> str | None:
    """A webhook's secret, or None. The value is never shown."""
    if value is not None and not is_secret(value):
        raise Problem(422, f"{name} is not whsec_ and base64 of 24 to 64 bytes: make one with receiver.py --new-secret")
    return value  # type: ignore[no-any-return]


def preferred_wait(request: Request) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240, 4.3), MAX_WAIT at most; None without."""
    match = WAIT.search(request.headers.get("prefer", ""))
    return min(float(match[1]), MAX_WAIT) if match else None


def idempotency_key(request: Request) -> str:
    """The value of Idempotency-Key (draft-ietf-httpapi-idempotency-key-header, 2.1); "" if there is none."""
    value = request.headers.get("idempotency-key")
    if value is not None and not KEY.fullmatch(value):
        raise Problem(400, "Idempotency-Key is malformed, expected 1 to 255 visible ASCII characters, quoted or not")
    return (value or "").strip('"')


def recovery(body: dict[str, Any]) -> Callable[[Delivery], bool]:
    """A function that says which deliveries {"state"?, "url"?, "since"?} asks for; `since`: the message's time."""
    if not body or body.keys() - {"state", "url", "since"}:
        raise Problem(422, f"the members are {shown(sorted(body))}, expected one or more of state, url, since")
    state, url = body.get("state", FAILED), text(body, "url") if "url" in body else None
    if state not in (FAILED, CANCELLED):
        raise Problem(422, f"state is {shown(state)}, expected {FAILED} or {CANCELLED}")
    since = unix_time(body["since"]) if "since" in body else 0.0
    return lambda it: it.state == state and url in (None, it.url) and it.message.time >= since


def unix_time(value: Any) -> float:
    """Unix time, or ISO 8601, which is UTC unless it says otherwise."""
    if type(value) in (int, float):
        return float(value)
    if isinstance(value, str) and ISO_8601.fullmatch(value):
        with contextlib.suppress(ValueError, OverflowError):
            found = datetime.fromisoformat(value.replace("Z", "+00:00"))  # Python 3.10 knows no Z
            return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
    raise Problem(422, f"since is {shown(value)}, expected Unix time, or ISO 8601 such as 2025-01-31T12:00:00Z")
