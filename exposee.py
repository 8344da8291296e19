"""The exposee: lets integrators register URLs for event types, pings them, and delivers events to them.

    POST   /webhooks/register    {"url", "event_types": [..], "secret"?}
    DELETE /webhooks/unregister  {"url", "event", "secret"?}
    GET    /ping                 ping every registered URL
    POST   /trigger              {"event", "data"}: deliver an event to all who registered for it
    POST   /webhooks/ping-back   {"url"}: an integrator confirms a ping
    GET    /  /webhooks  /event-types  /health  /deliveries  /deliveries/{id}  /deliveries/stream
    POST   /deliveries/{id}/attempts

Try:  curl -H 'Content-Type: application/json' -d '{"event": "payment_received", "data": 1}' localhost:3000/trigger

What a request may do and what it is answered is decided here. How bytes become a request is server.py's and
wire.py's business, what survives a restart store.py's, and sending delivery.py's.

Left out on purpose: accounts. There are two kinds of callers: local ones, who own the machine, and strangers,
who came through a tunnel or the network, and who may do what the exercise has them do.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import terminal
from access import Allowance, carries, is_local
from addresses import Guard, spelled
from checks import check_secret, check_url, members, preferred_wait, shown, text, url_problem
from delivery import Dispatcher, Full, NotPossible
from durable import StoreError
from journal import Journal
from messages import DELIVERED, PING, PING_DATA, STATES, Attempt, Delivery, body_of, new_message_id
from retries import RETRY_SCHEDULE
from server import Routes, Server, stop_on_signals
from store import WebhookStore
from wire import Answer, Problem, Request

EVENT_TYPES = ("payment_received", "payment_processed", "invoice_processing", "invoice_completed")
EVENT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
MAX_EVENT_TYPES = 64  # in one request
MAX_WEBHOOKS = 200_000  # in all: 15 MB of webhooks.json, written anew with each registration
PING_SECONDS = 5.0  # that GET /ping waits for the outcomes
MAX_WAITING = 16  # requests with Prefer: wait at once, each of which holds a connection
STRANGER_RATE, STRANGER_BURST = 10.0, 50.0  # pings and triggers of strangers: a second, and in a row
MAX_STREAMS = 8
STREAM_BATCH = 500  # changes that a stream tells of at once
STREAM_PAUSE = 0.1  # seconds between two looks at what has changed: no eye is faster
STREAM_BEAT = 10.0  # seconds without news after which a stream says that it is still there
PAGE = Path(__file__).with_name("console.html")
JOURNAL = Path("deliveries.jsonl")  # beside the store, after its name: webhooks.deliveries.jsonl


class Exposee:
    """The handlers, by route; each takes a Request and returns an Answer or raises a Problem."""

    def __init__(
        self,
        store: WebhookStore,
        dispatcher: Dispatcher,
        *,
        event_types: Sequence[str] = EVENT_TYPES,
        guard: Guard | None = None,
        token: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._dispatcher = store, dispatcher
        self._event_types, self._guard, self._token = tuple(event_types), guard or Guard(), token
        self._allowance = Allowance(STRANGER_RATE, STRANGER_BURST, clock)
        self._waiters = threading.BoundedSemaphore(MAX_WAITING)
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        self.routes: Routes = {
            "/": {"GET": self.page},
            "/webhooks/register": {"POST": self.register},
            "/webhooks/unregister": {"DELETE": self.unregister},
            "/ping": {"GET": self.ping},
            "/trigger": {"POST": self.trigger},
            "/webhooks/ping-back": {"POST": self.ping_back},
            "/webhooks": {"GET": self.webhooks},
            "/event-types": {"GET": self.event_types},
            "/health": {"GET": self.health},
            "/deliveries": {"GET": self.deliveries},
            "/deliveries/stream": {"GET": self.stream},
            "/deliveries/{id}": {"GET": self.delivery},
            "/deliveries/{id}/attempts": {"POST": self.redeliver},
        }

    # The five endpoints of the exercise: for everyone

    def register(self, request: Request) -> Answer:
        body = members(request, "url", "event_types", "secret")
        url, secret = check_url(body.get("url")), check_secret(body.get("secret"))
        events = self._check_event_types(body.get("event_types"))
        self._check_destination(request, url)
        more = [event for event in events if not self._store.registered(url, event)]
        if more and self._store.count() + len(more) > MAX_WEBHOOKS:
            raise Problem(503, f"{MAX_WEBHOOKS:,} webhooks are the limit: unregister some", {"Retry-After": "3600"})
        with storing():
            self._store.register(url, events, secret, self._permit(request, secret))
        self._dispatcher.registered(url)
        return Answer(200, {"message": f"Webhook registered for: {', '.join(events)}"})

    def unregister(self, request: Request) -> Answer:
        body = members(request, "url", "event", "secret")
        url, event, secret = text(body, "url"), text(body, "event"), check_secret(body.get("secret"))
        with storing():
            count = self._store.unregister(url, event, self._permit(request, secret))
            if not count:
                raise Problem(404, "0 webhook(s) unregistered")
            self._dispatcher.cancel(url, event)
        return Answer(200, {"message": f"{count} webhook(s) unregistered"})

    def ping(self, request: Request) -> Answer:
        self._limit(request)
        with storing():
            deliveries = self._dispatcher.ping()
        self._dispatcher.wait(deliveries, PING_SECONDS)
        newest = max((delivery.message for delivery in deliveries), key=lambda message: message.time, default=None)
        return self._outcome(request, "Ping", newest.id if newest else new_message_id(), deliveries)

    def trigger(self, request: Request) -> Answer:
        self._limit(request)
        if self._token and not is_local(request):
            self._check_token(request)
        body = members(request, "event", "data")
        event = body.get("event")
        if event not in self._event_types:
            raise Problem(422, f"event is {shown(event)}, expected one of {', '.join(self._event_types)}")
        if "data" not in body:
            raise Problem(422, "data is missing, expected any JSON value")
        with storing():
            message = self._dispatcher.trigger(event, body_of(event, body["data"]))
        deliveries = [delivery for delivery in message.deliveries if delivery is not None]
        seconds = preferred_wait(request)
        if seconds is not None and self._wait(deliveries, seconds):
            answer = self._outcome(request, event, message.id, deliveries)
            answer.headers["Preference-Applied"] = f"wait={seconds:.0f}"
            return answer
        queued = f"{event} queued for {len(deliveries)} webhook(s)"
        location = {"Location": f"/deliveries?message={message.id}"}
        return Answer(202, {"message": queued, "id": message.id}, location)

    def ping_back(self, request: Request) -> Answer:
        url = text(members(request, "url"), "url")
        if not self._store.has(url):
            raise Problem(404, "url is not registered: register it first")
        try:
            self._dispatcher.confirm_ping(url)
        except NotPossible as error:
            raise Problem(409, str(error)) from None
        return Answer(200, {"event": PING, "data": PING_DATA})

    # For everyone as well

    def event_types(self, request: Request) -> Answer:
        return Answer(200, {"event_types": list(self._event_types)})

    def health(self, request: Request) -> Answer:
        return Answer(200, {"status": "ok", "webhooks": self._store.count(), **self._dispatcher.counts()})

    # For local callers, and for those with the token

    def page(self, request: Request) -> Answer:
        self._owner_only(request)
        return page_answer(PAGE)

    def webhooks(self, request: Request) -> Answer:
        self._owner_only(request)
        return Answer(200, {"webhooks": self._store.webhooks()})

    def deliveries(self, request: Request) -> Answer:
        self._owner_only(request)
        wanted, limit = request.query, request.query.get("limit", "100")
        if not re.fullmatch("[1-9][0-9]{0,3}", limit) or int(limit) > 1_000:
            raise Problem(422, f"limit is {shown(limit)}, expected a number from 1 to 1000")
        if wanted.get("state", STATES[0]) not in STATES:
            raise Problem(422, f"state is {shown(wanted['state'])}, expected one of {', '.join(STATES)}")

        def matches(delivery: Delivery) -> bool:
            return wanted.get("url") in (None, delivery.url) and wanted.get("state") in (None, delivery.state)

        found = self._dispatcher.deliveries(matches, int(limit), wanted.get("message", ""))
        return Answer(200, {"deliveries": [delivery.to_json() for delivery in found]})

    def delivery(self, request: Request) -> Answer:
        self._owner_only(request)
        return Answer(200, self._find(request).to_json(attempts=True))

    def redeliver(self, request: Request) -> Answer:
        self._owner_only(request)
        delivery = self._find(request)
        try:
            with storing():
                self._dispatcher.redeliver(delivery)
        except NotPossible as error:
            raise Problem(409, str(error)) from None
        body = {"message": f"one more attempt of {delivery.id} queued", "id": delivery.id}
        return Answer(202, body, {"Location": f"/deliveries/{delivery.id}"})

    def stream(self, request: Request) -> Answer:
        self._owner_only(request)
        if not self._streams.acquire(blocking=False):
            raise Problem(503, f"{MAX_STREAMS} streams are open, which is the limit", {"Retry-After": "5"})

        def send_changes(send: Callable[[bytes], None]) -> None:
            version = self._dispatcher.version()
            send(b"retry: 1000\n\n")  # milliseconds until a browser comes back after a dropped connection
            while changes := self._dispatcher.changes(version, STREAM_BATCH, STREAM_BEAT):
                version, deliveries = changes
                lines = [f"event: delivery\ndata: {json.dumps(delivery.to_json())}\n\n" for delivery in deliveries]
                send("".join(lines).encode() or b": nothing new\n\n")
                time.sleep(STREAM_PAUSE)

        def release(sent: bool) -> None:
            self._streams.release()

        fields = {"Cache-Control": "no-store"}
        return Answer(200, type="text/event-stream", headers=fields, stream=send_changes, release=release)

    # What the handlers share

    def _outcome(self, request: Request, what: str, message_id: str, deliveries: list[Delivery]) -> Answer:
        """How the first attempts went: a stranger learns the counts only."""
        delivered = sum(delivery.state == DELIVERED for delivery in deliveries)
        body: dict[str, Any] = {"message": f"{what} delivered to {delivered} of {len(deliveries)} webhook(s)"}
        body["id"] = message_id
        if self._is_owner(request):
            body["deliveries"] = [delivery.to_json() for delivery in deliveries]
        return Answer(200, body)

    def _wait(self, deliveries: list[Delivery], seconds: float) -> bool:
        if not self._waiters.acquire(blocking=False):
            return False  # a preference may be ignored (RFC 7240, 2)
        try:
            return self._dispatcher.wait(deliveries, seconds)
        finally:
            self._waiters.release()

    def _find(self, request: Request) -> Delivery:
        delivery = self._dispatcher.find(request.parameters[0])
        if delivery is None:
            raise Problem(404, f"there is no delivery {request.parameters[0]}, or no longer")
        return delivery

    def _check_event_types(self, value: Any) -> list[str]:
        known = ", ".join(self._event_types)
        if not isinstance(value, list) or not value:
            raise Problem(422, f"event_types is {shown(value)}, expected a list with one or more of {known}")
        if len(value) > MAX_EVENT_TYPES:
            raise Problem(422, f"event_types has {len(value)} entries, expected {MAX_EVENT_TYPES} at most")
        for name in value:
            if name not in self._event_types:
                raise Problem(422, f"event_types has {shown(name)}, expected only {known}")
        return list(dict.fromkeys(value))

    def _check_destination(self, request: Request, url: str) -> None:
        host = urllib.parse.urlsplit(url).hostname or ""
        if spelled(host) == "link-local":
            raise Problem(403, f"{host} is a link-local destination, which nobody may register")
        reason = None if is_local(request) else self._guard.refuse_spelling(host)
        if reason:
            raise Problem(403, reason)

    def _permit(self, request: Request, carried: str | None) -> Callable[[str | None], None]:
        """Who may change what belongs to a URL with a secret: those who carry it, and local callers."""

        def permit(secret: str | None) -> None:
            if secret is None or is_local(request):
                return
            if carried is None or not hmac.compare_digest(secret.encode(), carried.encode()):
                raise Problem(403, "this url has a secret: send the same one as secret to change its webhooks")

        return permit

    def _limit(self, request: Request) -> None:
        seconds = 0.0 if is_local(request) else self._allowance.take()
        if seconds:
            detail = f"strangers may ping and trigger {STRANGER_RATE:.0f} times a second; try again later"
            raise Problem(429, detail, {"Retry-After": f"{max(1, round(seconds))}"})

    def _is_owner(self, request: Request) -> bool:
        return is_local(request) or bool(self._token) and carries(request, self._token)

    def _owner_only(self, request: Request) -> None:
        if not is_local(request):
            if not self._token:
                raise Problem(403, "for local callers only; the owner can start the exposee with --token")
            self._check_token(request)

    def _check_token(self, request: Request) -> None:
        if not carries(request, self._token):
            detail = "the token is missing or wrong, expected the field Authorization: Bearer TOKEN"
            raise Problem(401, detail, {"WWW-Authenticate": "Bearer"})


def page_answer(path: Path) -> Answer:
    """The page, with a policy under which nothing runs but its own script, and nothing is fetched from elsewhere.

    A browser hashes what it has parsed, in which every line ends with LF, whatever the file has.
    """
    page = path.read_bytes().replace(b"\r\n", b"\n")

    def source(tag: bytes) -> str:
        inside = page.partition(b"<%b>" % tag)[2].partition(b"</%b>" % tag)[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"

    policy = (
        f"default-src 'none'; connect-src 'self'; script-src {source(b'script')}; style-src {source(b'style')}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Answer(200, page, headers, "text/html; charset=utf-8")


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """What the disk or the office refuses is the client's 503."""
    try:
        yield
    except (StoreError, Full) as error:
        raise Problem(503, str(error), {"Retry-After": "5"}) from None


