"""What the integrator's programs tell people of a request to an exposee: its bytes, why it failed, what came of it."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
import urllib.request
from typing import Any

from addresses import spelled

HINTS: list[tuple[type[Exception], str]] = [
    (ConnectionRefusedError, "connection refused: start the exposee, or check --exposee"),
    (socket.gaierror, "the host name was not found: check --exposee"),
    (TimeoutError, "no answer in time: check the port and the tunnel"),
    (ConnectionError, "the connection was closed without an answer: check the port and the tunnel"),
    (http.client.IncompleteRead, "the answer was cut off in the middle of a chunk: try again, or check --exposee"),
    (http.client.HTTPException, "the answer is not HTTP/1.x: check the port"),
    (Exception, "{error}: check --exposee"),
]


def no_answer(error: Exception) -> str:
    """Why there was no answer, from what urllib has raised."""
    reason = getattr(error, "reason", error)  # of a URLError; that of an SSLError is a text
    error = reason if isinstance(reason, Exception) else error
    return next(hint for kind, hint in HINTS if isinstance(error, kind)).format(error=error)


def failure(status: int, text: str) -> str:
    """Why a request has failed, from what register_webhook.send returned."""
    try:
        text = str(json.loads(text)["detail"])  # problem+json
    except (ValueError, TypeError, KeyError, RecursionError):
        text = text[:200] if status else text
    return f"{status} {text}" if status else text


def outcomes(text: str) -> list[str]:
    """The answer to a ping, as lines: the counts, and for a local caller of the exposee a line for each URL."""
    try:
        answer = json.loads(text)
        lines = [str(answer["message"])]
        for each in answer.get("deliveries", []):
            outcome = each.get("error") or each.get("status") or "no answer yet"
            lines.append(f"{each['state']:9}  {outcome}  {each['url']}")
        return lines
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [text]


def rotated(status: int, old: bool) -> str:
    """Which secret the exposee has after it was sent a new one, by the status of its answer, 0 without any."""
    if 200 <= status < 300:
        too = ", and the old one as well for a day" if old else ""
        return f"The new secret signs now{too}: restart the receiver with the new one"
    if 400 <= status < 500:
        return "nothing has changed: the exposee has the secret that it had before"
    return "the exposee may have the new secret or not: repeat this with --rotate-secret and the new secret, to be sure"


def out_of_reach(url: str, exposee: str) -> str:
    """A warning when `url` leads back to a machine or a network that the exposee is not on; else ""."""
    here, there = (spelled(urllib.parse.urlsplit(each).hostname or "") for each in (url, exposee))
    if here in ("public", there) or there == "loopback":
        return ""
    return f"warning: the exposee is elsewhere and cannot reach {url}: give the public URL of your tunnel with --url"


def transcript(request: urllib.request.Request, response: Any, answer: bytes) -> list[Any]:
    """What terminal.show takes. urllib does not give the bytes that it writes, but these are the same."""
    fields = [f"{name.title()}: {value}" for name, value in request.header_items()]
    head = [f"{request.method} {request.selector} HTTP/1.1", "Accept-Encoding: identity", *fields, "Connection: close"]
    data = request.data if isinstance(request.data, bytes) else b""
    shown: list[Any] = [f"--- {request.method} {request.full_url}", ("> ", _message(head) + data, None)]
    if response:
        fields = [f"{name}: {value}" for name, value in response.headers.items()]
        head = [f"HTTP/{response.version / 10} {response.status} {response.reason}", *fields]
        shown.append(("< ", _message(head) + answer, None))
    return shown


def _message(head: list[str]) -> bytes:
    return "\r\n".join([*head, "", ""]).encode("latin-1", "replace")
