"""What the exposee is asked and what it answers, written down once.

test_contract.py holds the exposee to this table, and makes of the same table a fake exposee, with which an
integrator tests code without a server. An exchange may need facts that earlier exchanges have brought about;
`{url}` stands for the receiver's URL.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

JSON, PROBLEM = "application/json", "application/problem+json"
STRANGER = {"X-Forwarded-For": "203.0.113.7"}  # as a tunnel adds it
KNOWN = "payment_received, payment_processed, invoice_processing, invoice_completed"
TITLES = {  # RFC 9110, 15: Python's own phrases differ between its versions
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
}

# The facts: for what {url} is registered, and what has been sent to it
A, B = "payment_received", "invoice_completed"
PINGED, CONFIRMED, TRIGGERED, KEYED = "pinged", "confirmed", "triggered", "triggered with a key"


class Like(str):
    """An example of a text, which also knows the pattern of all that may stand in its place."""

    pattern: str

    def __new__(cls, example: str, pattern: str) -> Like:
        self = super().__new__(cls, example)
        self.pattern = pattern
        assert self.matches(example), (example, pattern)
        return self

    def matches(self, value: object) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


def begins(text: str) -> Like:
    """For details of which only the beginning is promised."""
    return Like(text, re.escape(text) + ".*")


class Count(int):
    """An example of a number; any other from zero on may stand in its place."""


class Seconds(float):
    """An example of a duration, in whose place any other may stand."""


MESSAGE = Like("msg_0123456789abcdef01234567", "msg_[0-9a-f]{24}")
DELIVERY = Like("dlv_0123456789abcdef01234567_0", r"dlv_[0-9a-f]{24}_\d+")
TIME = Like("2025-01-31T12:00:00.000000Z", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LOCATION = Like(f"/deliveries?message={MESSAGE}", rf"/deliveries\?message={MESSAGE.pattern}")


def agrees(expected: Any, given: Any) -> bool:
    """Whether `given` is what the table expects: equal, but for examples, whose kind is enough."""
    if isinstance(expected, Like):
        return expected.matches(given)
    if isinstance(expected, Count):
        return type(given) is int and given >= 0
    if isinstance(expected, Seconds):
        return type(given) is float and given >= 0
    if isinstance(expected, dict):
        same_keys = isinstance(given, dict) and expected.keys() == given.keys()
        return same_keys and all(agrees(value, given[key]) for key, value in expected.items())
    if isinstance(expected, list):
        same_length = isinstance(given, list) and len(expected) == len(given)
        return same_length and all(map(agrees, expected, given))
    return type(expected) is type(given) and expected == given


def filled(value: Any, url: str) -> Any:
    """`value` with {url} replaced, at any depth."""
    if isinstance(value, dict):
        return {key: filled(item, url) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, url) for item in value]
    return value.replace("{url}", url) if isinstance(value, str) and "{url}" in value else value


@dataclass(frozen=True)
class Exchange:
    """A request and its answer, where all facts of `needs` hold and none of `lacks`."""

    name: str
    method: str
    path: str
    status: int
    answer: Any
    body: Any = None  # bytes are sent as they are, anything else as JSON
    headers: dict[str, str] = field(default_factory=dict)
    answer_headers: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return PROBLEM if self.status >= 400 else JSON

    def possible(self, facts: set[str]) -> bool:
        return facts.issuperset(self.needs) and facts.isdisjoint(self.lacks)

    def happen(self, facts: set[str]) -> None:
        facts.update(self.adds)
        facts.difference_update(self.removes)

    def sent_headers(self) -> dict[str, str]:
        return {**({"Content-Type": JSON} if self.body is not None else {}), **self.headers}

    def sent_body(self, url: str) -> bytes | None:
        raw = self.body is None or isinstance(self.body, bytes)
        return self.body if raw else json.dumps(filled(self.body, url)).encode()


def problem(status: int, detail: str) -> dict[str, Any]:
    return {"title": TITLES[status], "status": status, "detail": detail}


def delivery(event: str, **more: Any) -> dict[str, Any]:
    """A delivery that succeeded at once, as the lists show it."""
    ids = {"id": DELIVERY, "message": MESSAGE, "event": event, "url": "{url}", "state": "delivered"}
    return {**ids, "time": TIME, "attempt_count": 1, "status": 204, "duration": Seconds(0.002), **more}


PING_EVENT = {"event": "ping", "data": "Ping from Exposee"}
PING_DELIVERY = delivery("ping", confirmed=False)
PING_OUTCOME = {"message": "Ping delivered to 1 of 1 webhook(s)", "id": MESSAGE}
REGISTRATION = {"url": "{url}", "event_types": [A, B]}
EVENT = {"event": A, "data": {"amount": 100}}
ENTRY_A, ENTRY_B = {"url": "{url}", "event": A}, {"url": "{url}", "event": B}
NOT_A_URL = "expected an absolute http or https URL"
REGISTER, UNREGISTER, PING_BACK = "/webhooks/register", "/webhooks/unregister", "/webhooks/ping-back"
RECOVER = "/deliveries/attempts"
KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


def refused(name: str, path: str, body: Any, status: int, detail: str, method: str = "POST", **more: Any) -> Exchange:
    """An exchange that ends in a problem and changes nothing."""
    return Exchange(name, method, path, status, problem(status, detail), body, **more)


EXCHANGES = [
    # Register
    Exchange(
        "register for two event types", "POST", REGISTER, 200,
        {"message": f"Webhook registered for: {A}, {B}"}, REGISTRATION, adds=(A, B),
    ),
    Exchange(
        "register for one event type", "POST", REGISTER, 200,
        {"message": f"Webhook registered for: {A}"}, {"url": "{url}", "event_types": [A]}, adds=(A,),
    ),
    refused("register without url", REGISTER, {"event_types": [A]}, 422, f"url is missing, {NOT_A_URL}"),
    refused(
        "register a path", REGISTER, {"url": "/hook", "event_types": [A]}, 422, f'url is "/hook", {NOT_A_URL}'
    ),
    refused(
        "register without event types", REGISTER, {"url": "{url}"}, 422,
        f"event_types is missing, expected a list with one or more of {KNOWN}",
    ),
    refused(
        "register for an unknown event type", REGISTER, {"url": "{url}", "event_types": ["lunch"]}, 422,
        f'an item of event_types is "lunch", expected one of {KNOWN}',
    ),
    refused(
        "register with a bad secret", REGISTER, {**REGISTRATION, "secret": "mellon"}, 422,
        begins("secret is not whsec_ and base64 of 24 to 64 bytes"),
    ),
    refused(
        "replace a secret by a bad old one", REGISTER, {**REGISTRATION, "old_secret": "mellon"}, 422,
        begins("old_secret is not whsec_ and base64 of 24 to 64 bytes"),
    ),
    refused(
        "register a private destination through a tunnel", REGISTER,
        {"url": "http://192.168.1.5/hook", "event_types": [A]}, 403,
        Like("192.168.1.5 is a private destination (--allow-private)", "192.168.1.5 is a private .*--allow-private.*"),
        headers=STRANGER,
    ),
    refused(
        "register localhost through a tunnel", REGISTER, {"url": "http://localhost:8080/hook", "event_types": [A]}, 403,
        "localhost is a loopback destination, which strangers may not register: this exposee is not on your machine; "
        "register the public URL of your tunnel with --url",
        headers=STRANGER,
    ),
    refused(
        "register as a form", REGISTER, b"url=x", 415,
        Like("add -H 'Content-Type: application/json'", ".*-H 'Content-Type: application/json'.*"),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    refused("register with half of a body", REGISTER, b'{"url": ', 400, begins("the body is not JSON")),
    # Unregister
    *(
        Exchange(
            f"unregister {event}", "DELETE", UNREGISTER, 200, {"message": "1 webhook(s) unregistered"},
            {"url": "{url}", "event": event}, needs=(event,), removes=(event,),
        )
        for event in (A, B)
    ),
    *(
        refused(
            f"unregister {event}, which is not registered", UNREGISTER, {"url": "{url}", "event": event}, 404,
            "0 webhook(s) unregistered", "DELETE", lacks=(event,),
        )
        for event in (A, B)
    ),
    refused(
        "unregister without an event", UNREGISTER, {"url": "{url}"}, 422, "event is missing, expected a text", "DELETE"
    ),
    # Ping and ping-back
    Exchange(
        "ping", "GET", "/ping", 200, {**PING_OUTCOME, "deliveries": [PING_DELIVERY]}, needs=(A,), adds=(PINGED,),
        removes=(CONFIRMED,),
    ),
    Exchange(
        "ping through a tunnel", "GET", "/ping", 200, PING_OUTCOME, headers=STRANGER, needs=(A,), adds=(PINGED,),
        removes=(CONFIRMED,),
    ),
    Exchange(
        "ping nobody", "GET", "/ping", 200,
        {"message": "nobody is registered for any event", "id": MESSAGE, "deliveries": []}, lacks=(A, B),
    ),
    Exchange(
        "ping nobody through a tunnel", "GET", "/ping", 200,
        {"message": "nobody is registered for any event", "id": MESSAGE}, headers=STRANGER, lacks=(A, B),
    ),
    Exchange(
        "ping-back", "POST", PING_BACK, 200, PING_EVENT, {"url": "{url}"}, needs=(A, PINGED), adds=(CONFIRMED,)
    ),
    refused(
        "ping-back before any ping", PING_BACK, {"url": "{url}"}, 409,
        begins("there is no ping to this url"), needs=(A,), lacks=(PINGED,),
    ),
    refused(
        "ping-back of an unregistered url", PING_BACK, {"url": "{url}"}, 404,
        begins("url is not registered"), lacks=(A, B),
    ),
    # Trigger
    Exchange(
        "trigger", "POST", "/trigger", 202, {"message": f"{A} queued for 1 webhook(s)", "id": MESSAGE}, EVENT,
        answer_headers={"Location": LOCATION}, needs=(A,), adds=(TRIGGERED,),
    ),
    Exchange(
        "trigger and wait", "POST", "/trigger", 200,
        {"message": f"{A} delivered to 1 of 1 webhook(s)", "id": MESSAGE, "deliveries": [delivery(A)]}, EVENT,
        headers={"Prefer": "wait=5"}, answer_headers={"Preference-Applied": "wait=5"}, needs=(A,), adds=(TRIGGERED,),
    ),
    Exchange(
        "trigger for nobody", "POST", "/trigger", 202, {"message": f"nobody is registered for {A}", "id": MESSAGE},
        EVENT, answer_headers={"Location": LOCATION}, lacks=(A,),
    ),
    Exchange(
        "trigger for nobody and wait", "POST", "/trigger", 200,
        {"message": f"nobody is registered for {A}", "id": MESSAGE, "deliveries": []}, EVENT,
        headers={"Prefer": "wait=5"}, answer_headers={"Preference-Applied": "wait=5"}, lacks=(A,),
    ),
    refused(
        "trigger an unknown event", "/trigger", {"event": "lunch", "data": 1}, 422,
        f'event is "lunch", expected one of {KNOWN}',
    ),
    Exchange(
        "trigger with a key, once or more", "POST", "/trigger", 202,
        {"message": f"{A} queued for 1 webhook(s)", "id": MESSAGE}, EVENT, headers=KEY,
        answer_headers={"Location": LOCATION}, needs=(A,), adds=(TRIGGERED, KEYED),
    ),
    refused(
        "trigger another event with the same key", "/trigger", {"event": A, "data": None}, 422,
        begins("this Idempotency-Key was used with another event or data"), headers=KEY, needs=(A, KEYED),
    ),
    refused(
        "trigger with a malformed key", "/trigger", EVENT, 400, begins("Idempotency-Key is malformed"),
        headers={"Idempotency-Key": "a b"},
    ),
    refused("trigger a ping", "/trigger", PING_EVENT, 422, f'event is "ping", expected one of {KNOWN}'),
    refused("trigger without data", "/trigger", {"event": A}, 422, "data is missing, expected any JSON value"),
    refused(
        "get the trigger", "/trigger", None, 405, begins("/trigger takes POST"), "GET",
        answer_headers={"Allow": "POST"},
    ),
    # Lists
    Exchange("list no webhooks", "GET", "/webhooks", 200, {"webhooks": []}, lacks=(A, B)),
    Exchange("list one webhook", "GET", "/webhooks", 200, {"webhooks": [ENTRY_A]}, needs=(A,), lacks=(B,)),
    Exchange("list two webhooks", "GET", "/webhooks", 200, {"webhooks": [ENTRY_A, ENTRY_B]}, needs=(A, B)),
    refused(
        "list webhooks through a tunnel", "/webhooks", None, 403,
        begins("for local callers only"), "GET", headers=STRANGER,
    ),
    Exchange("list event types", "GET", "/event-types", 200, {"event_types": KNOWN.split(", ")}),
    Exchange(
        "ask for its health", "GET", "/health", 200,
        {"status": "ok", "webhooks": Count(1), "waiting": Count(0), "under_way": Count(0)}, headers=STRANGER,
    ),
    Exchange(
        "list no deliveries", "GET", "/deliveries?url={url}", 200, {"deliveries": []}, lacks=(PINGED, TRIGGERED)
    ),
    Exchange(
        "list a ping", "GET", "/deliveries?url={url}&limit=1", 200, {"deliveries": [PING_DELIVERY]},
        needs=(A, PINGED), lacks=(CONFIRMED, TRIGGERED),
    ),
    Exchange(
        "list a confirmed ping", "GET", "/deliveries?url={url}&limit=1", 200,
        {"deliveries": [{**PING_DELIVERY, "confirmed": True}]}, needs=(A, PINGED, CONFIRMED), lacks=(TRIGGERED,),
    ),
    refused(
        "list no deliveries at all", "/deliveries?limit=0", None, 422,
        'limit is "0", expected a number from 1 to 1000', "GET",
    ),
    refused(
        "look at an unknown delivery", f"/deliveries/{DELIVERY}", None, 404,
        begins(f"there is no delivery {DELIVERY}"), "GET",
    ),
    refused(
        "redeliver an unknown delivery", f"/deliveries/{DELIVERY}/attempts", None, 404,
        begins(f"there is no delivery {DELIVERY}"),
    ),
    Exchange(
        "recover what has failed", "POST", RECOVER, 202,
        {"message": "0 deliveries will be attempted once more", "deliveries": 0}, {"url": "{url}"},
    ),
    refused(
        "recover without a filter", RECOVER, {}, 422, "the members are [], expected one or more of state, url, since"
    ),
    refused(
        "recover what was delivered", RECOVER, {"state": "delivered"}, 422,
        'state is "delivered", expected failed or cancelled',
    ),
    refused(
        "recover through a tunnel", RECOVER, {"state": "failed"}, 403, begins("for local callers only"),
        headers=STRANGER,
    ),
    refused(
        "ask for what is not there", "/nothing", None, 404, begins("there is no /nothing"), "GET"
    ),
]  # fmt: skip

BY_NAME = {exchange.name: exchange for exchange in EXCHANGES}
BROUGHT_ABOUT_BY = {
    A: BY_NAME["register for one event type"],
    B: BY_NAME["register for two event types"],
    PINGED: BY_NAME["ping"],
    CONFIRMED: BY_NAME["ping-back"],
    KEYED: BY_NAME["trigger with a key, once or more"],
}
