"""The integrator's script: registers a receiver's URL at an exposee, and unregisters it.

    python register_webhook.py --events payment_received,invoice_completed
    python register_webhook.py --ping | --ping-back | --unregister | --rotate-secret

It sends one request (with --unregister, one for each event) and prints the answer. Exit code 0; 1 when the exposee
refused or could not be reached, or when no ping was delivered; 2 when an option made no sense.
"""

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import base64
import http.client
import json
import os
import re
import secrets
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

import options
from addresses import spelled

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
    if chosen.rotate_secret:
        secret = {"secret": chosen.rotate_secret, **({"old_secret": chosen.secret} if chosen.secret else {})}
    return [("Register", "POST", "/webhooks/register", {"url": url, "event_types": events, **secret})]


def new_secret() -> str:
    """A secret for Standard Webhooks: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def rotated(status: int) -> str:
    """Which secret the exposee has after it was sent a new one, by the status of its answer, 0 without any."""
    if 200 <= status < 300:
        return "The new secret signs now, and the old one as well for a day: restart the receiver with the new one"
    if 400 <= status < 500:
        return "nothing has changed: the exposee has the secret that it had before"
    return "the exposee may have the new secret or not: repeat this with --rotate-secret and the new secret, to be sure"


def send(method: str, url: str, body: Any, transcript: terminal.Printer | None = None) -> tuple[int, str]:
    """The status and the text of the answer; 0 and the reason when there was none. `transcript` prints the bytes."""
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
        if transcript:
            show(transcript, request, data or b"", response, answer)
    return 0, f"{reason} ({url})"


def show(
    transcript: terminal.Printer, request: urllib.request.Request, data: bytes, response: Any, answer: bytes
) -> None:
    """Print a transcript. urllib does not show the bytes it writes, but these are the same."""
    asked = [f"{request.method} {request.selector} HTTP/1.1", "Accept-Encoding: identity"]
    asked += [f"{name.title()}: {value}" for name, value in request.header_items()]
    messages = [("> ", "\r\n".join([*asked, "Connection: close", "", ""]).encode() + data, None)]
    if response:
        head = [f"HTTP/{response.version / 10} {response.status} {response.reason}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        messages.append(("< ", "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + answer, None))
    transcript.show(f"--- {request.method} {request.full_url}", *messages)


def reason(status: int, text: str) -> str:
    """Why a request has failed, from what `send` returned."""
    try:
        text = str(json.loads(text)["detail"])  # problem+json
    except (ValueError, TypeError, KeyError, RecursionError):
        text = text[:200] if status else text
    return f"{status} {text}" if status else text


def outcomes(text: str) -> list[str]:
    """The answer to a ping for people: the counts; and for a local caller of the exposee a line for each URL."""
    try:
        answer = json.loads(text)
        lines = [str(answer["message"])]
        for each in answer.get("deliveries", []):
            outcome = each.get("error") or each.get("status") or "no answer yet"
            lines.append(f"{each['state']:9}  {outcome}  {each['url']}")
        return lines
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [text]


def far_away(url: str, exposee: str) -> str:
    """A warning when the exposee cannot reach `url`, as it leads back to the machine or the network that it is on."""
    here, there = (spelled(urllib.parse.urlsplit(each).hostname or "") for each in (url, exposee))
    if here in ("public", there) or there == "loopback":
        return ""
    return f"warning: the exposee is elsewhere and cannot reach {url}: give the public URL of your tunnel with --url"


def parser() -> argparse.ArgumentParser:
    parser = options.Parser("Register a webhook receiver at an exposee.")
    add, env = parser.add_argument, os.environ
    theirs, mine = env.get("EXPOSEE_URL") or options.EXPOSEE, env.get("WEBHOOK_URL") or options.WEBHOOK
    exposee = "the exposee's URL, or EXPOSEE_URL (default: %(default)s)"
    add("--exposee", type=options.exposee_url, default=theirs, metavar="URL", help=exposee)
    webhook = "the receiver's URL, as the exposee reaches it, or WEBHOOK_URL (default: %(default)s)"
    add("--url", type=options.webhook_url, default=mine, help=webhook)
    add("--events", default="payment_received", help="event types, comma-separated (default: %(default)s)")
    secret, hidden = options.credential("WEBHOOK_SECRET"), "to sign deliveries, or WEBHOOK_SECRET (hidden from `ps`)"
    add("--secret", type=secret, default=env.get("WEBHOOK_SECRET"), help=hidden)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--unregister", action="store_true", help="unregister the events instead")
    rotate = "register again with a new secret, or with the one given here; --secret is the old one"
    what.add_argument("--rotate-secret", nargs="?", const=new_secret(), type=secret, metavar="NEW", help=rotate)
    what.add_argument("--ping", action="store_true", help="ping all registered URLs instead")
    what.add_argument("--ping-back", action="store_true", help="confirm a ping to the URL instead")
    add("--json", action="store_true", help="with --ping: print the answer as it came")
    add("--raw", action="store_true", help="print every request and answer")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Send the requests, one after the other; 1 if one of them failed."""
    chosen, code = parser().parse_args(argv), 0
    warning = None if chosen.ping else far_away(chosen.url, chosen.exposee)
    if warning:
        terminal.say(warning, stream=sys.stderr)
    if chosen.rotate_secret:
        terminal.say(f"New secret: {chosen.rotate_secret}")  # before it is sent, so that it is never lost
    for title, method, path, body in calls(chosen):
        transcript = terminal.Printer() if chosen.raw else None
        status, text = send(method, chosen.exposee.rstrip("/") + path, body, transcript)
        if transcript:
            transcript.close()
        after = [rotated(status)] if chosen.rotate_secret else []
        if 200 <= status < 300:
            response = f"{title} Response: {status} {text}"
            terminal.say(*(outcomes(text) if chosen.ping and not chosen.json else [response]), *after)
            if chosen.ping and re.match("Ping delivered to 0 |nobody ", outcomes(text)[0]):
                code = 1
            continue
        what = f"Unregister of {body['event']}" if title == "Unregister" else title.replace("Register", "Registration")
        terminal.say(f"{what} failed: {reason(status, text)}", *after, stream=sys.stderr)
        code = 1
        if not status:
            break  # the next request would meet the same
    return code


if __name__ == "__main__":
    terminal.run(main)
