"""The post office: what it accepts, when it tries again, what it remembers, and what a restart finds.

Most tests have a clock that stands still and a transport that answers what the test says. Threads are real,
so tests wait for outcomes, never for time.
"""

from __future__ import annotations

import base64
import errno
import gc
import hashlib
import hmac
import json
import os
import queue
import random
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import SECONDS, Client, Listener, Pair, eventually, held, request

import delivery as office_module
import history
import journal as journal_module
import messages
import watching
from delivery import JITTER, RETRY_SCHEDULE, NotPossible, PostOffice
from durable import StoreError
from journal import Journal
from messages import CANCELLED, DELIVERED, DELIVERING, FAILED, PENDING, RETRYING, Delivery, Message
from store import WebhookStore
from transport import Exchange
from watching import Full

EVENT, OTHER = "payment_received", "invoice_completed"
URL = "http://a.test/hook"
SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
NEW_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


# --- a post office whose time and receivers belong to the test ----------------------------------------------


def exchange(status: int = 204, *fields: str, error: str | None = None) -> Exchange:
    """What came of an attempt."""
    head = "\r\n".join([f"HTTP/1.1 {status} -", *fields, ""]).encode() if status else b""
    return Exchange(b"", head + b"\r\n", len(head) + 2, status, head, b"", error)


