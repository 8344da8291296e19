"""The integrator's server: receives webhooks, prints them, and answers 204.

    POST /webhook-receiver    {"event", "data"}

Try:  curl -i -H 'Content-Type: application/json' -d '{"event": "ping", "data": 1}' localhost:8080/webhook-receiver

With a secret it verifies the signatures (verifying.py) and prints why one fails. For lessons and tests it misbehaves
when the URL asks for it: /webhook-receiver?respond=503&retry_after=3&times=2 (BEHAVIOUR has the list).

Left out on purpose: a file of the messages seen. After a restart, a message that is sent again counts as new.
"""

from __future__ import annotations

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import base64
import http
import json
import os
import queue
import re
import secrets
import socket
import struct
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any

from server import Routes, Server, stop_on_signals
from verifying import key_of, verify
from wire import Answer, Problem, Request

PATH = "/webhook-receiver"
SEEN = 10_000  # webhook-ids to remember; a sender's retries come within three days
HOLD_SECONDS = 60.0  # that `hang`, `drip` and `endless` go on at the most
PING_BACKS, PING_BACK_SECONDS = 100, 10.0  # ping-backs that wait for their turn; silence of the exposee
OPENER = urllib.request.OpenerDirector()  # urlopen would follow redirects, open files and obey proxy variables
OPENER.add_handler(urllib.request.HTTPHandler())
OPENER.add_handler(urllib.request.HTTPSHandler())


def handle(event: str, data: Any) -> None:
    """Your code goes here: it is called once for each new message, with a secret after its signature is verified.

    One call at a time. An exception is printed and answers 500, so that the message is sent again. An exposee waits
    10 s for the answer: leave what takes longer to a thread of yours.
    """


class Receiver:
    """The route and what it answers. `secret` empty: signatures are not verified.

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
        self._seen: dict[str, None] = {}  # webhook-ids, oldest first; `_end` removes one, an atomic step, without it
        self._misbehaved: dict[str, int] = {}  # by request target
        self.routes: Routes = {PATH: {"POST": self.receive}}

    def receive(self, request: Request) -> Answer:
        """Verify, print, handle, answer."""
        verified = self._verify(request)  # before anything reads the body
        try:
            payload, misbehaviour = request.json(), self._misbehaviour(request)
        except Problem as problem:
            self._say(f"Refused with {problem.status}: {problem.detail}")
            raise
        line = f"Received webhook payload: {json.dumps(payload, ensure_ascii=False)}{verified}"
        asked = [f"  answered as asked: respond={request.query['respond']}"] if misbehaviour else []
        answer = misbehaviour or Answer(204)
        if answer.takeover or not 200 <= answer.status < 300:
            self._say(line, *asked)
            return answer
        message_id, event = request.headers.get("webhook-id", ""), None
        if isinstance(payload, dict):
            event = payload.get("event")
        with self._lock:  # two requests with one webhook-id, even at the same time, are one message
            new = message_id not in self._seen
            self._say(line if new else f"{line} (duplicate: {message_id} was acknowledged before)", *asked)
            if new and isinstance(event, str):
                self._handle(event, payload.get("data"))
            if new and message_id:
                self._seen[message_id] = None
                if len(self._seen) > SEEN:
                    del self._seen[next(iter(self._seen))]
        answer.after = lambda sent: self._end(sent, message_id if new else "", event)
        return answer

    def _verify(self, request: Request) -> str:
        """What is printed of a request's signatures. Problem 401 when one of them is missing or wrong."""
        if not self._secret:
            signed = "webhook-signature" in request.headers
            return " (signed, but there is no --secret here to verify it with)" if signed else ""
        body = request.body or b""
        check = verify(self._secret, request.headers, body, self._clock())
        if not check.good:
            line = f"Received webhook payload: {body[: terminal.SHOWN_BODY].decode('utf-8', 'backslashreplace')}"
            self._say(line, "  refused with 401, because", *(f"    {reason}" for reason in check.reasons))
            raise Problem(401, "the signature does not verify; the receiver's terminal says why")
        return f" ({check.reasons[0]})"

    def _handle(self, event: str, data: Any) -> None:
        try:
            handle(event, data)
        except (Exception, SystemExit) as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            self._say(f"  answered 500, because handle raised {error!r} at {os.path.basename(at.filename)}:{at.lineno}")
            raise Problem(500, "handling the message failed; the receiver's terminal says why") from error

    def _end(self, sent: bool, message_id: str, event: object) -> None:
        """The answer has been sent; or it could not be sent, so the message comes again and counts as new."""
        if not sent:
            self._seen.pop(message_id, None)
        elif event == "ping" and self._confirm:
            self._confirm()

    def _misbehaviour(self, request: Request) -> Answer | None:
        """The misbehaviour that the URL asks for; None when it asks for none, or has had it `times` times."""
        name, times, after = (request.query.get(name) for name in ("respond", "times", "retry_after"))
        if name is None:
            return None
        with self._lock:
            done = self._misbehaved.get(request.target, 0)
            if times and times.isdecimal() and done >= int(times[:9]):
                return None
            if done or len(self._misbehaved) < SEEN:
                self._misbehaved[request.target] = done + 1
        if name in BEHAVIOUR:
            return BEHAVIOUR[name]()
        if re.fullmatch("[2-5][0-9][0-9]", name) and int(name) in list(http.HTTPStatus):
            headers = {"Retry-After": after} if after and re.fullmatch("[ -~]+", after) else {}
            return Answer(int(name), None if name in ("204", "304") else {"respond": int(name)}, headers)
        raise Problem(422, f"respond={name[:40]} is unknown, expected a status or one of {', '.join(BEHAVIOUR)}")


