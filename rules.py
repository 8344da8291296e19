"""What a request must be, and who may make it: each check returns the value or raises the Problem that names the field.

What owners and strangers (callers.py) may do is decided in exposee.py, and told to people in SECURITY.md.
"""

from __future__ import annotations

import hmac
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from addresses import Guard, literal, spelled
from callers import carries, is_local
from messages import is_secret
from wire import Problem, Request

STRANGER_RATE, STRANGER_BURST = 10.0, 50.0  # pings and triggers of all strangers: a second, and in a row
MAX_EVENT_TYPES = 64  # in one request
MAX_URL = 2_048  # characters; what browsers and proxies take
MAX_WAIT = 30.0  # seconds, of Prefer: wait
ABROAD = ": this exposee is not on your machine; register the public URL of your tunnel with --url"
URL = re.compile(r"https?://(\[[0-9a-f]*:[0-9a-f:.]*(?<!\.)\]|[a-z0-9_.-]+)(?::(\d{0,5}))?(?:[/?].*)?", re.IGNORECASE)
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # RFC 1123, 2.1; and _, which some networks use
NAME = re.compile(rf"(?:{LABEL}\.)*(?!(?:\d+|0x[0-9a-f]*)$){LABEL}", re.IGNORECASE)  # it does not end in a number
WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:[,;]|$)", re.IGNORECASE)


def permit(request: Request, carried: str | None) -> Callable[[str | None], None]:
    """A function that refuses changes of a URL with a secret to strangers who do not carry it."""

    def check(secret: str | None) -> None:
        known = carried is not None and secret is not None and hmac.compare_digest(secret.encode(), carried.encode())
        if not (known or secret is None or is_local(request)):
            raise Problem(403, "this url has a secret: send the same one as secret to change its webhooks")

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
        return is_local(request) or bool(self._token) and carries(request, self._token)

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

    def check_event(self, value: Any) -> str:
        if value not in self.event_types:
            raise Problem(422, f"event is {shown(value)}, expected one of {', '.join(self.event_types)}")
        return str(value)

    def check_event_types(self, value: Any) -> list[str]:
        known = ", ".join(self.event_types)
        if not isinstance(value, list) or not value:
            raise Problem(422, f"event_types is {shown(value)}, expected a list with one or more of {known}")
        if len(value) > MAX_EVENT_TYPES:
            raise Problem(422, f"event_types has {len(value)} entries, expected {MAX_EVENT_TYPES} at most")
        for name in value:
            if name not in self.event_types:
                raise Problem(422, f"event_types has {shown(name)}, expected only {known}")
        return list(dict.fromkeys(value))


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


def shown(value: Any) -> str:
    """A value for an error's detail: as JSON, 80 characters at the most."""
    line = "missing" if value is None else json.dumps(value)
    return line if len(line) <= 80 else line[:77] + "..."


def url_problem(value: Any) -> str | None:
    """What is wrong with a webhook's URL; None if nothing is."""
    if not isinstance(value, str) or not re.match("https?://", value, re.IGNORECASE):
        return f"url is {shown(value)}, expected an absolute http or https URL"
    if len(value) > MAX_URL:
        return f"url has {len(value):,} characters, expected {MAX_URL:,} at most"
    if re.search(r"[^\x21-\x7e]", value):
        return f"url is {shown(value)}, expected visible ASCII only: percent-encode the rest, and use xn-- for hosts"
    if "#" in value:
        return "url has a fragment, which is never sent, expected none"
    if "@" in re.split("[/?]", value)[2]:
        return "url has credentials, expected none: use a secret"
    match = URL.fullmatch(value)
    host = match[1].strip("[]").removesuffix(".") if match else ""
    if match and (NAME.fullmatch(host) or literal(host)) and len(host) <= 253 and 0 < int(match[2] or 80) < 65_536:
        return None
    return f"url is {shown(value)}, expected a valid host and a port from 1 to 65535"


def check_url(value: Any) -> str:
    if problem := url_problem(value):
        raise Problem(422, problem)
    return str(value)


def check_secret(value: Any) -> str | None:
    """A webhook's secret, or None. The value is never shown."""
    if value is not None and not is_secret(value):
        raise Problem(422, "secret is not whsec_ and base64 of 24 to 64 bytes: make one with receiver.py --new-secret")
    return value  # type: ignore[no-any-return]


def preferred_wait(request: Request) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240, 4.3), MAX_WAIT at most; None without."""
    match = WAIT.search(request.headers.get("prefer", ""))
    return min(float(match[1]), MAX_WAIT) if match else None