def fields(request: bytes) -> dict[str, str]:
    """The header fields of a request, names in lower case."""
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Clock:
    """Unix time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


class Sent(NamedTuple):
    url: str
    request: bytes
    at: float


Answer = Exchange | Callable[[str], Exchange]


class Desk:
    """A post office, and everything around it in the test's hands; `urls` are registered for EVENT."""

    def __init__(self, folder: Path, *urls: str, **options: Any) -> None:
        self.clock, self.answer = Clock(), exchange()  # type: Clock, Answer
        self.sent: queue.Queue[Sent] = queue.Queue()
        self.tidied = threading.Event()
        self.options = {"clock": self.clock, "chance": lambda: 0.5, **options}
        self.open(folder)
        for url in urls:
            self.register(url, EVENT)

    def open(self, folder: Path) -> None:
        self.folder = folder
        self.store = WebhookStore(folder / "webhooks.json")
        self.journal = Journal(folder / "deliveries.jsonl")
        transport: Any = self
        self.office = PostOffice(self.store, self.journal, transport, **self.options)
        self.office.start()

    def register(self, url: str, *events: str, secret: str | None = None) -> None:
        self.store.register(url, events, secret, lambda _: None)

    def trigger(self, event: str = EVENT, data: Any = None) -> Delivery:
        """The first delivery of a new message."""
        delivery = self.office.trigger(event, data).deliveries[0]
        assert delivery is not None
        return delivery

    def find(self, delivery: Delivery) -> Delivery:
        """The same delivery after a restart."""
        found = self.office.find(delivery.id)
        assert found is not None
        return found

    def settled(self, delivery: Delivery, attempts: int) -> Delivery:
        """Wait until so many attempts are over."""

        def over(other: Delivery) -> bool:
            return other.id == delivery.id and len(other.attempts) == attempts and other.state != DELIVERING

        return eventually(lambda: self.office.deliveries(over, 1), f"attempt {attempts}")[0]  # type: ignore[no-any-return]

    def states(self) -> dict[str, str]:
        """The states of all remembered deliveries, by id."""
        return {d.id: d.state for d in self.office.deliveries(lambda d: True, 1_000_000)}

    def next_sent(self) -> Sent:
        return self.sent.get(timeout=SECONDS)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.office.look_after()

    def stop(self) -> None:
        self.office.close(SECONDS)
        self.store.close()

    def restart(self) -> None:
        self.stop()
        self.open(self.folder)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # the transport

    def post(self, url: str, request: bytes, seconds: float, patience: float) -> None:
        return None

    def send(self, url: str, request: bytes, seconds: float) -> Exchange:
        self.sent.put(Sent(url, request, self.clock()))
        answer = self.answer
        return (answer if isinstance(answer, Exchange) else answer(url))._replace(request=request)

    def close_idle(self) -> None:
        self.tidied.set()

    def close(self) -> None:
        pass


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A post office with one URL."""
    with Desk(tmp_path, URL) as it:
        yield it


class Blocking:
    """An answer that waits until the gate opens."""

    def __init__(self, then: Exchange | None = None) -> None:
        self.gate, self.then = threading.Event(), then or exchange()

    def __call__(self, url: str) -> Exchange:
        assert self.gate.wait(SECONDS)
        return self.then


def shown(delivery: Delivery) -> dict[str, Any]:
    """All that the API shows, but for the bytes, which a restart loses."""
    value = delivery.to_json(attempts=True)
    for attempt in value["attempts"]:
        for name in ("request", "response", "gone"):
            attempt.pop(name, None)
    return value


# --- the schedule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999999])
def test_the_schedule_of_75_hours(tmp_path: Path, chance: float) -> None:
    with Desk(tmp_path, URL, chance=lambda: chance) as desk:
        desk.answer, began = exchange(503), desk.clock.now
        delivery = desk.trigger()
        for number, delay in enumerate(RETRY_SCHEDULE, 1):
            desk.settled(delivery, number)
            assert delivery.state == RETRYING
            jittered = delay * (1 + JITTER * (2 * chance - 1))
            assert delivery.due - desk.clock.now == pytest.approx(jittered, abs=0.5)
            assert 0.8 * delay <= delivery.due - desk.clock.now <= 1.2 * delay + 0.5
            desk.clock.now = delivery.due - 0.01
            desk.office.look_after()
            assert (delivery.state, len(delivery.attempts)) == (RETRYING, number), "it was sent too early"
            desk.clock.now = delivery.due
            desk.office.look_after()
        desk.settled(delivery, len(RETRY_SCHEDULE) + 1)
        assert (delivery.state, delivery.due) == (FAILED, 0.0)
        hours = (desk.clock.now - began) / 3_600
        assert hours == pytest.approx(75.6 * (1 + JITTER * (2 * chance - 1)), abs=0.1)
        desk.pass_time(10 * 86_400)
        assert delivery.state == FAILED and desk.office.counts() == {"waiting": 0, "under_way": 0}


@pytest.mark.parametrize("delays", [(), (1.0,), (1.0, 2.0, 3.0)])
def test_n_delays_make_n_and_one_attempts(tmp_path: Path, delays: tuple[float, ...]) -> None:
    with Desk(tmp_path, URL, schedule=delays) as desk:
        desk.answer = exchange(0, error="connection refused")
        delivery = desk.trigger()
        for number in range(1, len(delays) + 1):
            desk.settled(delivery, number)
            desk.pass_time(10)
        desk.settled(delivery, len(delays) + 1)
        assert delivery.state == FAILED
        assert desk.sent.qsize() == len(delays) + 1


@pytest.mark.parametrize(
    "field, delay",
    [
        ("Retry-After: 3600", 3_600),
        ("retry-after:3600", 3_600),
        ("Retry-After: " + formatdate(1_700_000_000 + 7_200, usegmt=True), 7_200),
        ("Retry-After: 1", 5),  # never shortens
        ("Retry-After: 0", 5),
        ("Retry-After: " + formatdate(1_600_000_000, usegmt=True), 5),
        ("Retry-After: 999999", 86_400),  # not for ever
        ("Retry-After: " + "9" * 5_000, 86_400),
        ("Retry-After: " + formatdate(1_900_000_000, usegmt=True), 86_400),
        ("Retry-After: -3600", 5),
        ("Retry-After: soon", 5),
        ("Retry-After: Fri, 99 Nov 2023 99:99:99 GMT", 5),
        ("X-Retry-After: 3600", 5),
    ],
)
def test_retry_after_postpones_and_never_shortens(desk: Desk, field: str, delay: float) -> None:
    desk.answer = exchange(429, field)
    delivery = desk.settled(desk.trigger(), 1)
    assert delivery.due - desk.clock.now == pytest.approx(delay, abs=1)


@pytest.mark.parametrize("status, state", [(200, DELIVERED), (204, DELIVERED), (299, DELIVERED)])
def test_any_2xx_is_success(desk: Desk, status: int, state: str) -> None:
    desk.answer = exchange(status)
    assert desk.settled(desk.trigger(), 1).state == state


@pytest.mark.parametrize("status", [300, 301, 304, 307, 400, 404, 409, 429, 500, 503])
def test_everything_else_is_not(desk: Desk, status: int) -> None:
    desk.answer = exchange(status)
    assert desk.settled(desk.trigger(), 1).state == RETRYING


def test_a_2xx_that_did_not_come_whole_is_a_failure(desk: Desk) -> None:
    desk.answer = exchange(200, error="the answer ended after 3 of 9 bytes")
    delivery = desk.settled(desk.trigger(), 1)
    assert (delivery.state, delivery.attempts[0].status) == (RETRYING, 200)


def test_every_attempt_has_the_same_id_and_its_own_time_and_signature(desk: Desk) -> None:
    desk.register(URL, EVENT, secret=SECRET)
    desk.answer = exchange(503)
    delivery = desk.trigger(data={"amount": 1.50, "für": "Zoë"})
    for number in (1, 2, 3):
        desk.settled(delivery, number)
        desk.clock.now = delivery.due
        desk.office.look_after()
    signatures = set()
    for sent in [desk.next_sent() for _ in range(3)]:
        body, names = sent.request.partition(b"\r\n\r\n")[2], fields(sent.request)
        assert json.loads(body) == {"event": EVENT, "data": {"amount": 1.50, "für": "Zoë"}}
        assert names["webhook-id"] == delivery.message.id
        assert names["webhook-timestamp"] == str(int(sent.at))
        signed = f"{names['webhook-id']}.{names['webhook-timestamp']}.".encode() + body
        digest = hmac.new(bytes(range(24)), signed, hashlib.sha256).digest()
        assert names["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).digest()
        assert names["x-hub-signature-256"] == "sha256=" + digest.hex()
        signatures.add(names["webhook-signature"])
    assert len(signatures) == 3


def test_without_a_secret_nothing_is_signed(desk: Desk) -> None:
    desk.trigger()
    assert not {"webhook-signature", "x-hub-signature-256"} & fields(desk.next_sent().request).keys()


# --- unregistering ------------------------------------------------------------------------------------------------


def test_a_410_that_ends_early_is_tried_again(desk: Desk) -> None:
    desk.answer = exchange(410, error="the answer ended after 3 of 9 bytes")
    delivery = desk.settled(desk.trigger(), 1)
    assert delivery.state == RETRYING and desk.store.has(URL)


def test_410_fails_the_delivery_unregisters_the_url_and_cancels_its_others(desk: Desk) -> None:
    desk.register(URL, OTHER, secret=SECRET)
    desk.register("http://b.test/", EVENT)
    desk.answer = exchange(503)
    retrying = [desk.settled(desk.trigger(event), 1) for event in (EVENT, OTHER)]
    blocking = Blocking(exchange(410))
    with held(blocking.gate):
        desk.answer = lambda url: blocking(url) if url == URL else exchange()
        gone = desk.trigger()
        eventually(lambda: gone.state == DELIVERING)
        pending = [desk.trigger() for _ in range(3)]
    desk.settled(gone, 1)
    assert gone.state == FAILED
    assert [d.state for d in retrying + pending] == [CANCELLED] * 5
    assert not desk.store.has(URL) and desk.store.secret(URL) is None
    eventually(lambda: desk.office.counts()["waiting"] == 1)  # only b.test's first, which is retrying
    assert desk.store.urls() == ["http://b.test/"]


def test_unregister_cancels_what_waits_of_that_event_only(desk: Desk) -> None:
    desk.register(URL, OTHER)
    desk.answer = exchange(503)
    retrying = {event: desk.settled(desk.trigger(event), 1) for event in (EVENT, OTHER)}
    blocking = Blocking()
    with held(blocking.gate):
        desk.answer = blocking
        under_way = desk.trigger()
        eventually(lambda: under_way.state == DELIVERING)
        waiting = {event: desk.trigger(event) for event in (EVENT, OTHER)}
        assert desk.store.unregister(URL, EVENT, lambda _: None) == 1
        desk.office.cancel(URL, EVENT)
        assert (waiting[EVENT].state, retrying[EVENT].state) == (CANCELLED, CANCELLED)
        assert (waiting[OTHER].state, retrying[OTHER].state) == (PENDING, RETRYING)
    assert desk.settled(under_way, 1).state == DELIVERED
    assert desk.settled(waiting[OTHER], 1).state == DELIVERED
    desk.pass_time(10)
    assert desk.settled(retrying[OTHER], 2).state == DELIVERED
    assert len(waiting[EVENT].attempts) == 0
    assert [d[EVENT].to_json()["error"] for d in (waiting, retrying)] == ["unregistered", "unregistered"]


def test_what_was_cancelled_is_said_in_one_line_and_forgotten_by_a_redelivery(tmp_path: Path) -> None:
    log: list[str] = []
    with Desk(tmp_path, URL, log=log.append) as desk:
        desk.answer = exchange(503)
        first, *_ = [desk.settled(desk.trigger(), 1) for _ in range(3)]
        desk.store.unregister(URL, EVENT, lambda _: None)
        desk.office.cancel(URL, EVENT)
        assert log[-1] == f"{EVENT} -> {URL}: unregistered, 3 waiting cancelled"
        desk.register(URL, EVENT)
        desk.answer = exchange()
        desk.office.redeliver(first)
        assert desk.settled(first, 2).state == DELIVERED and "error" not in first.to_json()
        desk.restart()
        assert "error" not in desk.find(first).to_json()


def test_what_was_accepted_for_a_new_registration_is_not_cancelled_by_the_end_of_the_old_one(desk: Desk) -> None:
    blocking = Blocking()
    with held(blocking.gate):
        desk.answer = blocking
        desk.trigger()
        desk.store.unregister(URL, EVENT, lambda _: None)
        desk.register(URL, EVENT)
        accepted = desk.trigger()
        desk.office.cancel(URL, EVENT)
        assert accepted.state == PENDING
    assert desk.settled(accepted, 1).state == DELIVERED


def test_an_attempt_that_fails_after_the_unregistration_is_not_tried_again(desk: Desk) -> None:
    blocking = Blocking(exchange(503))
    with held(blocking.gate):
        desk.answer = blocking
        delivery = desk.trigger()
        eventually(lambda: delivery.state == DELIVERING)
        desk.store.unregister(URL, EVENT, lambda _: None)
        desk.office.cancel(URL, EVENT)
    assert desk.settled(delivery, 1).state == CANCELLED


def test_an_unregistration_that_a_crash_cut_off_cancels_at_the_next_start(desk: Desk) -> None:
    """The webhook is gone from the disk, and the journal does not know yet."""
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger(), 1)
    desk.store.unregister(URL, EVENT, lambda _: None)
    desk.restart()
    assert desk.find(delivery).state == CANCELLED
    assert desk.office.counts()["waiting"] == 0


# --- ping ---------------------------------------------------------------------------------------------------------


def test_a_ping_is_never_retried(desk: Desk) -> None:
    desk.answer = exchange(503)
    _, (ping,) = desk.office.ping()
    assert desk.office.watchers.wait([ping], SECONDS)
    desk.settled(ping, 1)
    assert (ping.state, ping.due) == (FAILED, 0.0)
    desk.pass_time(86_400)
    assert ping.state == FAILED and desk.sent.qsize() == 1
    assert json.loads(desk.next_sent().request.partition(b"\r\n\r\n")[2]) == {
        "event": "ping",
        "data": "Ping from Exposee",
    }


def test_a_ping_goes_past_backlogs_and_back_offs(desk: Desk) -> None:
    desk.answer = exchange(503)
    retrying = desk.settled(desk.trigger(), 1)
    blocking = Blocking()
    with held(blocking.gate):
        desk.answer = blocking
        under_way = desk.trigger()
        eventually(lambda: under_way.state == DELIVERING)
        waiting = [desk.trigger() for _ in range(20)]
        desk.answer = exchange()
        _, (ping,) = desk.office.ping()
        assert desk.office.watchers.wait([ping], SECONDS)
        assert desk.settled(ping, 1).state == DELIVERED
        names = [fields(desk.next_sent().request)["webhook-id"] for _ in range(3)]
        assert names == [d.message.id for d in (retrying, under_way, ping)], "it did not go past those that wait"
        assert retrying.state == RETRYING
    desk.settled(waiting[-1], 1)


def test_a_ping_in_flight_is_shared(desk: Desk) -> None:
    blocking = Blocking()
    with held(blocking.gate):
        desk.answer = blocking
        name, (first,) = desk.office.ping()
        desk.register("http://b.test/", OTHER)
        _, both = desk.office.ping()
        assert first in both and {d.url for d in both} == {URL, "http://b.test/"}
        again, three = desk.office.ping()
        assert set(three) == set(both)
    assert desk.office.watchers.wait(both, SECONDS)
    assert desk.sent.qsize() == 2
    _, fresh = desk.office.ping()
    assert not set(fresh) & set(both), "a ping that is over is not shared"


def test_each_url_is_pinged_once_however_many_events_it_has(desk: Desk) -> None:
    desk.register(URL, OTHER, "payment_processed")
    assert len(desk.office.ping()[1]) == 1


def test_a_ping_under_way_has_failed_after_a_restart(desk: Desk) -> None:
    blocking = Blocking()
    with held(blocking.gate):
        desk.answer = blocking
        _, (ping,) = desk.office.ping()
        eventually(lambda: ping.state == DELIVERING)
        desk.office.close(0.0)
    desk.store.close()
    desk.answer = exchange()
    desk.open(desk.folder)
    assert desk.find(ping).to_json()["error"] == "interrupted by a restart"
    assert desk.find(ping).state == FAILED
    assert desk.office.confirm_ping(URL), "the newest ping to a URL outlives a restart"


def test_a_confirmed_ping_stays_confirmed(desk: Desk) -> None:
    assert not desk.office.confirm_ping(URL)
    _, (ping,) = desk.office.ping()
    desk.settled(ping, 1)
    assert desk.office.confirm_ping(URL)
    desk.restart()
    assert desk.find(ping).to_json()["confirmed"] is True


# --- restarts -----------------------------------------------------------------------------------------------------


def test_states_due_times_and_history_survive_a_restart(desk: Desk) -> None:
    for status in (204, 503, 410):
        url = f"http://{status}.test/"
        desk.register(url, OTHER)
    desk.answer = lambda url: exchange(int(url[7:10])) if url != URL else exchange(0, error="refused")
    message = desk.office.trigger(OTHER, {"n": 1})
    for delivery in message.deliveries:
        assert delivery is not None
        desk.settled(delivery, 1)
    failing = desk.settled(desk.trigger(), 1)
    desk.pass_time(10)
    desk.settled(failing, 2)
    before = [shown(d) for d in desk.office.deliveries(lambda d: True, 100)]
    counts = desk.office.counts()
    assert {d["state"] for d in before} == {DELIVERED, RETRYING, FAILED}
    desk.restart()
    assert [shown(d) for d in desk.office.deliveries(lambda d: True, 100)] == before
    assert desk.office.counts() == counts
    due = desk.find(failing).due
    desk.pass_time(due - desk.clock.now - 1)
    assert desk.find(failing).state == RETRYING
    desk.pass_time(1)
    assert len(desk.settled(failing, 3).attempts) == 3
    assert "no longer kept" in desk.find(failing).to_json(attempts=True)["attempts"][0]["gone"]


def test_what_was_under_way_at_a_kill_is_delivered_again(desk: Desk, tmp_path: Path) -> None:
    """The journal as a kill leaves it: nothing but the message."""
    blocking = Blocking()
    with held(blocking.gate):
        desk.answer = blocking
        delivery = desk.trigger(data=1)
        first = desk.next_sent()
        (tmp_path / "later").mkdir()
        for name in ("webhooks.json", "deliveries.jsonl"):
            shutil.copy(tmp_path / name, tmp_path / "later" / name)
        with Desk(tmp_path / "later") as later:
            assert later.settled(delivery, 1).state == DELIVERED
            second = later.next_sent()
    assert fields(first.request)["webhook-id"] == fields(second.request)["webhook-id"]


# --- redelivery ---------------------------------------------------------------------------------------------------


def test_redelivery_is_one_more_attempt_with_todays_secret_and_no_retries(desk: Desk) -> None:
    desk.register(URL, EVENT, secret=SECRET)
    delivery = desk.settled(desk.trigger(data=1), 1)
    first = fields(desk.next_sent().request)
    desk.register(URL, EVENT, secret=NEW_SECRET)
    desk.answer = exchange(503)
    desk.clock.now += 100
    desk.office.redeliver(delivery)
    desk.settled(delivery, 2)
    assert (delivery.state, delivery.due) == (FAILED, 0.0)
    sent = desk.next_sent()
    names, body = fields(sent.request), sent.request.partition(b"\r\n\r\n")[2]
    assert names["webhook-id"] == first["webhook-id"]
    assert int(names["webhook-timestamp"]) == int(first["webhook-timestamp"]) + 100
    expected = hmac.new(NEW_SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert names["x-hub-signature-256"] == f"sha256={expected}"
    assert desk.office.counts()["waiting"] == 0
    desk.answer = exchange()
    desk.office.redeliver(delivery)
    assert desk.settled(delivery, 3).state == DELIVERED


def test_redelivery_of_one_that_is_retrying_ends_its_retries(desk: Desk) -> None:
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger(), 1)
    desk.office.redeliver(delivery)
    assert desk.settled(delivery, 2).state == FAILED
    desk.pass_time(86_400)
    assert delivery.state == FAILED and desk.office.counts()["waiting"] == 0


def test_redelivery_is_refused_while_an_attempt_is_under_way_or_about_to_be(desk: Desk) -> None:
    blocking = Blocking()
    with held(blocking.gate):
        desk.answer = blocking
        deliveries = [desk.trigger(), desk.trigger()]
        eventually(lambda: deliveries[0].state == DELIVERING)
        for delivery in deliveries:
            with pytest.raises(NotPossible, match="under way"):
                desk.office.redeliver(delivery)


def test_redelivery_to_a_url_that_is_gone_is_refused(desk: Desk) -> None:
    delivery = desk.settled(desk.trigger(), 1)
    desk.store.unregister(URL, EVENT, lambda _: None)
    with pytest.raises(NotPossible, match="no longer registered"):
        desk.office.redeliver(delivery)


@pytest.mark.parametrize("first", [204, 503])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_redelivery_survives_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, compacted: bool
) -> None:
    """Between the 202 and the attempt; also when the journal was compacted in between. Still without retries."""
    with Desk(tmp_path, URL) as desk:
        desk.answer = exchange(first)
        delivery = desk.settled(desk.trigger(), 1)
        blocking = Blocking()
        with held(blocking.gate):
            desk.answer = blocking
            desk.office.redeliver(delivery)
            eventually(lambda: delivery.state == DELIVERING)
            if compacted:
                monkeypatch.setattr(journal_module, "COMPACT_BYTES", 0)
                inode = desk.journal.path.stat().st_ino
                desk.office.ping()  # wakes the overseer
                eventually(lambda: desk.journal.path.stat().st_ino != inode, "compaction")
            desk.office.close(0.0)
            desk.store.close()
            desk.answer = exchange(503)
            desk.open(desk.folder)
            desk.settled(delivery, 2)
            assert desk.find(delivery).state == FAILED
            assert desk.office.counts()["waiting"] == 0


def test_two_who_ask_for_the_same_redelivery_at_once_leave_right_counts(desk: Desk) -> None:
    """Both may have been told 202: one attempt is made, and the journal's two records count as one."""
    delivery = desk.settled(desk.trigger(), 1)
    record = messages.change_record(delivery, redeliver=True)
    for _ in range(2):
        desk.journal.commit(record, lambda: None)
    desk.restart()
    assert desk.settled(delivery, 2).state == DELIVERED
    assert desk.office.counts() == {"waiting": 0, "under_way": 0}


