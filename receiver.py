"""The integrator's server: receives webhooks, says what came, and answers 204.

    POST /webhook-receiver    {"event", "data"}

Try:  curl -i -H 'Content-Type: application/json' -d '{"event": "ping", "data": 1}' localhost:8080/webhook-receiver

With a secret it verifies the signatures and says on the terminal why one fails. For lessons and tests it
misbehaves when the URL asks for it: /webhook-receiver?respond=503&retry_after=3&times=2 (the list is BEHAVIOUR
below; `times` is how often, before it is well again).

Left out on purpose: doing something with the payload. That is yours: where `receive` prints it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import http
import json
import os
import re
import secrets
import socket
import struct
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import terminal
from server import Routes, Server, stop_on_signals
from terminal import SHOWN_BODY
from wire import Answer, Problem, Request

PATH = "/webhook-receiver"
TOLERANCE = 300  # seconds that a timestamp may be off (Standard Webhooks): older ones may be replays
SEEN = 10_000  # webhook-ids to remember; a sender's retries come within three days
HOLD_SECONDS = 60.0  # that `hang`, `drip` and `endless` go on at the most
PING_BACK_SECONDS = 10.0


class Receiver:
    """The handler. `secret` empty: signatures are not looked at. `confirm` is called
    after each ping has been answered, `say` with what people should read."""

    def __init__(
        self,
        secret: str = "",
        clock: Callable[[], float] = time.time,
        confirm: Callable[[], None] | None = None,
        say: Callable[..., None] | None = None,
    ) -> None:
        self._secret, self._clock, self._confirm, self._say = secret, clock, confirm, say or print_lines
        self._lock = threading.Lock()  # guards the two below
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._misbehaved: dict[str, int] = {}  # by request target
        self.routes: Routes = {PATH: {"POST": self.receive}}

    def receive(self, request: Request) -> Answer:
        verified = self._verify(request)  # before anything reads the body
        try:
            payload, behaviour = request.json(), self._behaviour(request)
        except Problem as problem:
            self._say(f"Refused with {problem.status}: {problem.detail}")
            raise
        line = f"Received webhook payload: {json.dumps(payload, ensure_ascii=False)}{verified}"
        asked = [f"  answered as asked: respond={request.query['respond']}"] if behaviour else []
        answer = behaviour or Answer(204)
        if answer.raw or not 200 <= answer.status < 300:
            self._say(line, *asked)
            return answer
        message_id = request.headers.get("webhook-id", "")
        if message_id and self._is_duplicate(message_id):
            line += f" (duplicate: {message_id} was acknowledged before)"
        else:
            answer.release = lambda sent: None if sent else self._forget(message_id)  # it will come again
        self._say(line, *asked)
        if isinstance(payload, dict) and payload.get("event") == "ping":
            answer.then = self._confirm
        return answer

    def _verify(self, request: Request) -> str:
        """What is to be said of a request's signatures. Problem 401 when they are not what they should be."""
        if not self._secret:
            signed = "webhook-signature" in request.headers
            return " (signed, but there is no --secret here to verify it with)" if signed else ""
        body = request.body or b""
        check = verify(self._secret, request.headers, body, self._clock())
        if not check.good:
            line = f"Received webhook payload: {body[:SHOWN_BODY].decode('utf-8', 'backslashreplace')}"
            self._say(line, "  refused with 401, because", *(f"    {reason}" for reason in check.reasons))
            raise Problem(401, "the signature does not verify; the receiver's terminal says why")
        return f" ({check.reasons[0]})"

    def _is_duplicate(self, message_id: str) -> bool:
        """Whether this id was acknowledged before; it counts as acknowledged from now on."""
        with self._lock:
            if message_id in self._seen:
                return True
            self._seen[message_id] = None
            if len(self._seen) > SEEN:
                self._seen.popitem(last=False)
            return False

    def _forget(self, message_id: str) -> None:
        """It was not acknowledged after all: the answer could not be sent."""
        with self._lock:
            self._seen.pop(message_id, None)

    def _behaviour(self, request: Request) -> Answer | None:
        """The misbehaviour that the URL asks for, unless it has had enough of it."""
        name = request.query.get("respond")
        if name is None:
            return None
        times = request.query.get("times", "")
        with self._lock:
            done = self._misbehaved.get(request.target, 0)
            if times.isdecimal() and done >= int(times[:9]):
                return None
            if done or len(self._misbehaved) < SEEN:
                self._misbehaved[request.target] = done + 1
        if name in BEHAVIOUR:
            return BEHAVIOUR[name]()
        if re.fullmatch("[2-5][0-9][0-9]", name) and int(name) in list(http.HTTPStatus):
            after = request.query.get("retry_after")
            headers = {"Retry-After": after} if after and re.fullmatch(r"[\x20-\x7e]+", after) else {}
            return Answer(int(name), None if name in ("204", "304") else {"respond": int(name)}, headers)
        raise Problem(422, f"respond={name[:40]} is unknown, expected a status or one of {', '.join(BEHAVIOUR)}")


