"""The exposee: lets integrators register URLs for event types, pings them, and delivers events to them.

    POST   /webhooks/register    {"url", "event_types": [..], "secret"?, "old_secret"?}
    DELETE /webhooks/unregister  {"url", "event", "secret"?}
    GET    /ping                 ping every registered URL
    POST   /trigger              {"event", "data"}: deliver an event to all URLs that are registered for it
    POST   /webhooks/ping-back   {"url"}: an integrator confirms a ping
    GET    /event-types  /health
    and what is the owner's alone: owner.py

Try:  curl -H 'Content-Type: application/json' -d '{"event": "payment_received", "data": 1}' localhost:3000/trigger

Each handler decides what a request may do and what it is answered. server.py and wire.py make requests of bytes,
store.py keeps the webhooks, delivery.py plans, sender.py sends.

Left out on purpose: accounts. There are local callers, who own the machine, and strangers, who came through a tunnel
or the network and may do what the exercise needs (addresses.py, rules.py).
"""

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import options
import strict_json
from addresses import Guard, is_local, url_problem
from delivery import Dispatcher
from durable import StoreError
from endpoints import RETRY_SCHEDULE
from history import Reused, delivery_json
from journal import Journal
from messages import DELIVERED, PING, PING_DATA, Delivery, Full, NotPossible, body_of, new_message_id
from ondemand import OnDemand
from owner import Owner, greeting, waiting
from rules import Rules, check_secret, check_url, idempotency_key, members, permit, preferred_wait, text
from server import Refusals, Routes, Server, stay_on_one_core, stop_on_signals
from store import WebhookStore
from terminal import brief
from wire import MAX_BODY, Answer, Problem, Request

EVENT_TYPES = ("payment_received", "payment_processed", "invoice_processing", "invoice_completed")
PING_SECONDS = 5.0  # that GET /ping waits for the outcomes
MAX_WAITING = 16  # requests with Prefer: wait at once, each of which holds a connection
MAX_PINGS = 12  # GET /ping at once, for the same reason
REFUSALS: Refusals = {StoreError: 503, Full: 503, NotPossible: 409, Reused: 422}  # of a handler


class Exposee:
    """The handlers, by route; each takes a Request and returns an Answer, or raises a Problem or one of REFUSALS."""

    def __init__(self, store: WebhookStore, dispatcher: Dispatcher, rules: Rules, say: Callable[[str], None]) -> None:
        self._store, self._dispatcher, self._rules, self._say = store, dispatcher, rules, say
        self._on_demand = OnDemand(dispatcher)
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._pings = threading.BoundedSemaphore(MAX_PINGS)
        self.routes: Routes = {
            "/webhooks/register": {"POST": self.register},
            "/webhooks/unregister": {"DELETE": self.unregister},
            "/ping": {"GET": self.ping, "HEAD": None},  # a HEAD would send pings
            "/trigger": {"POST": self.trigger},
            "/webhooks/ping-back": {"POST": self.ping_back},
            "/event-types": {"GET": self.event_types},
            "/health": {"GET": self.health},
            **Owner(store, dispatcher.history, self._on_demand, rules).routes,
        }

    # The five routes of the exercise: for everyone

    def register(self, request: Request) -> Answer:
        body = members(request, "url", "event_types", "secret", "old_secret")
        url, secret = check_url(body.get("url")), check_secret(body.get("secret"))
        old_secret = check_secret(body.get("old_secret"), "old_secret")
        events = self._rules.check_event_types(body.get("event_types"))
        self._rules.check_destination(request, url)
        may_change = permit(request, secret, old_secret)

        def accept(protected_by: str | None) -> None:  # in the store's turn
            may_change(protected_by)
            self._dispatcher.housekeeper.forget(url)  # a 410 from before does not unregister what is registered now

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
        # a ping that was under way is shared, so they may be of several messages
        newest = max((delivery.message for delivery in deliveries), key=lambda message: message.time, default=None)
        return self._outcome(request, "Ping", newest.id if newest else new_message_id(), deliveries)

    def trigger(self, request: Request) -> Answer:
        self._rules.limit(request)
        self._rules.check_token_if_set(request)
        if "webhook-id" in request.headers and request.headers.get("user-agent", "").startswith("Exposee/"):
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
        return Answer(202, {"message": queued, "id": message.id}, {"Location": f"/deliveries?message={message.id}"})

    def ping_back(self, request: Request) -> Answer:
        url = text(members(request, "url"), "url")
        if not self._store.has(url):
            raise Problem(404, f"url is not registered: register {strict_json.shown(url)} first")
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
        """Say that nothing is sent, at the terminal too, where a pair would wait for a delivery's line."""
        self._say(f"nothing to deliver: nobody is registered for {event}")
        return f"nobody is registered for {event}"

    def _wait(self, deliveries: list[Delivery], seconds: float) -> bool:
        if not self._waiting.acquire(blocking=False):
            return False  # a preference may be ignored (RFC 7240, 2)
        try:
            return self._dispatcher.history.wait(deliveries, seconds)
        finally:
            self._waiting.release()


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
    guard, show = Guard(chosen.allow_private), printer.show if chosen.raw else None
    try:
        with contextlib.ExitStack() as stack:  # its end closes what has been entered
            address = (chosen.host, chosen.port)
            server = stack.enter_context(Server(address, {}, show, printer.log, REFUSALS))  # before any file
            stop_on_signals(server)  # before anybody is told that it runs
            store = stack.enter_context(contextlib.closing(WebhookStore(chosen.store, url_problem, log=printer.log)))
            journal = stack.enter_context(contextlib.closing(Journal(store.path.with_suffix(".deliveries.jsonl"))))
            plan = {"schedule": chosen.retry_schedule, "timeout": chosen.timeout, "workers": chosen.workers}
            dispatcher = Dispatcher(store, journal, guard, **plan, log=printer.log, show=show)
            rules = Rules(chosen.event_types, guard, chosen.token or "")
            server.set_routes(Exposee(store, dispatcher, rules, printer.log).routes)
            stay_on_one_core()
            # with Python's 700, a fifteenth of the time goes into the search for cycles, of which no request leaves one
            gc.set_threshold(10_000)
            printer.say(f"Exposee on {server.url}{server.everywhere}, Ctrl-C stops it")
            printer.say(*greeting(store, journal, dispatcher, chosen))
            dispatcher.start()
            try:
                server.run()
                left = dispatcher.close()
            except KeyboardInterrupt:  # a second Ctrl-C
                left = dispatcher.close(0.0)
            printer.close(f"Stopped; {waiting(left)} in {journal.path}")
    except (StoreError, OSError) as error:
        return terminal.fail(error, 2)
    return 0


if __name__ == "__main__":
    terminal.run(main)