# --- limits -------------------------------------------------------------------------------------------------------


def test_backlog_full_is_recorded_and_can_be_redelivered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office_module, "MAX_LANE", 2)
    blocking = Blocking()
    with held(blocking.gate):
        desk.answer = blocking
        deliveries = [desk.trigger()]
        eventually(lambda: deliveries[0].state == DELIVERING)
        deliveries += [desk.trigger() for _ in range(3)]
        full = deliveries[-1]
        assert [d.state for d in deliveries] == [DELIVERING, PENDING, PENDING, FAILED]
        assert full.to_json()["error"] == "backlog full" and not full.attempts
    for delivery in deliveries[:-1]:
        desk.settled(delivery, 1)
    desk.restart()
    assert desk.find(full).to_json()["error"] == "backlog full"
    desk.office.redeliver(desk.find(full))
    assert desk.settled(full, 1).state == DELIVERED


@pytest.mark.parametrize("limit, value", [("MAX_WAITING", 3), ("MAX_BODIES", 150)])
def test_an_office_that_is_full_answers_503_and_accepts_nothing(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    listener.answer = listener.hang
    monkeypatch.setattr(office_module, limit, value)
    with Pair(tmp_path, timeout=SECONDS) as pair:
        pair.register(listener.url(), EVENT)
        answers = [pair.trigger(EVENT, "x" * 20) for _ in range(6)]
        statuses = [answer.status for answer in answers]
        accepted = statuses.count(202)
        assert accepted in (2, 3) and statuses == [202] * accepted + [503] * (6 - accepted)
        refused = answers[-1]
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["content-type"] == "application/problem+json"
        assert "wait" in refused.json()["detail"]
        assert len(pair.call("GET", "/deliveries").json()["deliveries"]) == accepted
        listener.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        listener.close()


def test_history_is_bounded_and_the_oldest_is_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "HISTORY", 3)
    deliveries = [desk.settled(desk.trigger(data=n), 1) for n in range(5)]
    kept = [d.id for d in reversed(deliveries[-3:])]
    assert list(desk.states()) == kept
    assert desk.office.find(deliveries[0].id) is None
    desk.restart()
    assert list(desk.states()) == kept


