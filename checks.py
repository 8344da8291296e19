"""What a request has to look like: each check returns the value or raises the Problem that names the field.

A detail says what was wrong, what was expected and, where it is not obvious, what to do. Values are shown as
JSON and cut; a secret is never shown.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import urllib.parse
from typing import Any

from wire import Problem, Request

SECRET_BYTES = range(24, 65)  # what the Standard Webhooks specification allows a key to have
MAX_URL = 2_048  # characters; what browsers and proxies take
MAX_WAIT = 30.0  # seconds, of Prefer: wait
WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:[,;]|$)", re.I)


def members(request: Request, *known: str) -> dict[str, Any]:
    """The request's body, which has to be an object; other members than the known ones are ignored."""
    body = request.json()
    if not isinstance(body, dict):
        was = "null" if body is None else shown(body)
        raise Problem(422, f"the body is {was}, expected an object with {', '.join(known)}")
    return body


def text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Problem(422, f"{name} is {shown(value)}, expected a text")
    return value


def shown(value: Any) -> str:
    """A value for an error's detail: as JSON, short."""
    if value is None:
        return "missing"
    line = json.dumps(value)
    return line if len(line) <= 80 else line[:77] + "..."


def url_problem(value: Any) -> str | None:
    """What is wrong with a webhook's URL; None if nothing is."""
    if not isinstance(value, str):
        return f"url is {shown(value)}, expected an absolute http or https URL"
    if len(value) > MAX_URL:
        return f"url has {len(value):,} characters, expected {MAX_URL:,} at most"
    if re.search(r"[^\x21-\x7e]", value):
        return f"url is {shown(value)}, expected visible ASCII only: percent-encode the rest, and use xn-- for hosts"
    try:
        parts = urllib.parse.urlsplit(value)
        port = parts.port  # raises for what is not a port
    except ValueError:
        return f"url is {shown(value)}, expected a valid host and a port from 1 to 65535"
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9_.-]{1,253}|[0-9a-f:.]+", host) or port == 0:
        return f"url is {shown(value)}, expected an absolute http or https URL"
    if "@" in parts.netloc:
        return "url has credentials, expected none: use a secret"
    if "#" in value:
        return "url has a fragment, which is never sent, expected none"
    return None


def check_url(value: Any) -> str:
    problem = url_problem(value)
    if problem:
        raise Problem(422, problem)
    return str(value)


def check_secret(value: Any) -> str | None:
    """A secret of the Standard Webhooks form. The value itself is never shown."""
    if value is None:
        return None
    try:
        good = value.startswith("whsec_") and len(base64.b64decode(value[6:], validate=True)) in SECRET_BYTES
    except (AttributeError, ValueError, binascii.Error):
        good = False
    if not good:
        raise Problem(422, "secret is not whsec_ and base64 of 24 to 64 bytes: make one with receiver.py --new-secret")
    return str(value)


def preferred_wait(request: Request) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240, 4.3), MAX_WAIT at most; None without."""
    match = WAIT.search(request.headers.get("prefer", ""))
    return min(float(match[1]), MAX_WAIT) if match else None
