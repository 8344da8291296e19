"""The integrator's script: registers a receiver's URL at an exposee, and unregisters it.

    python register_webhook.py --events payment_received,invoice_completed
    python register_webhook.py --ping | --ping-back | --unregister

It sends one request (with --unregister, one for each event) and prints the answer. Exit code 0; 1 when the exposee
refused or could not be reached; 2 when an option made no sense.
"""

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import http.client
import json
import os
import socket
import sys
import urllib.request
from collections.abc import Sequence
from typing import Any

import options

SECONDS = 15.0  # of silence from the exposee; GET /ping waits up to 5 s for the receivers
MAX_ANSWER = 1_048_576  # bytes; the size is the exposee's claim
FIELDS = {"Bypass-Tunnel-Reminder": "1", "User-Agent": "integrator/1.0"}
OPENER = urllib.request.OpenerDirector()  # urlopen would follow redirects, open files and obey proxy variables
OPENER.add_handler(urllib.request.HTTPHandler())
OPENER.add_handler(urllib.request.HTTPSHandler())
HINTS: list[tuple[type[Exception], str]] = [
    (ConnectionRefusedError, "connection refused: start the exposee, or check --exposee"),
    (socket.gaierror, "the host name was not found: check --exposee"),
    (TimeoutError, "no answer within {SECONDS:.0f} s: check the port and the tunnel"),
    (ConnectionError, "the connection was closed without an answer: check the port and the tunnel"),
    (http.client.HTTPException, "the answer is not HTTP/1.x: check the port"),
    (Exception, "{error}: check --exposee"),
]


def calls(chosen: argparse.Namespace) -> list[tuple[str, str, str, Any]]:
    """What the options ask for: (title, method, path, body) of each request."""
    url, events = chosen.url, [name.strip() for name in chosen.events.split(",")]
    secret = {"secret": chosen.secret} if chosen.secret else {}
    if chosen.ping:
        return [("Ping", "GET", "/ping", None)]
    if chosen.ping_back:
        return [("Ping-back", "POST", "/webhooks/ping-back", {"url": url})]
    if chosen.unregister:
        return [("Unregister", "DELETE", "/webhooks/unregister", {"url": url, "event": e, **secret}) for e in events]
    return [("Register", "POST", "/webhooks/register", {"url": url, "event_types": events, **secret})]


def send(method: str, url: str, body: Any, raw: bool = False) -> tuple[int, str]:
    """The status and the text of the answer; 0 and the reason when there was none."""
    kind = {} if body is None else {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {**kind, **FIELDS}, method=method)
    response, answer = None, b""
    try:
        with OPENER.open(request, timeout=SECONDS) as response:
            answer = response.read(MAX_ANSWER + 1)
        if len(answer) > MAX_ANSWER:
            reason = f"the answer is longer than {MAX_ANSWER:,} bytes: check that an exposee listens there"
        elif response.length:
            reason = f"the answer was cut off, {response.length:,} bytes are missing: try again"
        elif 300 <= response.status < 400 and "Location" in response.headers:
            to = response.headers["Location"]
            reason = f"answered {response.status}, it leads to {to}; give that URL to --exposee"
        else:
            return response.status, answer.decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException, ValueError) as failed:
        error = getattr(failed, "reason", failed)  # of a URLError
        reason = next(hint for kind, hint in HINTS if isinstance(error, kind)).format(error=error, SECONDS=SECONDS)
    finally:
        if raw:
            show(request, data or b"", response, answer)
    return 0, f"{reason} ({url})"


def show(request: urllib.request.Request, data: bytes, response: Any, answer: bytes) -> None:
    """Print a transcript. urllib does not show the bytes it writes, but these are the same."""
    asked = [f"{request.method} {request.selector} HTTP/1.1", "Accept-Encoding: identity"]
    asked += [f"{name.title()}: {value}" for name, value in request.header_items()]
    messages = [("> ", "\r\n".join([*asked, "Connection: close", "", ""]).encode() + data, None)]
    if response:
        head = [f"HTTP/{response.version / 10} {response.status} {response.reason}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        messages.append(("< ", "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + answer, None))
    printer = terminal.Printer()
    printer.show(f"--- {request.method} {request.full_url}", *messages)
    printer.close()


def parser() -> argparse.ArgumentParser:
    parser = options.Parser("Register a webhook receiver at an exposee.")
    add, env = parser.add_argument, os.environ
    theirs, mine = "http://localhost:3000", "http://localhost:8080/webhook-receiver"
    exposee, receiver = options.web_url(theirs, "EXPOSEE_URL", query=False), options.web_url(mine, "WEBHOOK_URL")
    theirs, mine = env.get("EXPOSEE_URL") or theirs, env.get("WEBHOOK_URL") or mine
    add("--exposee", type=exposee, default=theirs, help="the exposee's URL, or EXPOSEE_URL (default: %(default)s)")
    add("--url", type=receiver, default=mine, help="the receiver's URL, or WEBHOOK_URL (default: %(default)s)")
    add("--events", default="payment_received", help="event types, comma-separated (default: %(default)s)")
    secret, hidden = options.credential("WEBHOOK_SECRET"), "to sign deliveries, or WEBHOOK_SECRET (hidden from `ps`)"
    add("--secret", type=secret, default=env.get("WEBHOOK_SECRET"), help=hidden)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--unregister", action="store_true", help="unregister the events instead")
    what.add_argument("--ping", action="store_true", help="ping all registered URLs instead")
    what.add_argument("--ping-back", action="store_true", help="confirm a ping to the URL instead")
    add("--raw", action="store_true", help="print every request and answer")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Send the requests, one after the other; 1 if one of them failed."""
    chosen, code = parser().parse_args(argv), 0
    for title, method, path, body in calls(chosen):
        status, text = send(method, chosen.exposee.rstrip("/") + path, body, chosen.raw)
        if 200 <= status < 300:
            terminal.say(f"{title} Response: {status} {text}")
            continue
        try:
            text = str(json.loads(text)["detail"])  # problem+json
        except (ValueError, TypeError, KeyError, RecursionError):
            text = text[:200]
        what = f"Unregister of {body['event']}" if title == "Unregister" else title.replace("Register", "Registration")
        terminal.say(f"{what} failed: {status} {text}" if status else f"{what} failed: {text}", stream=sys.stderr)
        code = 1
        if not status:
            break  # the next request would meet the same
    return code


if __name__ == "__main__":
    terminal.run(main)
