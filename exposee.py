"""The exposee: lets integrators register URLs for event types, pings them, and delivers events to them.

    POST   /webhooks/register    {"url", "event_types": [..], "secret"?, "old_secret"?}
    DELETE /webhooks/unregister  {"url", "event", "secret"?}
    GET    /ping                 ping every registered URL
    POST   /trigger              {"event", "data"}: deliver an event to all URLs that are registered for it
    POST   /webhooks/ping-back   {"url"}: an integrator confirms a ping
    GET    /  /webhooks  /event-types  /health  /deliveries  /deliveries/{id}  /deliveries/stream
    POST   /deliveries/{id}/attempts  /deliveries/attempts

Try:  curl -H 'Content-Type: application/json' -d '{"event": "payment_received", "data": 1}' localhost:3000/trigger

Here it is decided what a request may do and what it is answered. server.py and wire.py make requests of bytes, store.py
keeps the webhooks, delivery.py plans, sender.py sends.

Left out on purpose: accounts. There are local callers, who own the machine, and strangers, who came through a tunnel
or the network and may do what the exercise needs (callers.py, rules.py).
"""

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import options
import strict_json
from addresses import Guard, url_problem
from callers import is_delivery, is_local
from delivery import Dispatcher
from durable import StoreError
from endpoints import RETRY_SCHEDULE
from history import Reused, delivery_json
from journal import Journal
from messages import DELIVERED, PING, PING_DATA, STATES, Delivery, Full, NotPossible, body_of, new_message_id
from ondemand import OnDemand
from rules import Rules, check_secret, check_url, idempotency_key, members, permit, preferred_wait, recovery, text
from server import Routes, Server, page, stay_on_one_core, stop_on_signals
from store import WebhookStore
from strict_json import shown
from terminal import brief
from wire import MAX_BODY, Answer, Problem, Request

EVENT_TYPES = ("payment_received", "payment_processed", "invoice_processing", "invoice_completed")
PING_SECONDS = 5.0  # that GET /ping waits for the outcomes
MAX_WAITING = 16  # requests with Prefer: wait at once, each of which holds a connection
MAX_PINGS = 12  # GET /ping at once
MAX_STREAMS = 8  # the same of streams
STREAM_BATCH = 500  # changes that a stream tells of at once
STREAM_PAUSE = 0.1  # seconds between two looks at what has changed: no eye is faster
STREAM_BEAT = 10.0  # seconds without news after which a stream says that it is still there
PAGE = Path(__file__).with_name("console.html")