def test_bodies_of_the_past_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_PAST", 3_000)
    deliveries = [desk.settled(desk.trigger(data="x" * 1_000), 1) for n in range(5)]
    assert list(desk.states()) == [d.id for d in reversed(deliveries[-2:])]


def test_bytes_of_old_attempts_go_and_the_attempts_say_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_RAW", 3_000)
    deliveries = [desk.settled(desk.trigger(data="x" * 1_000), 1) for n in range(5)]
    attempts = [d.to_json(attempts=True)["attempts"][0] for d in deliveries]
    assert ["gone" in attempt for attempt in attempts] == [True, True, True, False, False]
    assert attempts[0]["request"] is None and "x" * 1_000 in attempts[4]["request"]
    assert attempts[0]["status"] == 204


# --- watchers -----------------------------------------------------------------------------------------------------


def test_a_watcher_gets_each_changed_delivery_once(desk: Desk) -> None:
    watcher = desk.office.watchers.watch()
    deliveries = [desk.settled(desk.trigger(), 1) for _ in range(3)]
    news = watcher.wait(SECONDS)
    assert [change["id"] for change in news] == [d.id for d in deliveries]
    assert {change["state"] for change in news} == {DELIVERED}
    assert watcher.wait(0.0) == []


def test_a_ninth_watcher_is_refused_until_another_goes(desk: Desk) -> None:
    watchers = [desk.office.watchers.watch() for _ in range(8)]
    with pytest.raises(Full, match="8 streams"):
        desk.office.watchers.watch()
    desk.office.watchers.unwatch(watchers[3])
    desk.office.watchers.watch()