# --- misbehaving ----------------------------------------------------------------------------------------------


def _hang(connection: socket.socket) -> None:
    """Take the request and never answer."""
    connection.settimeout(HOLD_SECONDS)
    while connection.recv(65_536):
        pass


def _drip(connection: socket.socket) -> None:
    """Answer a byte a second: no read of it times out, the whole does."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"." * 1000
    for byte in answer[: int(HOLD_SECONDS)]:
        connection.sendall(bytes([byte]))
        time.sleep(1)


def _reset(connection: socket.socket) -> None:
    """Close with a TCP reset: a socket that lingers for 0 s throws away what is on its way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
    connection.close()


def _half(connection: socket.socket) -> None:
    """Promise more than comes."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nonly half of")


def _endless(connection: socket.socket) -> None:
    """A body without end."""
    connection.settimeout(HOLD_SECONDS)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    end = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < end:
        connection.sendall(b"and so on " * 1_000)


BEHAVIOUR: dict[str, Callable[[], Answer]] = {
    "hang": lambda: Answer(takeover=_hang),
    "drip": lambda: Answer(takeover=_drip),
    "reset": lambda: Answer(takeover=_reset),
    "half": lambda: Answer(takeover=_half),
    "endless": lambda: Answer(takeover=_endless),
    "redirect": lambda: Answer(302, None, {"Location": "/somewhere-else"}),
}


# --- confirming pings -----------------------------------------------------------------------------------------


def ping_back(exposee: str, url: str, say: Callable[..., None]) -> Callable[[], None]:
    """A function that tells the exposee, in a thread of its own, that a ping has arrived at `url`; returns at once."""
    target = exposee.rstrip("/") + "/webhooks/ping-back"
    fields = {"Content-Type": "application/json", "Bypass-Tunnel-Reminder": "1", "User-Agent": "integrator/1.0"}
    request = urllib.request.Request(target, json.dumps({"url": url}).encode(), fields)
    waiting: queue.Queue[None] = queue.Queue(PING_BACKS)

    def work() -> None:
        while True:
            waiting.get()
            try:
                with OPENER.open(request, timeout=PING_BACK_SECONDS) as response:
                    answer = response.read(terminal.SHOWN_BODY).decode("utf-8", "replace").strip()
                say(f"Ping-back Response: {response.status} {answer}")
            except (OSError, HTTPException, ValueError) as error:
                say(f"Ping-back failed: {getattr(error, 'reason', error)!r} ({target}): is the exposee running?")

    def confirm() -> None:
        try:
            waiting.put_nowait(None)
        except queue.Full:
            say(f"Ping-back left out: {PING_BACKS} others are waiting")

    threading.Thread(target=work, name="ping-back", daemon=True).start()
    return confirm


# --- the command line -----------------------------------------------------------------------------------------


class NewSecret(argparse.Action):
    """Print a secret for Standard Webhooks, 32 random bytes, and end, whatever WEBHOOK_SECRET has."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        terminal.say("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
        parser.exit()


def secret(text: str) -> str:
    """An option's type: any text for GitHub's dialect, or a right whsec_ one."""
    terminal.credential("WEBHOOK_SECRET")(text)
    if text.startswith("whsec_") and key_of(text) is None:
        what = "is not whsec_ and base64 of 24 to 64 bytes; make one with --new-secret"
        raise argparse.ArgumentTypeError(f"the value (here or in WEBHOOK_SECRET) {what}")
    return text


def parser() -> argparse.ArgumentParser:
    options = terminal.Parser("Receive webhooks, print them, answer 204.")
    add, variable = options.add_argument, os.environ.get("WEBHOOK_SECRET")
    exposee, url = (
        terminal.web_url("http://localhost:3000", query=False),
        terminal.web_url(f"http://localhost:8080{PATH}"),
    )
    network = "where to listen; 0.0.0.0 lets the network in (default: %(default)s)"
    add("--host", type=terminal.host_name, default="127.0.0.1", help=network)
    add("--port", type=terminal.port_number, default=8080, help="port to listen on (default: %(default)s)")
    hidden = "whsec_..., to verify signatures, or WEBHOOK_SECRET (hidden from `ps`)"
    add("--secret", type=secret, default=variable, help=hidden)
    add("--ping-back", type=exposee, metavar="EXPOSEE_URL", help="confirm each ping there; needs --url")
    add("--url", type=url, help="our URL as it was registered, for --ping-back")
    add("--raw", action="store_true", help="print every request and answer")
    add("--new-secret", action=NewSecret, nargs=0, help="print a new secret and end")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run a receiver until it is told to stop. 0 then; 2 for what keeps it from starting."""
    options = parser().parse_args(argv)
    if bool(options.ping_back) != bool(options.url):
        return terminal.fail("--ping-back EXPOSEE_URL and --url MY_PUBLIC_URL go together", 2)
    printer = terminal.Printer()  # a slow terminal holds up no delivery
    confirm = ping_back(options.ping_back, options.url, printer.say) if options.url else None
    receiver = Receiver(options.secret or "", confirm=confirm, say=printer.say)
    try:
        server = Server((options.host, options.port), receiver.routes, printer if options.raw else None)
    except OSError as error:
        return terminal.fail(error, 2)
    stop_on_signals(server)
    printer.say(f"Receiver on {server.url}{PATH}, Ctrl-C stops it")
    server.run()
    printer.close("Stopped")
    return 0


if __name__ == "__main__":
    terminal.run(main)