# --- the command line ----------------------------------------------------------------------------------------


def seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds up to a day")
    return number


def schedule(value: str) -> tuple[float, ...]:
    return tuple(seconds(item) for item in value.split(",")) if value else ()


def event_names(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name == PING:
            raise argparse.ArgumentTypeError(f"{name} is what GET /ping sends, expected another name")
        if not EVENT_NAME.fullmatch(name):
            raise argparse.ArgumentTypeError(f"{name!r} is no event type, expected letters, digits, _ . -")
    return names


def store_path(value: str) -> Path:
    path = Path(value)
    if path.suffix != ".json" or path.stem == JOURNAL.stem:
        raise argparse.ArgumentTypeError(f"{value!r} is not a name like webhooks.json ({JOURNAL} lies beside it)")
    return path


def worker_count(value: str) -> int:
    if not re.fullmatch("[1-9][0-9]?", value) or int(value) > 64:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from 1 to 64")
    return int(value)


def parser() -> argparse.ArgumentParser:
    options = terminal.Parser("Let integrators register webhooks, and deliver events to them.")
    add = options.add_argument
    add("--host", type=terminal.host_name, default="127.0.0.1", help="where to listen; 0.0.0.0 lets the network in")
    add("--port", type=terminal.port_number, default=3000, help="port to listen on")
    add("--store", type=store_path, default=Path("webhooks.json"), help="the webhooks; the journal lies beside it")
    add("--event-types", type=event_names, default=",".join(EVENT_TYPES), help="known event types, by commas")
    plan = ",".join(f"{delay:.0f}" for delay in RETRY_SCHEDULE)
    add("--retry-schedule", type=schedule, default=plan, help="seconds between attempts, by commas; '' for one only")
    add("--timeout", type=seconds, default=10.0, help="seconds for one attempt")
    add("--workers", type=worker_count, default=1, metavar="N", help="sender threads")
    add("--token", help="opens the lists to strangers who carry it; or EXPOSEE_TOKEN, which ps does not show")
    add("--allow-private", action="store_true", help="strangers may register private addresses (one Wi-Fi)")
    add("--raw", action="store_true", help="print every exchange as it was on the wire")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run an exposee until it is told to stop. 0 then; 2 for what keeps it from starting."""
    terminal.set_up()
    options = parser().parse_args(argv)
    with contextlib.ExitStack() as files:
        try:
            server, dispatcher, journal, printer = build(options, files)
        except (StoreError, OSError) as error:
            return terminal.fail(error, 2)
        stop_on_signals(server)
        stay_on_one_core()
        print(f"Exposee on {server.url}, Ctrl-C stops it", flush=True)
        dispatcher.start()
        server.run()
        waiting = dispatcher.close()
        printer.close()
    print(f"Stopped; {waiting} {'delivery waits' if waiting == 1 else 'deliveries wait'} in {journal.path}")
    return 0


def build(
    options: argparse.Namespace, files: contextlib.ExitStack
) -> tuple[Server, Dispatcher, Journal, terminal.Printer]:
    """Put the rooms of the house together. `files` closes in the end what has been opened."""
    printer = terminal.Printer()
    guard = Guard(options.allow_private)
    store = WebhookStore(options.store, url_problem)
    files.callback(store.close)
    journal = Journal(options.store.with_suffix(f".{JOURNAL}"))
    files.callback(journal.close)
    dispatcher = Dispatcher(
        store,
        journal,
        guard,
        schedule=options.retry_schedule,
        timeout=options.timeout,
        workers=options.workers,
        log=printer.say,
        show=show_attempt(printer) if options.raw else lambda delivery, attempt: None,
    )
    token = options.token or os.environ.get("EXPOSEE_TOKEN", "")
    exposee = Exposee(store, dispatcher, event_types=options.event_types, guard=guard, token=token)
    server = Server((options.host, options.port), exposee.routes, printer if options.raw else None)
    unknown = {entry["event"] for entry in store.webhooks()} - set(options.event_types)
    warnings = [f"{options.store}: nobody can trigger {name}, an unknown event type" for name in sorted(unknown)]
    for warning in [journal.warning, *warnings]:
        if warning:
            print(f"warning: {terminal.printable(warning)}", file=sys.stderr)
    return server, dispatcher, journal, printer


def stay_on_one_core() -> None:
    """Keep all threads on one core, where the system can do that.

    One thread of Python runs at a time anyway, and to wake the next one on another core costs an interrupt:
    accepting events is 1.5 times faster without. The last core, because the first one has the system's own work
    (a registration took 0.1 ms longer there). The price: TLS has no core to itself. Not SCHED_BATCH as well: it is
    5 % faster alone on a machine, and 3 times slower, 25 times for a registration, beside programs that compute.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def show_attempt(printer: terminal.Printer) -> Callable[[Delivery, Attempt], None]:
    number = itertools.count(1)

    def show(delivery: Delivery, attempt: Attempt) -> None:
        title = f"--- attempt {next(number)}: we call {delivery.url}" + (f": {attempt.error}" if attempt.error else "")
        request, response = attempt.request or b"", attempt.response or b""
        printer.show(title, ("> ", request, None), ("< ", response, attempt.received))

    return show


if __name__ == "__main__":
    sys.exit(main())