def test_a_slow_watcher_is_dropped_and_costs_nobody_anything(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_WATCHED", 3)
    slow, quick = desk.office.watchers.watch(), desk.office.watchers.watch()
    for _ in range(5):
        desk.settled(desk.trigger(), 1)
        quick.wait(SECONDS)
    assert slow.closed and not quick.closed


def test_shutdown_closes_watchers(desk: Desk) -> None:
    watcher = desk.office.watchers.watch()
    thread = threading.Thread(target=watcher.wait, args=(SECONDS,), daemon=True)
    thread.start()
    desk.restart()
    thread.join(SECONDS / 2)
    assert watcher.closed and not thread.is_alive()


# --- the journal --------------------------------------------------------------------------------------------------


def test_compaction_under_load_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 5_000)
    answers = random.Random(1)
    urls = [f"http://{number}.test/" for number in range(4)]
    options: dict[str, Any] = {"clock": time.time, "schedule": (0.01,) * 30}
    with Desk(tmp_path, *urls, **options) as desk:
        desk.answer = lambda url: exchange(answers.choice((204, 204, 503)))
        inodes: set[int] = set()

        def trigger() -> None:
            for number in range(50):
                desk.office.trigger(EVENT, number)
                inodes.add(desk.journal.path.stat().st_ino)

        threads = [threading.Thread(target=trigger) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        eventually(lambda: desk.office.counts()["waiting"] == 0)
        before = [shown(d) for d in desk.office.deliveries(lambda d: True, 10_000)]
        assert len(before) == 800 and {d["state"] for d in before} == {DELIVERED}
        assert len(inodes) > 1, "it was never compacted"
        desk.restart()
        after = [shown(d) for d in desk.office.deliveries(lambda d: True, 10_000)]
        assert sorted(after, key=str) == sorted(before, key=str)
        assert desk.office.counts() == {"waiting": 0, "under_way": 0}


def test_a_note_tells_the_state_of_an_attempt_that_a_compaction_has_met_half_way(desk: Desk) -> None:
    """The journal was made anew between an attempt's end and the decision what comes of it."""
    delivery = desk.settled(desk.trigger(), 1)
    note = messages.attempt_record(delivery, delivery.attempts[0])
    desk.stop()
    delivery.state = DELIVERING
    known = [*messages.attempt_records(delivery), messages.state_record(delivery)]
    records = [messages.message_record(delivery.message, [URL]), *known, note]
    desk.journal.path.write_bytes(b"".join(records))
    desk.open(desk.folder)
    assert (desk.find(delivery).state, len(desk.find(delivery).attempts)) == (DELIVERED, 1)


def test_a_compacted_journal_forgets_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended last is remembered longest, though its message is the oldest."""
    before, after = history.History(), history.History()
    old, new = (messages.Message(f"msg_{number:024}", EVENT, 1.0, b'{"event": "e", "data": 1}') for number in range(2))
    for message in (old, new):
        before.add(message, [URL])
    for delivery in (*new.deliveries, *old.deliveries):
        assert delivery
        before.finish(delivery, DELIVERED)
    monkeypatch.setattr(history, "HISTORY", 1)
    for record in before.records():
        after.replay(json.loads(record))
    assert [after.find(f"dlv_{number:024}_0") is not None for number in range(2)] == [True, False]


def test_a_redelivery_that_came_too_late_takes_no_retries_away_after_a_restart(desk: Desk) -> None:
    """It was accepted when the retry had just become due: that was its attempt."""
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger(), 1)
    desk.pass_time(10)
    desk.settled(delivery, 2)
    note = messages.attempt_record(delivery, delivery.attempts[1])
    desk.stop()
    file = desk.folder / "deliveries.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    place = lines.index(note)
    file.write_bytes(b"".join([*lines[:place], messages.change_record(delivery, redeliver=True), *lines[place:]]))
    desk.open(desk.folder)
    delivery = desk.find(delivery)
    assert (delivery.state, delivery.manual) == (RETRYING, False)


def test_the_overseer_closes_what_is_idle(desk: Desk) -> None:
    assert desk.tidied.wait(SECONDS)


def test_an_outcome_is_in_the_file_soon_also_of_a_slow_receiver(pair: Pair, listener: Listener) -> None:
    """Else a crash long after a delivery would repeat it."""

    def slowly(connection: socket.socket) -> None:
        threading.Event().wait(0.1)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    listener.answer = slowly
    pair.register(listener.url(), EVENT)
    for number in range(3):
        pair.trigger(EVENT, number, Prefer="wait=5")
    eventually(lambda: pair.journal.path.read_bytes().count(b'"attempt": 1') == 3, "three outcomes in the file")


def test_retries_that_are_cancelled_let_go_of_their_bodies(desk: Desk) -> None:
    """One that is due before them is no reason to keep them."""
    desk.answer = exchange(503)
    desk.settled(desk.trigger(), 1)
    desk.answer = exchange(503, "Retry-After: 80000")
    for number in range(50):
        url = f"http://{number}.test/"
        desk.register(url, OTHER)
        desk.settled(desk.trigger(OTHER, number), 1)
        desk.store.unregister(url, OTHER, lambda _: None)
        desk.office.cancel(url, OTHER)
    for _ in range(10):
        gc.collect()
    planned = {e[2].id for e in gc.get_objects() if type(e) is tuple and len(e) == 3 and isinstance(e[2], Delivery)}
    assert len(planned) <= 2


def test_notes_that_are_older_than_the_compacted_journal_change_nothing(desk: Desk) -> None:
    """A note that was made while the journal was compacted stands behind what it led to."""
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger(), 1)
    older = messages.attempt_record(delivery, delivery.attempts[0])
    desk.answer = exchange()
    desk.pass_time(10)
    desk.settled(delivery, 2)
    newer = messages.attempt_record(delivery, delivery.attempts[1])
    desk.journal.note(older)
    desk.journal.note(newer)
    desk.restart()
    assert desk.find(delivery).state == DELIVERED
    assert desk.office.counts() == {"waiting": 0, "under_way": 0}


class Disk:
    """An fsync that waits, or fails, when the test says so."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.error: int | None = None

    def __call__(self, descriptor: int) -> None:
        if not self.gate.is_set():
            self.entered.set()
            assert self.gate.wait(SECONDS)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        os.fsync(descriptor)


def test_nobody_hears_202_and_nothing_is_sent_before_the_disk_has_it(tmp_path: Path, listener: Listener) -> None:
    disk = Disk()
    with Pair(tmp_path, fsync=disk) as pair:
        pair.register(listener.url(), EVENT)
        with pair.client() as client, held(disk.gate):
            disk.gate.clear()
            client.send(request("POST", "/trigger", json.dumps({"event": EVENT, "data": 1}).encode()))
            assert disk.entered.wait(SECONDS)
            assert not select.select([client.sock], [], [], 0.1)[0], "answered before the disk had it"
            assert listener.requests.empty() and listener.connections == 0
            disk.gate.set()
            assert client.receive().status == 202
            assert listener.next()


def test_concurrent_triggers_share_an_fsync(tmp_path: Path) -> None:
    disk, calls = Disk(), []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        disk(descriptor)

    journal = Journal(tmp_path / "deliveries.jsonl", fsync)
    with held(disk.gate):
        disk.gate.clear()
        calls.clear()
        threads = [threading.Thread(target=journal.commit, args=(b"{}\n", lambda: None)) for _ in range(20)]
        for thread in threads:
            thread.start()
        assert disk.entered.wait(SECONDS)
    for thread in threads:
        thread.join(SECONDS)
    assert len(calls) < 20
    journal.close()
    assert journal.path.read_bytes() == b"{}\n" * 20


def test_a_full_disk_is_503_and_it_works_again_afterwards(tmp_path: Path, listener: Listener) -> None:
    disk = Disk()
    with Pair(tmp_path, fsync=disk) as pair:
        pair.register(listener.url(), EVENT)
        before = pair.journal.path.read_bytes()
        disk.error = errno.ENOSPC
        refused = pair.trigger(EVENT, "lost")
        assert refused.status == 503 and refused.headers["retry-after"]
        assert "No space left on device" in refused.json()["detail"]
        assert pair.call("POST", "/webhooks/register", {"url": URL, "event_types": [EVENT]}).status == 503
        assert pair.call("GET", "/deliveries").json()["deliveries"] == []
        assert len(pair.call("GET", "/webhooks").json()["webhooks"]) == 1
        assert pair.journal.path.read_bytes() == before
        disk.error = None
        assert pair.trigger(EVENT, "kept").status == 202
        assert b"kept" in listener.next()
        assert listener.requests.empty()


def test_a_refused_redelivery_changes_nothing(tmp_path: Path, listener: Listener) -> None:
    disk = Disk()
    with Pair(tmp_path, fsync=disk) as pair:
        pair.register(listener.url(), EVENT)
        name = pair.trigger(EVENT, 1, Prefer="wait=5").json()["deliveries"][0]["id"]
        disk.error = errno.EIO
        assert pair.call("POST", f"/deliveries/{name}/attempts").status == 503
        assert pair.call("GET", f"/deliveries/{name}").json()["state"] == DELIVERED
        disk.error = None
        assert pair.call("POST", f"/deliveries/{name}/attempts").status == 202


def test_a_trigger_during_the_shutdown_is_refused_and_leaves_nothing(desk: Desk) -> None:
    """A request that was read late: it is answered 503, as StoreError is, and not as a bug of ours."""
    desk.office.close()
    desk.store.close()
    try:
        with pytest.raises(StoreError, match="shutting down"):
            desk.trigger()
    finally:
        desk.open(desk.folder)
    assert desk.states() == {}


# --- over HTTP ----------------------------------------------------------------------------------------------------


def test_deliveries_are_listed_newest_first_and_filtered(pair: Pair, listener: Listener) -> None:
    paths = ["/good", "/bad"]

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 204 -\r\n\r\n")

    with Listener(b"HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n") as bad:
        listener.answer = answer
        urls = [listener.url(paths[0]) + "?a=1&b=2", bad.url(paths[1])]
        for url in urls:
            pair.register(url, EVENT)
        ids = [pair.trigger(EVENT, n, Prefer="wait=5").json()["id"] for n in range(3)]

        def listed(query: str) -> list[dict[str, Any]]:
            answer = pair.call("GET", "/deliveries" + query)
            assert answer.status == 200, answer
            return answer.json()["deliveries"]  # type: ignore[no-any-return]

        assert [d["message"] for d in listed("")] == [name for name in reversed(ids) for _ in urls]
        assert {d["message"] for d in listed(f"?message={ids[1]}")} == {ids[1]}
        quoted = urls[0].replace(":", "%3A").replace("/", "%2F").replace("?", "%3F").replace("&", "%26")
        assert [d["url"] for d in listed(f"?url={quoted}")] == [urls[0]] * 3
        assert [d["url"] for d in listed("?state=delivered")] == [urls[0]] * 3
        assert [d["status"] for d in listed("?state=retrying")] == [500] * 3
        assert len(listed("?limit=2")) == 2 and listed("?limit=2") == listed("")[:2]
        assert len(listed(f"?message={ids[0]}&state=delivered")) == 1
        assert listed("?message=msg_unknown") == []


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=1001", "limit=99999999999", "state=lost"])
def test_filters_that_mean_nothing_are_422(pair: Pair, query: str) -> None:
    answer = pair.call("GET", f"/deliveries?{query}")
    assert answer.status == 422
    assert query.partition("=")[0] in answer.json()["detail"]


def test_a_delivery_shows_the_bytes_that_the_receiver_got(pair: Pair, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 200 Gr\xfc\xdfe\r\nX-A: 1\r\nContent-Length: 3\r\n\r\nok\xff"
    pair.register(listener.url(), EVENT, secret=SECRET)
    name = pair.trigger(EVENT, "Zoë", Prefer="wait=5").json()["deliveries"][0]["id"]
    shown = pair.call("GET", f"/deliveries/{name}").json()
    (attempt,) = shown["attempts"]
    assert attempt["request"].encode("latin-1") == listener.next()
    assert attempt["response"].encode("latin-1") == listener.answer
    assert (attempt["status"], shown["state"]) == (200, DELIVERED)
    assert pair.call("GET", "/deliveries/dlv_0_0").status == 404


def test_a_redelivery_over_http(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), EVENT)
    name = pair.trigger(EVENT, 1, Prefer="wait=5").json()["deliveries"][0]["id"]
    first = listener.next()
    answer = pair.call("POST", f"/deliveries/{name}/attempts")
    assert answer.status == 202 and answer.headers["location"] == f"/deliveries/{name}"
    second = listener.next()
    assert fields(first)["webhook-id"] == fields(second)["webhook-id"]
    eventually(lambda: pair.call("GET", f"/deliveries/{name}").json()["attempt_count"] == 2)
    assert pair.call("POST", "/deliveries/dlv_0_0/attempts").status == 404
    pair.call("DELETE", "/webhooks/unregister", {"url": listener.url(), "event": EVENT})
    assert pair.call("POST", f"/deliveries/{name}/attempts").status == 409


def test_a_stream_has_an_event_for_each_change(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), EVENT)
    with pair.client() as client:
        data = _open_stream(client)
        message = pair.trigger(EVENT, 1).json()["id"]
        states = []
        while DELIVERED not in states:
            data += client.sock.recv(65_536)
            *blocks, data = data.split(b"\n\n")
            for block in blocks:
                if b"event: delivery" in block:
                    change = json.loads(block.partition(b"data: ")[2].split(b"\r\n")[0])
                    assert (change["message"], change["event"]) == (message, EVENT)
                    states.append(change["state"])