def print_lines(*lines: str) -> None:
    """Print these lines together, in one write."""
    sys.stdout.write("\n".join([*map(terminal.printable, lines), ""]))
    sys.stdout.flush()


# --- verifying ------------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """Whether a request is what the owner of the secret sent, and why we think so."""

    good: bool
    reasons: list[str]


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> Check:
    """Check every signature that the request has, in both dialects, over the raw bytes of the body.

    None may be wrong, and with a whsec_ secret webhook-signature has to be there: GitHub's covers neither time nor
    id, so an old request without the other one could be replayed. A malformed header does not verify; it never raises.
    """
    checks = []
    if "webhook-signature" in headers:
        checks.append(_verify_standard(secret, headers, body, now))
    if "x-hub-signature-256" in headers:
        checks.append(_verify_github(secret, headers["x-hub-signature-256"], body))
    if not checks:
        return Check(False, ["there is no webhook-signature and no X-Hub-Signature-256: was it sent by the exposee?"])
    bad = [reason for check in checks if not check.good for reason in check.reasons]
    if not bad and _key(secret) and "webhook-signature" not in headers:
        bad = ["X-Hub-Signature-256 is right, but webhook-signature is missing, and with it the time: a replay?"]
    return Check(False, bad) if bad else Check(True, ["signature verified"])


