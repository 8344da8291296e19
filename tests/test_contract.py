"""A verified fake: one table of exchanges holds for the exposee and is the fake that integrators test with.

A fake that somebody wrote by hand says what its author believed. This one cannot drift: each exchange, and a
whole client, are tried against the exposee in this process, as a program, and against the fake.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
import responses
from exchanges import BROUGHT_ABOUT_BY, EXCHANGES, Exchange, agrees, filled
from support import SECONDS, Listener, Pair, Program

LOOPBACK = re.compile(r"http://127\.0\.0\.1:\d+/")
NUMBERS = itertools.count()
TOLD_APART_BY = ("Prefer", "X-Forwarded-For", "Content-Type")  # headers on which an answer depends


class Fake:
    """An exposee for those who test their client: knows the table, and which facts hold; nothing else.

    Load it into a `responses.RequestsMock`. A request that is not in the table is a ConnectionError, as is every
    request to a host that nobody has mocked.
    """

    def __init__(self, mock: responses.RequestsMock, base: str, url: str) -> None:
        self._url = url
        self._facts: set[str] = set()
        for exchange in EXCHANGES:
            target = base + exchange.path.partition("?")[0]
            answer, matches = partial(self._answer, exchange), partial(self._matches, exchange)
            mock.add_callback(exchange.method, target, callback=answer, content_type=None, match=[matches])

    def _matches(self, exchange: Exchange, request: requests.PreparedRequest) -> tuple[bool, str]:
        """What `responses` asks: whether this exchange answers the request, and why not."""
        wanted = exchange.sent_headers()
        if not exchange.possible(self._facts):
            return False, f"{exchange.name}: is not so now"
        if any(request.headers.get(name) != wanted.get(name) for name in TOLD_APART_BY):
            return False, f"{exchange.name}: has other headers"
        if query(request.url or "") != query(filled(exchange.path, self._url)):
            return False, f"{exchange.name}: has another query"
        same = content(request.body or b"") == content(exchange.sent_body(self._url) or b"")
        return same, f"{exchange.name}: has another body"

    def _answer(self, exchange: Exchange, _: object) -> tuple[int, dict[str, str], str]:
        exchange.happen(self._facts)
        body = json.dumps(filled(exchange.answer, self._url))
        return exchange.status, {"Content-Type": exchange.type, **exchange.answer_headers}, body


def query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def content(body: Any) -> Any:
    """A body as JSON, so that the order of its members does not matter; as it is when it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return body


class Integrator:
    """A client as an integrator might write it. What the exposee refuses is a Refused with its words."""

    def __init__(self, exposee: str, url: str) -> None:
        self._exposee, self._url = exposee, url

    def register(self, *events: str) -> str:
        return str(self._call("POST", "/webhooks/register", {"url": self._url, "event_types": events})["message"])

    def unregister(self, event: str) -> str:
        return str(self._call("DELETE", "/webhooks/unregister", {"url": self._url, "event": event})["message"])

    def ping(self) -> bool:
        """Whether a ping reached us."""
        deliveries = self._call("GET", "/ping")["deliveries"]
        return any(d["url"] == self._url and d["state"] == "delivered" for d in deliveries)

    def ping_back(self) -> Any:
        return self._call("POST", "/webhooks/ping-back", {"url": self._url})

    def trigger(self, event: str, data: Any) -> str:
        return str(self._call("POST", "/trigger", {"event": event, "data": data})["message"])

    def _call(self, method: str, path: str, value: Any = None) -> Any:
        answer = requests.request(method, self._exposee + path, json=value, timeout=SECONDS)
        if not answer.ok:
            assert answer.headers["Content-Type"] == "application/problem+json"
            raise Refused(answer.status_code, answer.json()["detail"])
        return answer.json()


class Refused(Exception):
    """The exposee said no: status and detail."""


class Side(NamedTuple):
    """An exposee to talk to, and a URL that it has never heard of."""

    base: str
    url: str


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[responses.RequestsMock]:
    """No test in here can reach another machine: `requests` goes to loopback, or to what is mocked."""
    monkeypatch.setenv("NO_PROXY", "*")
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add_passthru(LOOPBACK)
        yield mock


@pytest.fixture(scope="module")
def receiver() -> Iterator[Listener]:
    with Listener() as it:
        yield it


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory, receiver: Listener) -> Iterator[str]:
    with Pair(tmp_path_factory.mktemp("thread")) as it:
        yield it.url


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, receiver: Listener) -> Iterator[str]:
    with Program("exposee.py", "--port", "0", cwd=tmp_path_factory.mktemp("program")) as it:
        yield f"http://127.0.0.1:{it.port}"
        assert it.stop() == 0


