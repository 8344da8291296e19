"""The integrator's server: receives webhooks, prints them, and answers 204.

    POST /webhook-receiver    {"event", "data"}
    GET  /  /requests         what arrived, for a browser on this machine (inbox.py)

Try:  curl -i -H 'Content-Type: application/json' -d '{"event": "ping", "data": 1}' localhost:8080/webhook-receiver

With a secret it verifies the signatures (verifying.py) and prints why one fails. For lessons and tests it misbehaves
when the URL asks for it: /webhook-receiver?respond=503&retry_after=3&times=2 (misbehaving.py).

Left out on purpose: a file of the messages seen. After a restart, a message that is sent again counts as new.
"""

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import options
from explaining import failure
from inbox import Entry, Inbox
from misbehaving import answer_as_asked
from register_webhook import send
from server import Routes, Server, stop_on_signals
from verifying import faults, key_of, new_secret
from wire import Answer, Problem, Request

PATH = "/webhook-receiver"
SEEN = 10_000  # webhook-ids to remember; a sender's retries come within three days


def handle(event: str, data: Any) -> None:
    """Your code goes here: it is called for each new message, with a secret after its signature is verified.

    One call at a time. An exception is printed and answers 500, so that the message is sent again. An exposee waits
    10 s for the answer: leave what takes longer to a thread of yours.
    """


class Receiver:
    """The route and what it answers. Without a `secret` signatures are not verified.

    `clock` gives seconds since 1970, `say` prints lines together, `confirm` is called after a ping has been answered.
    """

    def __init__(
        self,
        secret: str = "",
        clock: Callable[[], float] = time.time,
        confirm: Callable[[], None] | None = None,
        say: Callable[..., None] = terminal.say,
    ) -> None:
        self._secret, self._clock, self._confirm, self._say = secret, clock, confirm, say
        self._lock = threading.Lock()  # guards the two below, and lets `handle` be called once at a time
        self._seen: dict[str, None] = {}  # webhook-ids that were acknowledged, oldest first
        self._misbehaved: dict[str, int] = {}  # how often, by request target
        inbox = Inbox(clock)
        self.routes: Routes = {PATH: {"POST": inbox.recording(self.receive)}, **inbox.routes}

    def receive(self, request: Request, entry: Entry) -> Answer:
        """Verify, print, handle, answer. What is found out is noted in `entry`, for the page, and printed."""
        self._verify(request, entry)  # before anything parses the body
        payload = request.json()
        event = payload.get("event") if isinstance(payload, dict) else None
        message_id = request.headers.get("webhook-id", "")
        with self._lock:  # two requests with one webhook-id, even at the same time, are one message
            asked = answer_as_asked(request, self._misbehaved)
            answer = asked or Answer(204)
            acknowledges = not answer.takeover and 200 <= answer.status < 300  # a takeover: respond=hang
            entry.duplicate = acknowledges and message_id in self._seen
            if entry.duplicate:
                entry.notes.append(f"duplicate: {message_id} was acknowledged before")
            if asked:
                entry.notes.append(f"answered as asked: respond={request.query['respond']}")
            notes = "".join(f" ({note})" for note in entry.notes)
            self._say(f"Received webhook payload: {json.dumps(payload, ensure_ascii=False)}{notes}")
            if acknowledges and not entry.duplicate:
                if isinstance(event, str):
                    handle(event, payload.get("data"))
                if message_id:
                    self._seen[message_id] = None
                if len(self._seen) > SEEN:
                    del self._seen[next(iter(self._seen))]
        if acknowledges:
            answer.after = lambda sent: self._end(sent, "" if entry.duplicate else message_id, event)
        return answer

    def _verify(self, request: Request, entry: Entry) -> None:
        """Problem 401 when a signature is missing or wrong; the reasons are for the terminal and the page only."""
        if not self._secret:
            if "webhook-signature" in request.headers:
                entry.notes.append("signed, but there is no --secret here to verify it with")
            return
        wrong = faults(self._secret, request.headers, request.body or b"", self._clock())
        entry.verified = not wrong
        if wrong:
            raise Problem(401, "the signature does not verify; the receiver's terminal says why", notes=wrong)
        entry.notes.append("signature verified")

    def _end(self, sent: bool, message_id: str, event: object) -> None:
        """The answer has been sent; or it could not be sent, so the message comes again and counts as new."""
        if not sent:
            with self._lock:
                self._seen.pop(message_id, None)
        elif event == "ping" and self._confirm:
            self._confirm()