def test_a_ninth_stream_is_503(pair: Pair) -> None:
    clients = [pair.client() for _ in range(8)]
    try:
        for client in clients:
            _open_stream(client)
        refused = pair.call("GET", "/deliveries/stream")
        assert refused.status == 503 and refused.headers["retry-after"]
    finally:
        for client in clients:
            client.close()


def test_a_stream_that_never_began_takes_no_place(pair: Pair) -> None:
    for _ in range(9):
        with pair.client() as client:
            client.send(request("HEAD", "/deliveries/stream"))
            assert client.receive(head=True).status == 200
    with pair.client() as client:
        _open_stream(client)


def _open_stream(client: Client) -> bytes:
    """Ask for the stream; returns what has come of it after its first event."""
    client.send(request("GET", "/deliveries/stream"))
    data = b""
    while b"retry: " not in data or not data.endswith(b"\n\n"):
        more = client.sock.recv(65_536)
        assert more, data
        data += more
    assert b" 200 " in data.split(b"\r\n")[0] and b"text/event-stream" in data
    return b""


# --- each fault, and its recorded outcome ---------------------------------------------------------------------------


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # the file of the listener does not keep it open


def _half(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    connection.shutdown(socket.SHUT_RDWR)


def _endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1000\r\n" + b"x" * 4_096 + b"\r\n")


def _long_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_048_576 + b"\r\nContent-Length: 0\r\n\r\n")


