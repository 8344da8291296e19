"""The integrator's script: registers a receiver's URL at an exposee, and unregisters it.

    python register_webhook.py --events payment_received,invoice_completed
    python register_webhook.py --ping | --ping-back | --unregister | --rotate-secret

It sends one request (with --unregister, one for each event) and prints the answer. Exit code 0; 1 when the exposee
refused or could not be reached, or when no ping was delivered; 2 when an option made no sense.
"""

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import http.client
import json
import os
import sys
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

import explaining
import options
from verifying import new_secret

SECONDS = 15.0  # of silence from the exposee; GET /ping waits up to 5 s for the receivers
MAX_ANSWER = 1_048_576  # bytes; what an answer says of its size may not be true
FIELDS = {"Bypass-Tunnel-Reminder": "1", "User-Agent": "integrator/1.0"}
OPENER = urllib.request.OpenerDirector()  # urlopen would follow redirects, open files and obey proxy variables
OPENER.add_handler(urllib.request.HTTPHandler())
OPENER.add_handler(urllib.request.HTTPSHandler())


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


def send(method: str, url: str, body: Any, show: Callable[..., None] | None = None) -> tuple[int, str]:
    """The status and the text of the answer; 0 and the reason when not all of one came. `show` prints the bytes."""
    data = None if body is None else json.dumps(body).encode()
    fields = FIELDS if body is None else {"Content-Type": "application/json", **FIELDS}
    request = urllib.request.Request(url, data, fields, method=method)
    response, answer = None, b""
    try:
        with OPENER.open(request, timeout=SECONDS) as response:
            answer = response.read(MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, f"{explaining.no_answer(error)} ({url})"
    finally:
        if show:
            show(*explaining.transcript(request, response, answer))
    # length: the bytes that are missing, by Content-Length
    if response.length or len(answer) > MAX_ANSWER:
        return 0, f"the answer was cut off after {len(answer):,} bytes: try again, or check --exposee ({url})"
    if 300 <= response.status < 400 and "Location" in response.headers:
        return response.status, f"it leads to {response.headers['Location']}; give that URL to --exposee"
    return response.status, answer.decode("utf-8", "replace").strip()


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
    """Send the requests, one after the other; 1 if one of them failed, or no ping was delivered."""
    chosen, code = parser().parse_args(argv), 0
    warning = explaining.out_of_reach(chosen.url, chosen.exposee)
    if warning and not chosen.ping:
        terminal.say(warning, stream=sys.stderr)
    if chosen.rotate_secret:
        terminal.say(f"New secret: {chosen.rotate_secret}")  # before it is sent, so that it is never lost
    for title, method, path, body in calls(chosen):
        status, text = send(method, chosen.exposee.rstrip("/") + path, body, terminal.show if chosen.raw else None)
        if 200 <= status < 300:
            lines = [f"{title} Response: {status} {text}"]
            if chosen.ping:
                outcomes = explaining.outcomes(text)
                lines = lines if chosen.json else outcomes
                if outcomes[0].startswith(("Ping delivered to 0 ", "nobody ")):
                    code = 1
            terminal.say(*lines)
        else:
            what = title.replace("Register", "Registration")
            if chosen.unregister:
                what += f" of {body['event']} from {chosen.url}"
            terminal.say(f"{what} failed: {explaining.failure(status, text)}", stream=sys.stderr)
            code = 1
        if not status:
            break  # the next request would meet the same
    if chosen.rotate_secret:
        terminal.say(explaining.rotated(status, old=bool(chosen.secret)), stream=sys.stderr if code else None)
    return code


if __name__ == "__main__":
    terminal.run(main)