def ping_back(
    exposee: str, url: str, say: Callable[..., None], show: Callable[..., None] | None = None
) -> Callable[[], None]:
    """A function that has a thread tell the exposee that a ping has arrived at `url`, and returns at once.

    Pings that arrive while the thread is busy are confirmed together: the exposee confirms its newest one.
    """
    pinged = threading.Event()

    def work() -> None:
        while pinged.wait():
            pinged.clear()
            status, text = send("POST", f"{exposee.rstrip('/')}/webhooks/ping-back", {"url": url}, show)
            good = 200 <= status < 300
            say(f"Ping-back Response: {status} {text}" if good else f"Ping-back failed: {failure(status, text)}")

    threading.Thread(target=work, name="ping-back", daemon=True).start()
    return pinged.set


def parser() -> argparse.ArgumentParser:
    parser = options.Parser("Receive webhooks, print them, answer 204.")
    add = parser.add_argument
    network = "where to listen; 0.0.0.0 lets the network in (default: %(default)s)"
    add("--host", type=options.host_name, default="127.0.0.1", help=network)
    add("--port", type=options.port_number, default=8080, help="port to listen on (default: %(default)s)")
    hidden = "whsec_..., to verify signatures, or WEBHOOK_SECRET (hidden from `ps`)"
    add("--secret", type=options.credential("WEBHOOK_SECRET"), default=os.environ.get("WEBHOOK_SECRET"), help=hidden)
    exposee, ours = os.environ.get("EXPOSEE_URL") or None, os.environ.get("WEBHOOK_URL") or None
    theirs = "for --ping-back: the exposee's URL, or EXPOSEE_URL"
    add("--exposee", type=options.exposee_url, default=exposee, metavar="URL", help=theirs)
    mine = "for --ping-back: our URL as it was registered, or WEBHOOK_URL"
    add("--url", type=options.webhook_url, default=ours, help=mine)
    confirm = "confirm each ping at the exposee; needs --exposee (or its URL here) and --url"
    add("--ping-back", type=options.exposee_url, nargs="?", const=True, metavar="EXPOSEE_URL", help=confirm)
    add("--raw", action="store_true", help="print every request and answer")
    add("--new-secret", action="store_true", help="print a new secret and end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a receiver until it is told to stop. Returns 0 then, 2 for a wrong option; OSError when it cannot listen."""
    chosen = parser().parse_args(argv)
    if chosen.new_secret:
        terminal.say(new_secret())
        return 0
    exposee = chosen.exposee if chosen.ping_back is True else chosen.ping_back
    needed = {"--exposee (or EXPOSEE_URL)": exposee, "--url (or WEBHOOK_URL), our URL as it was registered": chosen.url}
    if chosen.ping_back and not all(needed.values()):
        missing = " and ".join(name for name, value in needed.items() if not value)
        return terminal.fail(f"--ping-back needs {missing}", 2)
    if chosen.secret and chosen.secret.startswith("whsec_") and not key_of(chosen.secret):
        wrong = "--secret (or WEBHOOK_SECRET) is not whsec_ and base64 of 24 to 64 bytes; make one with --new-secret"
        return terminal.fail(wrong, 2)
    printer = terminal.Printer()  # a slow terminal holds up no delivery
    show = printer.show if chosen.raw else None
    confirm = ping_back(exposee, chosen.url, printer.log, show) if chosen.ping_back else None
    receiver = Receiver(chosen.secret or "", confirm=confirm, say=printer.log)
    server = Server((chosen.host, chosen.port), receiver.routes, show, printer.log)
    stop_on_signals(server)
    printer.say(f"Receiver on {server.url}{PATH}{server.everywhere}, Ctrl-C stops it")
    verified = "signatures are verified" if chosen.secret else "no secret: signatures are not verified"
    printer.say(f"its page: {server.url}; {verified}")
    if chosen.ping_back:
        printer.say(f"pings to {chosen.url} are confirmed at {exposee}")
    elif chosen.url or chosen.exposee:
        printer.say("pings are not confirmed: that takes --ping-back")
    with contextlib.redirect_stdout(printer):  # so that what `handle` prints stands below its message
        server.run()
    printer.close("Stopped")
    return 0


if __name__ == "__main__":
    terminal.run(main)