def _verify_standard(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> Check:
    """Standard Webhooks: base64(HMAC-SHA256(key, id.timestamp.body)), a list of `v1,…` by spaces."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    key = _key(secret)
    if key is None:
        return Check(False, ["webhook-signature: our secret is not whsec_ and base64, so it cannot be checked"])
    if not re.fullmatch("[0-9]{1,12}", timestamp) or not message_id:
        return Check(False, ["webhook-signature: webhook-id or webhook-timestamp is missing or malformed"])
    signed = f"{message_id}.{timestamp}.".encode("latin-1", "replace") + body
    expected = _base64(_hmac(key, signed))
    given = [part[3:] for part in headers["webhook-signature"].split(" ") if part.startswith("v1,")]
    if not any(_same(candidate, expected) for candidate in given):
        reasons = [
            f"webhook-signature: signed were these {len(signed)} bytes: {signed[:200]!r}",
            f"with a key of {len(key)} bytes (the base64 after whsec_, decoded): {expected}",
            f"but it says: {headers['webhook-signature'][:200]}",
        ]
        return Check(False, [*reasons, *_standard_mistakes(secret, key, message_id, timestamp, body, given)])
    age = now - int(timestamp)
    if abs(age) > TOLERANCE:
        return Check(False, [f"webhook-signature is right, but {age:.0f} s old (±{TOLERANCE} allowed): a replay?"])
    return Check(True, [])


def _verify_github(secret: str, header: str, body: bytes) -> Check:
    """GitHub: sha256= and hex(HMAC-SHA256(the secret as text, body))."""
    expected = "sha256=" + _hmac(_text_key(secret), body).hex()
    if _same(header, expected):
        return Check(True, [])
    key = _text_key(secret)
    reasons = [
        f"X-Hub-Signature-256: signed were the {len(body)} bytes of the body: {body[:200]!r}",
        f"with a key of {len(key)} bytes (the secret as text): {expected}",
        f"but it says: {header[:200]}",
    ]
    mistakes = {
        "base64 was written where GitHub has hex": "sha256=" + _base64(_hmac(key, body)),
        "the sender decoded the secret, which GitHub takes as text": "sha256=" + _hmac(_key(secret) or b"", body).hex(),
        "sha256= is missing before it": expected.partition("=")[2],
        **{why: "sha256=" + _hmac(key, other).hex() for why, other in _reserialised(body)},
    }
    return Check(False, [*reasons, *_explain([header], mistakes)])


def _standard_mistakes(
    secret: str, key: bytes, message_id: str, timestamp: str, body: bytes, given: list[str]
) -> Iterator[str]:
    prefix = f"{message_id}.{timestamp}.".encode("latin-1", "replace")
    signed = prefix + body
    mistakes = {
        "whsec_ was not stripped: the sender's key was the secret as text": _base64(_hmac(_text_key(secret), signed)),
        "the base64 after whsec_ was not decoded": _base64(_hmac(_text_key(secret[6:]), signed)),
        "hex was written where Standard Webhooks has base64": _hmac(key, signed).hex(),
        "only the body was signed, as in GitHub's dialect": _base64(_hmac(key, body)),
        "it is GitHub's dialect: hex over the body, the secret as text": _hmac(_text_key(secret), body).hex(),
        **{why: _base64(_hmac(key, prefix + other)) for why, other in _reserialised(body)},
    }
    if not given:
        yield "  it has no part that begins with v1, which is how each signature does"
    yield from _explain(given, mistakes)


def _reserialised(body: bytes) -> list[tuple[str, bytes]]:
    """The body as it may have been before somebody parsed it and wrote it again."""
    try:
        value = json.loads(body)
        forms = {
            "spaces left out": json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(),
            "spaces put in": json.dumps(value, ensure_ascii=False).encode(),
            "keys sorted": json.dumps(value, separators=(",", ":"), sort_keys=True).encode(),
            "indented": json.dumps(value, indent=2, ensure_ascii=False).encode(),
        }
    except (ValueError, RecursionError):  # it is no JSON, or has what cannot be written: half of a character, say
        return []
    why = "the body was parsed and written again on the way ({}): sign and verify the raw bytes"
    return [(why.format(how), form) for how, form in forms.items()]


def _explain(given: list[str], mistakes: Mapping[str, str]) -> list[str]:
    found = [f"  known mistake: {why}" for why, wrong in mistakes.items() if any(_same(g, wrong) for g in given)]
    return found[:1] or ["  no known mistake explains it: another secret, or another body"]


def _key(secret: str) -> bytes | None:
    try:
        return base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else None
    except ValueError:
        return None


def _text_key(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogateescape")  # as an argument that is not UTF-8 was typed


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _same(given: str, expected: str) -> bool:
    """Compare in constant time; what is not ASCII is never the same (compare_digest would raise)."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


# --- misbehaving ----------------------------------------------------------------------------------------------


def _hang(connection: socket.socket) -> None:
    """Take the request and never answer."""
    connection.settimeout(HOLD_SECONDS)
    while connection.recv(65_536):
        pass


def _drip(connection: socket.socket) -> None:
    """Answer at one byte a second: no read times out, the whole does."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"." * 1000
    for byte in answer[: int(HOLD_SECONDS)]:
        connection.sendall(bytes([byte]))
        time.sleep(1)


def _reset(connection: socket.socket) -> None:
    """Close with a TCP reset: what lingers for 0 s is thrown away."""
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
    "hang": lambda: Answer(raw=_hang),
    "drip": lambda: Answer(raw=_drip),
    "reset": lambda: Answer(raw=_reset),
    "half": lambda: Answer(raw=_half),
    "endless": lambda: Answer(raw=_endless),
    "redirect": lambda: Answer(302, None, {"Location": "/somewhere-else"}),
}


# --- the command line ------------------------------------------------------------------------------------------


def new_secret() -> str:
    """A secret for Standard Webhooks: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def confirm_ping(exposee: str, url: str, say: Callable[..., None]) -> None:
    """Tell the exposee that its ping has arrived at `url`; in a thread, so that no delivery waits behind it."""
    target = exposee.rstrip("/") + "/webhooks/ping-back"

    def call() -> None:
        transport = Transport()
        exchange = transport.send(target, request_json("POST", target, {"url": url}), PING_BACK_SECONDS)
        transport.close()
        answer = f"{exchange.status} {exchange.body.decode('utf-8', 'replace').strip()}"
        say(f"Ping-back Response: {exchange.error or answer}")

    threading.Thread(target=call, name="ping-back", daemon=True).start()


def parser() -> argparse.ArgumentParser:
    options = terminal.Parser("Receive webhooks, print them, answer 204.")
    add = options.add_argument
    add("--host", type=terminal.host_name, default="127.0.0.1", help="where to listen; 0.0.0.0 lets the network in")
    add("--port", type=terminal.port_number, default=8080, help="port to listen on")
    add("--secret", help="whsec_…, to verify signatures; or WEBHOOK_SECRET, which ps does not show")
    add("--ping-back", type=terminal.web_url, metavar="EXPOSEE_URL", help="confirm each ping there; needs --url")
    add("--url", type=terminal.web_url, help="our URL as it was registered, for --ping-back")
    add("--raw", action="store_true", help="print every exchange as it was on the wire")
    add("--new-secret", action="store_true", help="print a fresh secret and end")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run a receiver until it is told to stop. 0 then; 2 for what keeps it from starting."""
    terminal.set_up()
    options = parser().parse_args(argv)
    if options.new_secret:
        print(new_secret())
        return 0
    if bool(options.ping_back) != bool(options.url):
        return terminal.fail("--ping-back EXPOSEE_URL and --url MY_PUBLIC_URL go together", 2)
    secret = options.secret or os.environ.get("WEBHOOK_SECRET", "")
    if secret.startswith("whsec_") and not _key(secret):
        return terminal.fail("the secret is not whsec_ and base64; make one with --new-secret", 2)
    printer = terminal.Printer()  # so that nobody who delivers waits for our terminal
    confirm = (lambda: confirm_ping(options.ping_back, options.url, printer.say)) if options.url else None
    receiver = Receiver(secret, confirm=confirm, say=printer.say)
    try:
        server = Server((options.host, options.port), receiver.routes, printer if options.raw else None)
    except OSError as error:
        return terminal.fail(error, 2)
    stop_on_signals(server)
    print(f"Receiver on {server.url}{PATH}, Ctrl-C stops it", flush=True)
    server.run()
    printer.close()
    print("Stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
