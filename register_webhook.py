"""The integrator's script: registers a receiver's URL at an exposee, and takes it back.

    python register_webhook.py --exposee http://localhost:3000 --url http://localhost:8080/webhook-receiver \\
                               --events payment_received,invoice_completed
    python register_webhook.py --ping | --ping-back | --unregister

It sends one request (with --unregister, one for each event), prints the answer and ends: with exit code 0, with 1
when the exposee refused or could not be reached, with 2 when an option made no sense.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from transport import Exchange, Transport, request_json

import terminal

SECONDS = 15.0  # for a request; GET /ping waits up to five for the receivers


def calls(options: argparse.Namespace) -> list[tuple[str, str, str, Any]]:
    """What the options ask for: (title, method, path, body) of each request."""
    url, events = options.url, options.events
    secret = {"secret": options.secret} if options.secret else {}
    if options.unregister:
        bodies = [{"url": url, "event": event, **secret} for event in events]
        return [("Unregister", "DELETE", "/webhooks/unregister", body) for body in bodies]
    if options.ping:
        return [("Ping", "GET", "/ping", None)]
    if options.ping_back:
        return [("Ping-back", "POST", "/webhooks/ping-back", {"url": url})]
    return [("Register", "POST", "/webhooks/register", {"url": url, "event_types": events, **secret})]


def failure(exchange: Exchange) -> str | None:
    """Why this exchange did not do what it was for, in one line; None if it did."""
    if exchange.error or 200 <= exchange.status < 300:
        return exchange.error
    try:
        detail = json.loads(exchange.body)["detail"]
    except (ValueError, TypeError, KeyError):
        detail = exchange.body[:200].decode("utf-8", "replace")
    return f"{exchange.status} {detail}"


def run(options: argparse.Namespace, transport: Transport) -> int:
    """Send the requests, one after the other; 1 if any of them failed."""
    code = 0
    for title, method, path, body in calls(options):
        url = options.exposee.rstrip("/") + path
        exchange = transport.send(url, request_json(method, url, body), SECONDS)
        if options.raw:
            show(f"--- {method} {url}", exchange)
        problem = failure(exchange)
        if problem:
            what = "Registration" if title == "Register" else title
            which = f" of {body['event']}" if title == "Unregister" else ""
            where = f" ({url})" if exchange.error else ""
            print(terminal.printable(f"{what}{which} failed: {problem}{where}"), file=sys.stderr)
            code = 1
            if exchange.error:
                break  # nobody is there: nor will be for the next one
        else:
            answer = exchange.body.decode("utf-8", "replace").strip()
            print(f"{title} Response: {exchange.status} {terminal.printable(answer)}")
    return code


def show(title: str, exchange: Exchange) -> None:
    printer = terminal.Printer()
    printer.show(title, ("> ", exchange.request, None), ("< ", exchange.response, exchange.received))
    printer.close()


def event_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def parser() -> argparse.ArgumentParser:
    options = terminal.Parser("Register a webhook receiver at an exposee.")
    add, env = options.add_argument, os.environ
    theirs = env.get("EXPOSEE_URL") or "http://localhost:3000"
    mine = env.get("WEBHOOK_URL") or "http://localhost:8080/webhook-receiver"
    add("--exposee", type=terminal.web_url, default=theirs, help="the exposee's URL; or EXPOSEE_URL")
    add("--url", type=terminal.web_url, default=mine, help="the receiver's URL; or WEBHOOK_URL")
    add("--events", type=event_names, default="payment_received", help="event types, by commas")
    add("--secret", help="whsec_…, to have deliveries signed; or WEBHOOK_SECRET, which ps does not show")
    what = options.add_mutually_exclusive_group()
    what.add_argument("--unregister", action="store_true", help="unregister the events instead")
    what.add_argument("--ping", action="store_true", help="have all registered URLs pinged instead")
    what.add_argument("--ping-back", action="store_true", help="confirm a ping to the URL instead")
    add("--raw", action="store_true", help="print the exchange as it was on the wire")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    terminal.set_up()
    options = parser().parse_args(argv)
    options.secret = options.secret or os.environ.get("WEBHOOK_SECRET")
    transport = Transport()
    try:
        return run(options, transport)
    except KeyboardInterrupt:
        print("Stopped")
        return 0
    finally:
        transport.close()


if __name__ == "__main__":
    sys.exit(main())