@pytest.fixture(params=["thread", "program", "fake"])
def exposee(request: pytest.FixtureRequest, network: responses.RequestsMock, receiver: Listener) -> Iterator[Side]:
    """The exposee in this process, the program, and the fake; nothing is registered."""
    url = receiver.url(f"/hook/{next(NUMBERS)}")
    if request.param == "fake":
        Fake(network, "http://exposee.example", url)
        yield Side("http://exposee.example", url)
        return
    side = Side(request.getfixturevalue(request.param), url)
    yield side
    for webhook in requests.get(f"{side.base}/webhooks", timeout=SECONDS).json()["webhooks"]:
        assert requests.delete(f"{side.base}/webhooks/unregister", json=webhook, timeout=SECONDS).status_code == 200


def play(side: Side, exchange: Exchange) -> requests.Response:
    return requests.request(
        exchange.method,
        side.base + filled(exchange.path, side.url),
        data=exchange.sent_body(side.url),
        headers=exchange.sent_headers(),
        timeout=SECONDS,
    )


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
def test_answers_as_the_table_says(exposee: Side, exchange: Exchange) -> None:
    for fact in exchange.needs:
        play(exposee, BROUGHT_ABOUT_BY[fact])
    check(exposee, exchange)


def check(side: Side, exchange: Exchange) -> None:
    answer = play(side, exchange)
    assert answer.status_code == exchange.status, answer.text
    assert answer.headers["Content-Type"] == exchange.type
    assert agrees(filled(exchange.answer, side.url), answer.json()), answer.text
    for name, value in exchange.answer_headers.items():
        assert agrees(value, answer.headers[name]), answer.headers


@pytest.mark.parametrize("seed", range(3))
def test_answers_as_the_table_says_after_any_others(exposee: Side, seed: int) -> None:
    """What the facts leave out (say, how many pings there were) has to make no difference."""
    facts: set[str] = set()
    dice = random.Random(seed)
    for _ in range(60):
        exchange = dice.choice([it for it in EXCHANGES if it.status < 400 and it.possible(facts)])
        check(exposee, exchange)
        exchange.happen(facts)


def test_client_goes_through_the_whole_exercise(exposee: Side) -> None:
    client = Integrator(*exposee)
    with pytest.raises(Refused, match="404.*url is not registered"):
        client.ping_back()
    assert client.register("payment_received", "invoice_completed").endswith("payment_received, invoice_completed")
    with pytest.raises(Refused, match="409.*no ping"):
        client.ping_back()
    assert client.ping()
    assert client.ping_back() == {"event": "ping", "data": "Ping from Exposee"}
    assert client.trigger("payment_received", {"amount": 100}) == "payment_received queued for 1 webhook(s)"
    assert client.unregister("payment_received") == "1 webhook(s) unregistered"
    assert client.trigger("payment_received", {"amount": 100}) == "nobody is registered for payment_received"
    assert client.unregister("invoice_completed") == "1 webhook(s) unregistered"
    with pytest.raises(Refused, match="404.*0 webhook.s. unregistered"):
        client.unregister("invoice_completed")


@pytest.mark.parametrize("event", ["lunch", "ping"])
def test_client_hears_why_it_was_refused(exposee: Side, event: str) -> None:
    data = {"lunch": 1, "ping": "Ping from Exposee"}[event]
    with pytest.raises(Refused, match=f"422.*event is .{event}., expected one of payment_received"):
        Integrator(*exposee).trigger(event, data)


def test_client_can_follow_a_message_to_its_delivery(thread: str, receiver: Listener) -> None:
    url = receiver.url(f"/hook/{next(NUMBERS)}")
    Integrator(thread, url).register("payment_received")
    body = {"event": "payment_received", "data": None}
    answer = requests.post(f"{thread}/trigger", json=body, timeout=SECONDS)
    found = requests.get(thread + answer.headers["Location"], timeout=SECONDS).json()["deliveries"]
    assert [(d["message"], d["url"]) for d in found] == [(answer.json()["id"], url)]
    assert Integrator(thread, url).unregister("payment_received")


def test_names_of_exchanges_tell_them_apart() -> None:
    assert len({exchange.name for exchange in EXCHANGES}) == len(EXCHANGES)


def test_fake_refuses_what_is_not_in_the_table(network: responses.RequestsMock) -> None:
    Fake(network, "http://exposee.example", "http://127.0.0.1:9/hook")
    with pytest.raises(requests.ConnectionError, match="has another body"):
        Integrator("http://exposee.example", "http://127.0.0.1:9/elsewhere").ping_back()


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "https://127.0.0.1.example.com/", "http://127.0.0.1:80@example.com/", "http://10.0.0.1/"],
)
def test_no_request_leaves_this_machine(url: str) -> None:
    with pytest.raises(requests.ConnectionError, match="Connection refused by Responses"):
        requests.get(url, timeout=SECONDS)


def test_requests_to_loopback_pass(tmp_path: Path, receiver: Listener) -> None:
    assert requests.post(receiver.url("/through"), data=b"{}", timeout=SECONDS).status_code == 204
    while not receiver.next().startswith(b"POST /through "):
        pass  # the other tests' deliveries
