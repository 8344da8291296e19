"""What the owner of an exposee sees and asks for: the page, the lists, deliveries, redeliveries, the stream of changes.

    GET   /  /webhooks  /deliveries  /deliveries/{id}  /deliveries/stream
    POST  /deliveries/{id}/attempts  /deliveries/attempts

Only local callers may ask for these, and callers with the token. `greeting` is what the terminal says at the start.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from delivery import Dispatcher
from history import History, delivery_json
from journal import Journal
from messages import STATES, Delivery
from ondemand import OnDemand
from rules import Rules, members, recovery
from server import Routes, page
from store import WebhookStore
from strict_json import shown
from wire import Answer, Problem, Request

MAX_STREAMS = 8  # at once, each of which holds a connection
STREAM_BATCH = 500  # changes that a stream tells of at once
STREAM_PAUSE = 0.1  # seconds between two looks at what has changed: no eye is faster
STREAM_BEAT = 10.0  # seconds without news after which a stream says that it is still there
PAGE = Path(__file__).with_name("console.html")


class Owner:
    """The owner's handlers, by route."""

    def __init__(self, store: WebhookStore, history: History, on_demand: OnDemand, rules: Rules) -> None:
        self._store, self._history, self._on_demand, self._rules = store, history, on_demand, rules
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        self.routes: Routes = {
            "/": {"GET": self.page},
            "/webhooks": {"GET": self.webhooks},
            "/deliveries": {"GET": self.deliveries},
            "/deliveries/stream": {"GET": self.stream},
            "/deliveries/attempts": {"POST": self.recover},
            "/deliveries/{id}": {"GET": self.delivery},
            "/deliveries/{id}/attempts": {"POST": self.redeliver},
        }

    def page(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        return page(PAGE)

    def webhooks(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        return Answer(200, {"webhooks": self._store.webhooks()})

    def deliveries(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        wanted, limit = request.query, request.query.get("limit", "100")
        if not re.fullmatch("[1-9][0-9]{0,2}|1000", limit):
            raise Problem(422, f"limit is {shown(limit)}, expected a number from 1 to 1000")
        if wanted.get("state", STATES[0]) not in STATES:
            raise Problem(422, f"state is {shown(wanted['state'])}, expected one of {', '.join(STATES)}")

        def matches(delivery: Delivery) -> bool:
            return wanted.get("url") in (None, delivery.url) and wanted.get("state") in (None, delivery.state)

        found = self._history.newest(matches, int(limit), wanted.get("message", ""))
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
        count = self._on_demand.recover(recovery(members(request, "state", "url", "since")))
        return Answer(202, {"message": f"{count} deliveries will be attempted once more", "deliveries": count})

    def stream(self, request: Request) -> Answer:
        self._rules.owner_only(request)
        if not self._streams.acquire(blocking=False):
            raise Problem(503, f"{MAX_STREAMS} streams are open, which is the limit", {"Retry-After": "5"})
        events, headers = self._events(self._history.version), {"Cache-Control": "no-store"}
        return Answer(200, events, headers, "text/event-stream", after=lambda sent: self._streams.release())

    def _events(self, version: int) -> Iterator[bytes]:
        """Server-sent events, one for each delivery that has changed since this version of the history."""
        yield b"retry: 1000\n\n"  # milliseconds until a browser comes back after a dropped connection
        while changes := self._history.changes(version, STREAM_BATCH, STREAM_BEAT):
            version, deliveries = changes
            changed = [json.dumps(delivery_json(delivery)) for delivery in deliveries]
            yield "".join(f"event: delivery\ndata: {text}\n\n" for text in changed).encode() or b": nothing new\n\n"
            time.sleep(STREAM_PAUSE)

    def _find(self, request: Request) -> Delivery:
        delivery = self._history.find(request.parameters[0])
        if delivery is None:
            raise Problem(404, f"there is no delivery {request.parameters[0]}, or no longer")
        return delivery


def greeting(
    store: WebhookStore, journal: Journal, dispatcher: Dispatcher, chosen: argparse.Namespace
) -> Iterator[str]:
    """What the owner should know of the files and the options, a line each."""
    stored = f"{store.count()} webhook(s) of {len(store.urls())} URL(s)"
    yield f"{chosen.store}: {stored}, {waiting(dispatcher.counts()['waiting'])}"
    if chosen.token:
        yield "behind nginx all callers look local, and need no token, until it has README's two lines"
    if journal.warning:
        yield f"warning: {journal.warning}"
    for name in sorted({entry["event"] for entry in store.webhooks()} - set(chosen.event_types)):
        yield f"warning: {store.path}: nobody can trigger {name}, an unknown event type"
    orphans = dispatcher.orphans()
    if orphans:
        count, url = sum(orphans.values()), next(iter(orphans))
        what = f"{count} deliveries wait for {len(orphans)} URLs that are not registered for them, such as {url}"
        yield f"warning: {what}: register them to have these sent, or unregister them"


def waiting(count: int) -> str:
    return f"{count} {'delivery waits' if count == 1 else 'deliveries wait'}"