class Exposee:
    """The handlers, by route; each takes a Request and returns an Answer or raises a Problem."""

    def __init__(
        self, store: WebhookStore, dispatcher: Dispatcher, rules: Rules, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._store, self._dispatcher, self._rules, self._say = store, dispatcher, rules, say
        self._on_demand = OnDemand(dispatcher)
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._pings = threading.BoundedSemaphore(MAX_PINGS)
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        routes: Routes = {
            "/": {"GET": self.page},
            "/webhooks/register": {"POST": self.register},
            "/webhooks/unregister": {"DELETE": self.unregister},
            "/ping": {"GET": self.ping, "HEAD": None},  # else HEAD would send pings, too
            "/trigger": {"POST": self.trigger},
            "/webhooks/ping-back": {"POST": self.ping_back},
            "/webhooks": {"GET": self.webhooks},
            "/event-types": {"GET": self.event_types},
            "/health": {"GET": self.health},
            "/deliveries": {"GET": self.deliveries},
            "/deliveries/stream": {"GET": self.stream},
            "/deliveries/attempts": {"POST": self.recover},
            "/deliveries/{id}": {"GET": self.delivery},
            "/deliveries/{id}/attempts": {"POST": self.redeliver},
        }
        self.routes: Routes = {
            path: {method: handler and refusals()(handler) for method, handler in methods.items()}  # None stays
            for path, methods in routes.items()
        }

    # The five routes of the exercise: for everyone

    def register(self, request: Request) -> Answer:
        body = members(request, "url", "event_types", "secret", "old_secret")
        url, secret = check_url(body.get("url")), check_secret(body.get("secret"))
        old_secret = check_secret(body.get("old_secret"), "old_secret")
        events = self._rules.check_event_types(body.get("event_types"))
        self._rules.check_destination(request, url)
        may_change = permit(request, secret, old_secret)

        def accept(protected_by: str | None) -> None:
            may_change(protected_by)
            self._dispatcher.housekeeper.forget(url)

        self._store.register(url, events, secret, accept)
        self._dispatcher.registered(url)
        signed = ", signed" if self._store.secrets(url) else ""
        self._say(f"registered for {brief(', '.join(events))}{signed}: {brief(url)}")
        return Answer(200, {"message": f"Webhook registered for: {', '.join(events)}"})

    def unregister(self, request: Request) -> Answer:
        body = members(request, "url", "event", "secret")
        url, event, secret = text(body, "url"), text(body, "event"), check_secret(body.get("secret"))
        gone = 0
        count = self._store.unregister(url, event, permit(request, secret))
        if count or is_local(request):  # the owner may give up what waits for a webhook that is gone
            gone = self._dispatcher.cancel(url, event)
        if count or gone:
            cancelled = f", {gone} waiting cancelled" if gone else ""
            self._say(f"unregistered from {brief(event)}{cancelled}: {brief(url)}")
        if not count:
            raise Problem(404, "0 webhook(s) unregistered")
        return Answer(200, {"message": f"{count} webhook(s) unregistered"})

    def ping(self, request: Request) -> Answer:
        self._rules.limit(request)
        if not self._pings.acquire(blocking=False):
            raise Problem(503, f"{MAX_PINGS} pings wait for their outcomes already", {"Retry-After": "1"})
        try:
            deliveries = self._on_demand.ping()
            self._dispatcher.history.wait(deliveries, PING_SECONDS)
        finally:
            self._pings.release()
        newest = max((delivery.message for delivery in deliveries), key=lambda message: message.time, default=None)
        return self._outcome(request, "Ping", newest.id if newest else new_message_id(), deliveries)

    def trigger(self, request: Request) -> Answer:
        self._rules.limit(request)
        self._rules.check_token_if_set(request)
        if is_delivery(request):
            endless = "this is a delivery of an exposee: a webhook that leads to /trigger would never end"
            raise Problem(508, f"{endless}; unregister that URL")
        key, body = idempotency_key(request), members(request, "event", "data")
        event = self._rules.check_event(body.get("event"))
        if "data" not in body:
            raise Problem(422, "data is missing, expected any JSON value")
        sent = body_of(event, strict_json.member(request.body or b"", "data"))
        if len(sent) > MAX_BODY:
            raise Problem(413, f"the deliveries would have bodies over {MAX_BODY:,} bytes")
        message = self._dispatcher.trigger(event, sent, key)
        deliveries = [delivery for delivery in message.deliveries if delivery is not None]
        # a repeated key may be that of a message whose deliveries are forgotten in part: they cannot be waited for
        count, seconds = message.count, preferred_wait(request)
        if seconds is not None and len(deliveries) == count and self._wait(deliveries, seconds):
            answer = self._outcome(request, event, message.id, deliveries)
            answer.headers["Preference-Applied"] = f"wait={seconds:.0f}"
            return answer
        queued = f"{event} queued for {count} webhook(s)" if count else self._nobody(event)
        location = {"Location": f"/deliveries?message={message.id}"}
        return Answer(202, {"message": queued, "id": message.id}, location)

    def ping_back(self, request: Request) -> Answer:
        url = text(members(request, "url"), "url")
        if not self._store.has(url):
            raise Problem(404, f"url is not registered: register {shown(url)} first")
        try:
            self._on_demand.confirm_ping(url)
        except NotPossible as error:
            raise Problem(409, self._rules.reason(request, url, str(error))) from None
        self._say(f"ping confirmed: {brief(url)}")
        return Answer(200, {"event": PING, "data": PING_DATA})

    # For everyone as well

    def event_types(self, request: Request) -> Answer:
        return Answer(200, {"event_types": list(self._rules.event_types)})

    def health(self, request: Request) -> Answer:
        return Answer(200, {"status": "ok", "webhooks": self._store.count(), **self._dispatcher.counts()})

    # For local callers, and for those with the token

    def page(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        return page(PAGE)

    def webhooks(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        return Answer(200, {"webhooks": self._store.webhooks()})

    def deliveries(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        wanted, limit = request.query, request.query.get("limit", "100")
        if not re.fullmatch("[1-9][0-9]{0,3}", limit) or int(limit) > 1_000:
            raise Problem(422, f"limit is {shown(limit)}, expected a number from 1 to 1000")
        if wanted.get("state", STATES[0]) not in STATES:
            raise Problem(422, f"state is {shown(wanted['state'])}, expected one of {', '.join(STATES)}")

        def matches(delivery: Delivery) -> bool:
            return wanted.get("url") in (None, delivery.url) and wanted.get("state") in (None, delivery.state)

        found = self._dispatcher.history.newest(matches, int(limit), wanted.get("message", ""))
        return Answer(200, {"deliveries": list(map(delivery_json, found))})

    def delivery(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        return Answer(200, delivery_json(self._find(request), attempts=True))

    def redeliver(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        delivery = self._find(request)
        self._on_demand.redeliver(delivery)
        body = {"message": f"one more attempt of {delivery.id} queued", "id": delivery.id}
        return Answer(202, body, {"Location": f"/deliveries/{delivery.id}"})

    def recover(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        matches = recovery(members(request, "state", "url", "since"))
        count = self._on_demand.recover(matches)
        return Answer(202, {"message": f"{count} deliveries will be attempted once more", "deliveries": count})

    def stream(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        if not self._streams.acquire(blocking=False):
            raise Problem(503, f"{MAX_STREAMS} streams are open, which is the limit", {"Retry-After": "5"})
        events = self._events(self._dispatcher.history.version)
        no_store = {"Cache-Control": "no-store"}
        return Answer(200, events, no_store, "text/event-stream", after=lambda sent: self._streams.release())

    def _events(self, version: int) -> Iterator[bytes]:
        """Server-sent events, one for each delivery that has changed since this version of the history."""
        yield b"retry: 1000\n\n"  # milliseconds until a browser comes back after a dropped connection
        while True:
            changes = self._dispatcher.history.changes(version, STREAM_BATCH, STREAM_BEAT)
            if changes is None:
                return
            version, deliveries = changes
            changed = [json.dumps(delivery_json(delivery)) for delivery in deliveries]
            yield "".join(f"event: delivery\ndata: {text}\n\n" for text in changed).encode() or b": nothing new\n\n"
            time.sleep(STREAM_PAUSE)

    # What the handlers share

    def _outcome(self, request: Request, what: str, message_id: str, deliveries: list[Delivery]) -> Answer:
        """How the first attempts went: a stranger learns the counts only."""
        delivered = sum(delivery.state == DELIVERED for delivery in deliveries)
        message = f"{what} delivered to {delivered} of {len(deliveries)} webhook(s)"
        if not deliveries:
            message = self._nobody("any event" if what == "Ping" else what)
        body: dict[str, Any] = {"message": message, "id": message_id}
        if self._rules.is_owner(request):
            body["deliveries"] = list(map(delivery_json, deliveries))
        return Answer(200, body)

    def _nobody(self, event: str) -> str:
        """That nothing is sent, also for the terminal, where a pair would wait for a delivery's line."""
        self._say(f"nothing to deliver: nobody is registered for {event}")
        return f"nobody is registered for {event}"

    def _wait(self, deliveries: list[Delivery], seconds: float) -> bool:
        if not self._waiting.acquire(blocking=False):
            return False  # a preference may be ignored (RFC 7240, 2)
        try:
            return self._dispatcher.history.wait(deliveries, seconds)
        finally:
            self._waiting.release()

    def _find(self, request: Request) -> Delivery:
        delivery = self._dispatcher.history.find(request.parameters[0])
        if delivery is None:
            raise Problem(404, f"there is no delivery {request.parameters[0]}, or no longer")
        return delivery


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What the disk or the dispatcher refuses a handler becomes a Problem."""
    try:
        yield
    except (StoreError, Full) as error:
        raise Problem(503, str(error), {"Retry-After": "5"}) from None
    except NotPossible as error:
        raise Problem(409, str(error)) from None
    except Reused as error:
        raise Problem(422, str(error)) from None


# --- the command line ----------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = options.Parser("Let integrators register webhooks, and deliver events to them.")
    add, default = parser.add_argument, "(default: %(default)s)"
    network = f"where to listen; 0.0.0.0 lets the network in {default}"
    add("--host", type=options.host_name, default="127.0.0.1", help=network)
    add("--port", type=options.port_number, default=3000, help=f"port to listen on {default}")
    beside = f"the webhooks; secrets, journal and lock lie beside it {default}"
    add("--store", type=options.store_path, default="webhooks.json", help=beside)
    known, plan = ",".join(EVENT_TYPES), ",".join(f"{delay:.0f}" for delay in RETRY_SCHEDULE)
    names = f"known event types, comma-separated (default: {known.replace(',', ', ')})"
    add("--event-types", type=options.event_names, default=known, help=names)
    delays = f"seconds between attempts, comma-separated; '' for one attempt only (default: {plan.replace(',', ', ')})"
    add("--retry-schedule", type=options.schedule, default=plan, help=delays)
    add("--timeout", type=options.seconds, default="10", help=f"seconds for one attempt {default}")
    add("--workers", type=options.thread_count, default=1, metavar="N", help=f"sender threads {default}")
    token, variable = options.credential("EXPOSEE_TOKEN"), os.environ.get("EXPOSEE_TOKEN")
    opens = "strangers need it to trigger, and may see the lists with it, or EXPOSEE_TOKEN (hidden from `ps`)"
    add("--token", type=token, default=variable, help=opens)
    add("--allow-private", action="store_true", help="strangers may register private addresses (one Wi-Fi)")
    add("--raw", action="store_true", help="print every request and answer")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run an exposee until it is told to stop. 0 then; 2 for what keeps it from starting."""
    chosen = parser().parse_args(argv)
    printer = terminal.Printer()  # a slow terminal holds up no delivery
    try:
        with contextlib.ExitStack() as ending:
            build(chosen, printer, ending).run()
    except (StoreError, OSError) as error:
        return terminal.fail(error, 2)
    return 0


def build(chosen: argparse.Namespace, printer: terminal.Printer, ending: contextlib.ExitStack) -> Server:
    """A server that is ready to run; `ending` stops and closes what it needs."""
    guard, show = Guard(chosen.allow_private), printer.show if chosen.raw else None
    server = Server((chosen.host, chosen.port), {}, show, printer.log)  # before any file is touched
    ending.callback(server.server_close)
    stop_on_signals(server)  # before anybody is told that it runs
    store = WebhookStore(chosen.store, url_problem, log=printer.log)
    ending.callback(store.close)
    journal = Journal(store.path.with_suffix(".deliveries.jsonl"))
    ending.callback(journal.close)
    dispatcher = Dispatcher(
        store,
        journal,
        guard,
        schedule=chosen.retry_schedule,
        timeout=chosen.timeout,
        workers=chosen.workers,
        log=printer.log,
        show=show,
    )
    rules = Rules(chosen.event_types, guard, chosen.token or "")
    server.set_routes(Exposee(store, dispatcher, rules, printer.log).routes)
    stay_on_one_core()
    printer.say(f"Exposee on {server.url}{server.everywhere}, Ctrl-C stops it")
    stored = f"{store.count()} webhook(s) of {len(store.urls())} URL(s)"
    printer.say(f"{chosen.store}: {stored}, {waiting(dispatcher.counts()['waiting'])}")
    if chosen.token:
        printer.say("behind nginx all callers look local, and need no token, until it has README's two lines")
    for warning in warnings(store, journal, dispatcher, chosen.event_types):
        printer.say(f"warning: {warning}")
    dispatcher.start()

    def stop(error: type[BaseException] | None, *_: object) -> bool:
        hurried = error is KeyboardInterrupt  # a second Ctrl-C before `run` had ended
        left = dispatcher.close(0.0) if hurried else dispatcher.close()
        printer.close(f"Stopped; {waiting(left)} in {journal.path}")
        return hurried  # True: the KeyboardInterrupt ends here

    ending.push(stop)
    return server


def waiting(count: int) -> str:
    return f"{count} {'delivery waits' if count == 1 else 'deliveries wait'}"


def warnings(
    store: WebhookStore, journal: Journal, dispatcher: Dispatcher, event_types: Sequence[str]
) -> Iterator[str]:
    """What the owner should know of the files, a line each."""
    if journal.warning:
        yield journal.warning
    for name in sorted({entry["event"] for entry in store.webhooks()} - set(event_types)):
        yield f"{store.path}: nobody can trigger {name}, an unknown event type"
    orphans = dispatcher.orphans()
    if orphans:
        count, url = sum(orphans.values()), next(iter(orphans))
        what = f"{count} deliveries wait for {len(orphans)} URLs that are not registered for them, such as {url}"
        yield f"{what}: register them to have these sent, or unregister them"


if __name__ == "__main__":
    terminal.run(main)