def _drip(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1_000:
        connection.sendall(bytes([byte]))
        threading.Event().wait(0.05)


def _hang(connection: socket.socket) -> None:
    connection.recv(1)


FAULTS: list[tuple[Any, str, int, str | None]] = [
    (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", FAILED, 410, None),
    (b"HTTP/1.1 301 -\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", RETRYING, 301, None),
    (b"HTTP/1.1 429 -\r\nRetry-After: 7200\r\nContent-Length: 0\r\n\r\n", RETRYING, 429, None),
    (_reset, RETRYING, 0, "connection reset"),
    (_half, RETRYING, 200, "ended after 9 of 100 bytes"),
    (_endless, RETRYING, 200, "longer than 1,048,576 bytes"),
    (_long_head, RETRYING, 0, "head of the answer is longer than"),
    (_hang, RETRYING, 0, "timed out waiting for the answer"),
    (_drip, RETRYING, 0, "timed out"),
    (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", RETRYING, 0, "not HTTP"),
    (None, RETRYING, 0, "connection refused"),
    ("tls", RETRYING, 0, "the TLS certificate does not verify"),
]
NAMES = "410 301 429 reset half endless long-head hang drip ssh refused bad-certificate".split()


@pytest.mark.parametrize("fault, state, status, error", FAULTS, ids=NAMES)
def test_a_fault_is_recorded_and_harms_nothing_else(
    tmp_path: Path, listener: Listener, fault: Any, state: str, status: int, error: str | None
) -> None:
    patient = fault in (_endless, _long_head, "tls")
    with Pair(tmp_path, timeout=SECONDS if patient else 0.5, schedule=(3_600,)) as pair, Listener() as bad:
        url = bad.url()
        if fault == "tls":
            url = _serve_tls(tmp_path)
        elif fault is None:
            bad.close()
        else:
            bad.answer = fault
        pair.register(url, EVENT)
        message = pair.trigger(EVENT, 1, Prefer="wait=10")
        assert message.status == 200, "it did not end in time"
        (outcome,) = message.json()["deliveries"]
        assert (outcome["state"], outcome.get("status", 0)) == (state, status), outcome
        assert error is None and "error" not in outcome or error is not None and error in outcome["error"], outcome
        if state == RETRYING:
            delay = 7_200 if status == 429 else 3_600
            found = pair.office.find(outcome["id"])
            assert found is not None and found.due - time.time() == pytest.approx(delay, rel=JITTER + 0.01)
        assert pair.store.has(url) is (status != 410)
        assert status != 301 or bad.requests.qsize() == 1
        pair.register(listener.url(), OTHER)
        assert pair.trigger(OTHER, 2, Prefer="wait=5").json()["deliveries"][0]["state"] == DELIVERED
        health = pair.call("GET", "/health").json()
        assert (health["waiting"], health["under_way"]) == (int(state == RETRYING), 0)


def _serve_tls(folder: Path) -> str:
    """An https URL whose certificate nobody has signed but itself."""
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split()
    subprocess.run([*make, "-keyout", key, "-out", certificate, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server, server.accept()[0] as connection:
            try:
                context.wrap_socket(connection, server_side=True).close()
            except (ssl.SSLError, OSError):
                pass  # the exposee does not like the certificate

    threading.Thread(target=serve, daemon=True).start()
    return f"https://127.0.0.1:{server.getsockname()[1]}/hook"


def test_prefer_wait_ends_with_202_when_the_receiver_hangs(pair: Pair, listener: Listener) -> None:
    listener.answer = listener.hang
    pair.register(listener.url(), EVENT)
    assert pair.trigger(EVENT, 1, Prefer="wait=1").status == 202
    listener.close()


def test_a_message_for_nobody_is_accepted_and_forgotten(desk: Desk) -> None:
    message: Message = desk.office.trigger(OTHER, 1)
    assert message.deliveries == [] and desk.states() == {}
    desk.restart()
    assert desk.office.counts()["waiting"] == 0


def test_a_burst_is_told_to_a_watcher_in_batches(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """To write thousands of deliveries down at once would hold up the sending of them."""
    monkeypatch.setattr(watching, "WATCH_BATCH", 3)
    watcher = desk.office.watchers.watch()
    found = [desk.trigger(data=number) for number in range(7)]
    for delivery in found:
        desk.settled(delivery, 1)
    batches = [watcher.wait(SECONDS) for _ in range(3)]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert {news["id"] for batch in batches for news in batch} == {delivery.id for delivery in found}
