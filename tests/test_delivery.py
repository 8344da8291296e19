"""The dispatcher: what it accepts, when it tries again, when it gives up, and what a restart finds.

Most tests have a clock that stands still and receivers that answer as told. Threads are real, so tests wait for
outcomes, never for time.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import os
import queue
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext, SSLError
from typing import Any

import pytest
from support import (
    EVENT,
    JOURNAL,
    OTHER,
    SECONDS,
    Blocking,
    Clock,
    Desk,
    Listener,
    Pair,
    eventually,
    exchange,
    fields,
    held,
    request,
    without_bytes,
)

import delivery as dispatching
import endpoints
import housekeeper
from durable import StoreError
from endpoints import JITTER, MAX_RETRY_AFTER, RETRY_SCHEDULE
from history import delivery_json
from journal import delivery_record
from messages import CANCELLED, DELIVERED, DELIVERING, FAILED, PENDING, RETRYING, Delivery, Full, NotPossible

URL, SECOND = "http://a.test/hook", "http://b.test/hook"
SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
NEW_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
YEAR = 365 * 86_400.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A dispatcher with one URL."""
    with Desk(tmp_path, URL) as it:
        yield it


def counts(desk: Desk) -> tuple[int, int]:
    """How many deliveries wait, and how many attempts are under way."""
    found = desk.dispatcher.counts()
    return found["waiting"], found["under_way"]


# --- accepting ------------------------------------------------------------------------------------------------------


def test_a_message_for_nobody_is_accepted_and_forgotten(desk: Desk) -> None:
    message = desk.accept(OTHER, 1)
    assert message.deliveries == [] and desk.all() == []
    desk.restart()
    assert desk.dispatcher.counts()["waiting"] == 0


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


def test_an_outcome_is_in_the_file_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a crash long after a delivery would repeat it."""
    monkeypatch.setattr("housekeeper.FLUSH_SECONDS", 0.05)
    with Desk(tmp_path, URL) as desk:
        record = delivery_record(desk.settled(desk.trigger()))
        eventually(lambda: record in desk.journal.path.read_bytes(), "the outcome in the file")


# --- the retry schedule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999999])
def test_the_schedule_of_75_hours(tmp_path: Path, chance: float) -> None:
    with Desk(tmp_path, URL, chance=lambda: chance) as desk:
        desk.answer, began = exchange(503), desk.clock.now
        delivery = desk.trigger()
        for number, delay in enumerate(RETRY_SCHEDULE, 1):
            desk.settled(delivery, number)
            assert delivery.state == RETRYING
            assert delivery.due - desk.clock.now == pytest.approx(delay * (1 + JITTER * (2 * chance - 1)), abs=0.01)
            desk.pass_time(delivery.due - desk.clock.now - 0.01)
            assert (delivery.state, delivery.count) == (RETRYING, number), "it was sent too early"
            desk.pass_time(0.02)
        desk.settled(delivery, len(RETRY_SCHEDULE) + 1)
        assert (delivery.state, delivery.due) == (FAILED, 0.0)
        hours = (desk.clock.now - began) / 3_600
        assert hours == pytest.approx(75.6 * (1 + JITTER * (2 * chance - 1)), abs=0.1)
        desk.pass_time(10 * 86_400)
        assert delivery.state == FAILED and counts(desk) == (0, 0)


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


@pytest.mark.parametrize("delays", [(), (1.0,), (1.0, 1.0)])
def test_a_schedule_may_be_shorter_after_a_restart(tmp_path: Path, delays: tuple[float, ...]) -> None:
    """A delivery may have been retried more often than the schedule has it now."""
    with Desk(tmp_path, URL) as desk:
        desk.answer = exchange(503)
        delivery = desk.trigger()
        for number in (1, 2, 3):
            desk.settled(delivery, number)
            desk.pass_time(500)
        desk.settled(delivery, 3)
        desk.options["schedule"] = delays
        desk.restart()
        desk.pass_time(86_400)
        assert desk.settled(delivery, 4).state == FAILED
        assert counts(desk) == (0, 0)


@pytest.mark.parametrize(
    "field, delay",
    [
        ("Retry-After: 3600", 3_600),
        ("retry-after:3600", 3_600),
        ("Retry-After: 0000000000120", 120),
        ("Retry-After: " + formatdate(1_700_000_000 + 7_200, usegmt=True), 7_200),
        ("Retry-After: 1", 5),  # never shortens
        ("Retry-After: 0", 5),
        ("Retry-After:", 5),
        ("Retry-After: " + formatdate(1_600_000_000, usegmt=True), 5),
        ("Retry-After: 999999", 86_400),  # not for ever
        ("Retry-After: " + "9" * 5_000, 86_400),
        ("Retry-After: " + formatdate(1_900_000_000, usegmt=True), 86_400),
        ("Retry-After: -3600", 5),
        ("Retry-After: ²", 5),
        ("Retry-After: soon", 5),
        ("Retry-After: Fri, 99 Nov 2023 99:99:99 GMT", 5),
        ("Retry-After: Tue, 14 Nov 99999 22:13:20 GMT", 5),
        ("X-Retry-After: 3600", 5),
    ],
)
def test_retry_after_postpones_and_never_shortens(desk: Desk, field: str, delay: float) -> None:
    desk.answer = exchange(429, field)
    delivery = desk.settled(desk.trigger())
    assert delivery.due - desk.clock.now == pytest.approx(delay, abs=1)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_any_2xx_is_success(desk: Desk, status: int) -> None:
    desk.answer = exchange(status)
    assert desk.settled(desk.trigger()).state == DELIVERED


@pytest.mark.parametrize("status", [300, 301, 304, 307, 400, 404, 409, 429, 500, 503, 999])
def test_everything_else_is_not(desk: Desk, status: int) -> None:
    desk.answer = exchange(status)
    assert desk.settled(desk.trigger()).state == RETRYING


def test_a_2xx_that_did_not_come_whole_is_a_failure(desk: Desk) -> None:
    desk.answer = exchange(200, error="the answer ended after 3 of 9 bytes")
    delivery = desk.settled(desk.trigger())
    assert (delivery.state, delivery.attempts[0].status) == (RETRYING, 200)


def test_every_attempt_has_the_same_id_and_its_own_time_and_signature(desk: Desk) -> None:
    desk.register(URL, EVENT, secret=SECRET)
    desk.answer = exchange(503)
    delivery = desk.trigger(data={"amount": 1.50, "für": "Zoë"})
    for number in (1, 2, 3):
        desk.settled(delivery, number)
        desk.pass_time(delivery.due - desk.clock.now)
    signatures = set()
    for sent in [desk.next_sent() for _ in range(3)]:
        names = fields(sent.request)
        assert json.loads(sent.body) == {"event": EVENT, "data": {"amount": 1.50, "für": "Zoë"}}
        assert names["webhook-id"] == delivery.message.id
        assert names["webhook-timestamp"] == str(int(sent.at))
        signed = f"{names['webhook-id']}.{names['webhook-timestamp']}.".encode() + sent.body
        digest = hmac.new(bytes(range(24)), signed, hashlib.sha256).digest()
        assert names["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        digest = hmac.new(SECRET.encode(), sent.body, hashlib.sha256).digest()
        assert names["x-hub-signature-256"] == "sha256=" + digest.hex()
        signatures.add(names["webhook-signature"])
    assert len(signatures) == 3


def test_without_a_secret_nothing_is_signed(desk: Desk) -> None:
    desk.trigger()
    assert not {"webhook-signature", "x-hub-signature-256"} & fields(desk.next_sent().request).keys()


# --- a Unix clock that is wrong: a Desk whose `clock` is not its monotonic one --------------------------------------


@pytest.mark.parametrize("step", [YEAR, 3 * 86_400.0, -YEAR])
def test_a_step_of_the_unix_clock_neither_hurries_nor_delays_a_retry(tmp_path: Path, step: float) -> None:
    unix = Clock()
    with Desk(tmp_path, URL, clock=unix) as desk:
        desk.answer = exchange(503)
        delivery = desk.settled(desk.trigger())
        unix.now += step
        desk.turn()
        assert (delivery.state, delivery.count) == (RETRYING, 1), "a step made it due"
        desk.pass_time(5.01)
        desk.settled(delivery, 2)
        desk.pass_time(299.0)
        assert delivery.count == 2
        desk.pass_time(2.0)
        desk.settled(delivery, 3)
        assert delivery.state == RETRYING


@pytest.mark.parametrize("ahead", [YEAR, 3 * 86_400.0])
def test_a_retry_that_was_planned_under_a_clock_that_was_ahead_waits_for_a_day_or_so_at_the_most(
    tmp_path: Path, ahead: float
) -> None:
    """The journal has Unix times, and the clock may have been put right before the start."""
    unix = Clock()
    unix.now += ahead
    with Desk(tmp_path, URL, clock=unix) as desk:
        desk.answer = exchange(503)
        delivery = desk.settled(desk.trigger())
        desk.stop()
        unix.now -= ahead
        desk.open(desk.folder)
        assert 0 < desk.find(delivery).due - unix.now <= MAX_RETRY_AFTER * (1 + JITTER)
        assert desk.find(delivery).state == RETRYING
        desk.pass_time(MAX_RETRY_AFTER * (1 + JITTER) + 1)
        assert desk.settled(delivery, 2).state == RETRYING


def test_a_redelivery_of_one_that_was_planned_under_a_wrong_clock_shows_no_due_time_that_is_none(
    tmp_path: Path,
) -> None:
    unix, blocking = Clock(), Blocking()
    unix.now += YEAR
    with Desk(tmp_path, URL, clock=unix) as desk, held(blocking):
        desk.answer = exchange(503)
        delivery = desk.settled(desk.trigger())
        desk.answer = blocking
        desk.on_demand.redeliver(delivery)
        desk.under_way(delivery)
        files = desk.copy(tmp_path / "later")
    unix.now -= YEAR
    with Desk(files, answer=exchange(503), clock=unix) as desk:
        found = desk.settled(delivery, 2)
        assert found.state == RETRYING and found.due - unix.now <= MAX_RETRY_AFTER * (1 + JITTER)


# --- 410 Gone -------------------------------------------------------------------------------------------------------


def test_a_410_that_ends_early_is_tried_again(desk: Desk) -> None:
    desk.answer = exchange(410, error="the answer ended after 3 of 9 bytes")
    delivery = desk.settled(desk.trigger())
    assert delivery.state == RETRYING and desk.store.has(URL)


def test_410_fails_the_delivery_unregisters_the_url_and_cancels_its_others(desk: Desk) -> None:
    desk.register(URL, OTHER, secret=SECRET)
    desk.register(SECOND, EVENT)
    desk.answer = exchange(503)
    retrying = [desk.settled(desk.trigger(event)) for event in (EVENT, OTHER)]
    blocking = Blocking(exchange(410))
    with held(blocking):
        desk.answer = lambda url: blocking(url) if url == URL else exchange()
        gone = desk.under_way(desk.trigger())
        pending = [desk.trigger() for _ in range(3)]
    desk.settled(gone)
    assert gone.state == FAILED
    eventually(lambda: not desk.store.has(URL))
    eventually(lambda: [d.state for d in retrying + pending] == [CANCELLED] * 5)
    assert desk.store.secrets(URL) == [] and desk.store.urls() == [SECOND]
    eventually(lambda: counts(desk) == (1, 0))  # only the first one of SECOND, which is retrying


def test_urls_that_answer_410_are_unregistered_together_while_others_are_sent_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unregistration waits for the disk: no sender does."""
    urls = [f"http://{number}.test/" for number in range(50)]
    entered, gate = threading.Event(), threading.Event()
    with Desk(tmp_path, *urls) as desk, held(gate):
        unregister_urls, replacements = desk.store.unregister_urls, []

        def slow_disk(gone: Any) -> Any:
            replacements.append(gone)
            entered.set()
            assert gate.wait(SECONDS)
            return unregister_urls(gone)

        monkeypatch.setattr(desk.store, "unregister_urls", slow_disk)
        desk.answer = lambda url: exchange(410) if url in urls else exchange()
        message = desk.accept()
        assert entered.wait(SECONDS)
        for delivery in message.deliveries:
            assert delivery is not None
            assert desk.settled(delivery).state == FAILED
        desk.register(SECOND, OTHER)
        assert desk.settled(desk.trigger(OTHER)).state == DELIVERED
        gate.set()
        eventually(lambda: desk.store.urls() == [SECOND])
        assert len(replacements) <= 2, "each was unregistered alone"


def test_a_url_that_answered_410_and_was_registered_again_stays_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its integrator was answered 200 after that 410: also when the unregistration is about to be written."""
    with Desk(tmp_path, URL) as desk:
        unregister_urls = desk.store.unregister_urls

        def registered_first(gone: Any) -> Any:
            desk.register(URL, EVENT)
            return unregister_urls(gone)

        monkeypatch.setattr(desk.store, "unregister_urls", registered_first)
        desk.answer = exchange(410)
        desk.settled(desk.trigger())
        eventually(lambda: any("410" in line for line in desk.log))
        desk.dispatcher.housekeeper.work()
        assert desk.store.registered(URL, EVENT)
        desk.answer = exchange()
        assert desk.settled(desk.trigger()).state == DELIVERED


def test_a_410_that_the_disk_refuses_to_unregister_is_tried_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Desk(tmp_path, URL) as desk:
        unregister_urls, refused = desk.store.unregister_urls, threading.Event()

        def refuse(gone: Any) -> Any:
            refused.set()
            raise StoreError("No space left on device")

        monkeypatch.setattr(desk.store, "unregister_urls", refuse)
        desk.answer = exchange(410)
        desk.settled(desk.trigger())
        assert refused.wait(SECONDS)
        assert not desk.dispatcher.housekeeper.work(), "it would be tried again without a pause"
        assert any("could not be unregistered: No space" in line for line in desk.log)
        assert desk.settled(desk.trigger(), 0).state in (PENDING, CANCELLED), "it does not want to hear from us"
        monkeypatch.setattr(desk.store, "unregister_urls", unregister_urls)
        assert desk.dispatcher.housekeeper.work()
        assert not desk.store.has(URL)


# --- unregistering --------------------------------------------------------------------------------------------------


def test_unregister_cancels_what_waits_of_that_event_only(desk: Desk) -> None:
    desk.register(URL, OTHER)
    desk.answer = exchange(503)
    retrying = {event: desk.settled(desk.trigger(event)) for event in (EVENT, OTHER)}
    with desk.blocked():
        under_way = desk.under_way(desk.trigger())
        waiting = {event: desk.trigger(event) for event in (EVENT, OTHER)}
        desk.unregister(URL, EVENT)
        assert (waiting[EVENT].state, retrying[EVENT].state) == (CANCELLED, CANCELLED)
        assert (waiting[OTHER].state, retrying[OTHER].state) == (PENDING, RETRYING)
    assert desk.settled(under_way).state == DELIVERED
    assert desk.settled(waiting[OTHER]).state == DELIVERED
    desk.pass_time(10)
    assert desk.settled(retrying[OTHER], 2).state == DELIVERED
    assert waiting[EVENT].count == 0
    assert [delivery_json(d[EVENT])["error"] for d in (waiting, retrying)] == ["unregistered", "unregistered"]
    assert counts(desk) == (0, 0)


def test_what_was_cancelled_is_counted_and_forgotten_by_a_redelivery(desk: Desk) -> None:
    desk.answer = exchange(503)
    first, *_ = [desk.settled(desk.trigger()) for _ in range(3)]
    assert desk.unregister(URL, EVENT) == 3
    desk.register(URL, EVENT)
    desk.answer = exchange()
    desk.on_demand.redeliver(first)
    assert desk.settled(first, 2).state == DELIVERED and "error" not in delivery_json(first)
    desk.restart()
    assert "error" not in delivery_json(desk.find(first))


def test_a_cancellation_is_on_the_disk_before_it_is_answered_and_stays_after_a_kill(
    tmp_path: Path, listener: Listener
) -> None:
    """Also when the event is registered again."""
    synced: list[bytes] = []

    def fsync(descriptor: int) -> None:
        synced[:] = [journal.read_bytes()] if journal.exists() else []

    journal, url = tmp_path / JOURNAL, listener.url()
    listener.answer = b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"
    with Pair(tmp_path, fsync=fsync, schedule=(3_600,)) as pair:
        pair.register(url, EVENT)
        pair.trigger(EVENT, 1, Prefer="wait=5")
        assert pair.call("DELETE", "/webhooks/unregister", {"url": url, "event": EVENT}).status == 200
        last = [line for line in synced[0].splitlines() if b'"delivery"' in line][-1]
        assert json.loads(last)["state"] == CANCELLED
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / journal.name).write_bytes(synced[0])
    with Desk(tmp_path / "later") as desk:
        assert desk.dispatcher.orphans() == {}
        desk.register(url, EVENT)
        desk.pass_time(7_200)
        assert [d.state for d in desk.all()] == [CANCELLED] and desk.sent.empty()


def test_a_cancellation_that_a_sender_was_quicker_with_is_on_the_disk_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn came between the unregistration and the call that cancels what waits."""
    monkeypatch.setattr(housekeeper, "FLUSH_SECONDS", 600.0)
    monkeypatch.setattr(endpoints, "UNDER_WAY", 1)
    blocking = Blocking()
    with Desk(tmp_path, URL) as desk, held(blocking):
        desk.register(SECOND, OTHER)
        desk.answer = blocking
        desk.under_way(desk.trigger(OTHER))
        delivery = desk.trigger()
        assert desk.store.unregister(URL, EVENT, lambda _: None) == 1
        blocking.set()
        eventually(lambda: delivery.state == CANCELLED)
        desk.dispatcher.cancel(URL, EVENT)
        files = desk.copy(tmp_path / "later")
    with Desk(files) as desk:
        assert desk.find(delivery).state == CANCELLED


def test_what_was_accepted_for_a_new_registration_is_not_cancelled_by_the_end_of_the_old_one(desk: Desk) -> None:
    with desk.blocked():
        desk.trigger()
        desk.store.unregister(URL, EVENT, lambda _: None)
        desk.register(URL, EVENT)
        accepted = desk.trigger()
        desk.dispatcher.cancel(URL, EVENT)
        assert accepted.state == PENDING
    assert desk.settled(accepted).state == DELIVERED


def test_an_attempt_that_fails_after_the_unregistration_is_not_tried_again(desk: Desk) -> None:
    with desk.blocked(exchange(503)):
        delivery = desk.under_way(desk.trigger())
        desk.unregister(URL, EVENT)
    assert desk.settled(delivery).state == CANCELLED


def test_a_redelivery_under_way_that_fails_after_the_unregistration_leaves_no_retry(desk: Desk) -> None:
    """Its planned retries have been cancelled with the rest."""
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger())
    with desk.redelivering(delivery, exchange(503)):
        desk.unregister(URL, EVENT)
    assert desk.settled(delivery, 2).state == CANCELLED
    desk.register(URL, EVENT)
    desk.answer = exchange()
    desk.pass_time(86_400)
    assert desk.sent.qsize() == 2 and counts(desk) == (0, 0)


@pytest.mark.parametrize("before", [204, 503])
@pytest.mark.parametrize("again", [True, False])
def test_a_redelivery_that_waits_is_cancelled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, again: bool
) -> None:
    """Registered again or not: it is not sent, and the counts are right."""
    monkeypatch.setattr(dispatching, "limits", lambda: (1, 8))
    blocking = Blocking()
    with Desk(tmp_path, URL) as desk, held(blocking):
        desk.answer = exchange(before)
        delivery = desk.settled(desk.trigger())
        desk.register(SECOND, OTHER)
        desk.answer = blocking
        other = desk.under_way(desk.trigger(OTHER))
        desk.on_demand.redeliver(delivery)
        assert delivery.state == PENDING
        desk.unregister(URL, EVENT)
        assert delivery.state == CANCELLED
        if again:
            desk.register(URL, EVENT)
        blocking.set()
        desk.settled(other)
        desk.pass_time(10)
        desk.pass_time(86_400)
        assert (delivery.state, delivery.count) == (CANCELLED, 1)
        assert counts(desk) == (0, 0)


def test_a_delivery_that_ends_before_its_attempt_is_told_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its URL was unregistered while it was being accepted: whoever waits for its first attempt waits for nothing."""
    urls_for = desk.store.urls_for

    def unregistered_meanwhile(event: str) -> list[str]:
        urls = urls_for(event)
        desk.store.unregister(URL, EVENT, lambda _: None)
        return urls

    monkeypatch.setattr(desk.store, "urls_for", unregistered_meanwhile)
    delivery, began = desk.trigger(), time.monotonic()
    assert desk.dispatcher.history.wait([delivery], SECONDS)
    assert delivery.state == CANCELLED
    assert time.monotonic() - began < SECONDS / 2


# --- what waits for a webhook that is gone --------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [503, 0])
def test_a_start_keeps_what_waits_for_a_webhook_that_is_gone_until_it_is_registered_again(
    tmp_path: Path, answer: int
) -> None:
    """An empty webhooks.json, say: only its owner knows whether that is meant."""
    blocking = Blocking(exchange(503))
    with Desk(tmp_path, URL, SECOND) as desk, held(blocking):
        desk.answer = exchange(503) if answer else blocking
        deliveries = [d for d in desk.accept().deliveries if d is not None]
        for delivery in deliveries:
            desk.settled(delivery) if answer else desk.under_way(delivery)
        files = tmp_path if answer else desk.copy(tmp_path / "later")
    (files / "webhooks.json").write_text("[]\n", "utf-8")
    with Desk(files) as desk:
        assert desk.dispatcher.orphans() == {URL: 1, SECOND: 1}
        desk.pass_time(86_400)
        desk.restart()
        assert desk.dispatcher.orphans() == {URL: 1, SECOND: 1}
        assert counts(desk) == (2, 0) and desk.sent.empty()
        desk.register(URL, OTHER)
        assert desk.dispatcher.orphans() == {URL: 1, SECOND: 1}, "it waits for its own event"
        desk.register(URL, EVENT)
        desk.pass_time(86_400)
        first, second = deliveries if deliveries[0].url == URL else reversed(deliveries)
        assert desk.settled(first, 2 if answer else 1).state == DELIVERED
        desk.dispatcher.cancel(SECOND, EVENT)
        assert desk.find(second).state == CANCELLED
        assert desk.dispatcher.orphans() == {} and counts(desk) == (0, 0)
        desk.restart()
        assert desk.find(second).state == CANCELLED


def test_what_waits_for_an_event_that_is_gone_is_not_redelivered_and_then_sent_once(tmp_path: Path) -> None:
    with Desk(tmp_path, URL) as desk:
        desk.register(URL, OTHER)
        desk.answer = exchange(503)
        delivery = desk.settled(desk.trigger())
        desk.stop()
        (tmp_path / "webhooks.json").write_text(json.dumps([{"url": URL, "event": OTHER}]), "utf-8")
        desk.open(tmp_path)
        desk.answer = exchange()
        with pytest.raises(NotPossible, match=f"no longer registered for {EVENT}"):
            desk.on_demand.redeliver(desk.find(delivery))
        desk.register(URL, EVENT)
        desk.pass_time(10)
        assert desk.settled(delivery, 2).state == DELIVERED
        desk.pass_time(86_400)
        assert desk.sent.qsize() == 2 and counts(desk) == (0, 0)


# --- pings ----------------------------------------------------------------------------------------------------------


def ping(desk: Desk) -> Delivery:
    """The newest ping of the only URL."""
    (delivery,) = desk.on_demand.ping()
    return delivery


def test_a_ping_is_never_retried(desk: Desk) -> None:
    desk.answer = exchange(503)
    delivery = ping(desk)
    assert desk.dispatcher.history.wait([delivery], SECONDS)
    assert (delivery.state, delivery.due) == (FAILED, 0.0)
    desk.pass_time(86_400)
    assert delivery.state == FAILED and desk.sent.qsize() == 1
    assert desk.next_sent().body == b'{"event": "ping", "data": "Ping from Exposee"}'


def test_a_ping_goes_past_backlogs_and_back_offs(desk: Desk) -> None:
    desk.answer = exchange(503)
    retrying = desk.settled(desk.trigger())
    with desk.blocked():
        under_way = desk.under_way(desk.trigger())
        waiting = [desk.trigger() for _ in range(20)]
        desk.answer = exchange()
        delivery = desk.settled(ping(desk))
        assert delivery.state == DELIVERED
        names = [fields(desk.next_sent().request)["webhook-id"] for _ in range(3)]
        assert names == [d.message.id for d in (retrying, under_way, delivery)], "it did not go past those that wait"
        assert retrying.state == RETRYING
    desk.settled(waiting[-1])


def test_a_ping_under_way_is_shared(desk: Desk) -> None:
    with desk.blocked():
        first = desk.under_way(ping(desk))
        desk.register(SECOND, OTHER)
        both = desk.on_demand.ping()
        assert first in both and {d.url for d in both} == {URL, SECOND}
        eventually(lambda: counts(desk)[1] == 2)
        assert set(desk.on_demand.ping()) == set(both)
    assert desk.dispatcher.history.wait(both, SECONDS)
    assert desk.sent.qsize() == 2
    eventually(lambda: counts(desk) == (0, 0))
    assert not set(desk.on_demand.ping()) & set(both), "a ping that is over is not shared"


def test_a_ping_that_is_redelivered_is_waited_for_by_whoever_shares_it(desk: Desk) -> None:
    it = desk.settled(ping(desk))
    with desk.redelivering(it):
        assert desk.on_demand.ping() == [it]
        assert not desk.dispatcher.history.wait([it], 0.0), "its first attempt is over, and this one is not"
    assert desk.dispatcher.history.wait([it], SECONDS) and it.state == DELIVERED


def test_urls_that_refuse_and_are_pinged_without_end_stop_no_delivery(tmp_path: Path) -> None:
    refusing = [f"http://{number}.test/" for number in range(2_000)]
    entries = [{"url": url, "event": OTHER} for url in refusing]
    (tmp_path / "webhooks.json").write_text(json.dumps(entries), "utf-8")
    stop, rounds = threading.Event(), list[int]()
    with Desk(tmp_path, URL, monotonic=time.monotonic, log=lambda line: None) as desk:
        desk.answer = lambda url: exchange() if url == URL else exchange(0, error="connection refused")

        def ping_without_end() -> None:
            while not stop.is_set():
                rounds.append(len(desk.on_demand.ping()))

        pinging = [threading.Thread(target=ping_without_end) for _ in range(4)]
        with held(stop):
            for thread in pinging:
                thread.start()
            eventually(lambda: counts(desk)[0] > 1_000, "a round of pings")
            slowest = 0.0
            for number in range(20):
                began = time.monotonic()
                desk.settled(desk.trigger(data=number))
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 2.0
        for thread in pinging:
            thread.join(SECONDS)
        assert rounds


def test_each_url_is_pinged_once_however_many_events_it_has(desk: Desk) -> None:
    desk.register(URL, OTHER, "payment_processed")
    assert len(desk.on_demand.ping()) == 1


def test_a_ping_under_way_has_failed_after_a_restart(desk: Desk, tmp_path: Path) -> None:
    with desk.blocked():
        delivery = desk.under_way(ping(desk))
        files = desk.copy(tmp_path / "later")
    with Desk(files) as later:
        assert delivery_json(later.find(delivery))["error"] == "interrupted by a restart"
        assert later.find(delivery).state == FAILED
        with pytest.raises(NotPossible, match="interrupted by a restart"):
            later.on_demand.confirm_ping(URL)
        assert counts(later) == (0, 0)


def test_a_confirmed_ping_stays_confirmed(desk: Desk) -> None:
    with pytest.raises(NotPossible, match="no ping"):
        desk.on_demand.confirm_ping(URL)
    delivery = desk.settled(ping(desk))
    desk.on_demand.confirm_ping(URL)
    assert delivery.confirmed
    desk.restart()
    assert delivery_json(desk.find(delivery))["confirmed"] is True


def test_a_ping_is_confirmed_while_it_is_under_way(desk: Desk) -> None:
    """The receiver may be quicker than we are with its answer."""
    with desk.blocked():
        delivery = desk.under_way(ping(desk))
        desk.on_demand.confirm_ping(URL)
    assert delivery_json(desk.settled(delivery))["confirmed"] is True
    desk.restart()
    assert delivery_json(desk.find(delivery))["confirmed"] is True


@pytest.mark.parametrize(
    "answer, reason",
    [(exchange(503), "answered 503"), (exchange(0, error="connection refused: x"), "connection refused: x")],
    ids=["status", "error"],
)
def test_a_ping_that_failed_is_not_confirmed_but_refused_with_the_reason(desk: Desk, answer: Any, reason: str) -> None:
    desk.answer = exchange()
    desk.settled(ping(desk))
    desk.answer = answer
    failed = desk.settled(ping(desk))
    with pytest.raises(NotPossible, match=reason):
        desk.on_demand.confirm_ping(URL)
    assert not failed.confirmed


def test_a_ping_that_was_never_sent_is_not_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its URL answered 410 while it waited, and is registered again."""
    monkeypatch.setattr(endpoints, "UNDER_WAY", 1)
    blocking = Blocking()
    with Desk(tmp_path, URL) as desk, held(blocking):
        desk.register(SECOND, OTHER)
        desk.answer = blocking
        desk.under_way(desk.trigger(OTHER))
        pings = {delivery.url: delivery for delivery in desk.on_demand.ping()}
        desk.dispatcher.housekeeper.unregister(URL)
        assert desk.dispatcher.housekeeper.work() and pings[URL].state == CANCELLED
        desk.register(URL, EVENT)
        with pytest.raises(NotPossible, match="unregistered"):
            desk.on_demand.confirm_ping(URL)


# --- restarts -------------------------------------------------------------------------------------------------------


def test_states_due_times_and_history_survive_a_restart(desk: Desk) -> None:
    for status in (204, 503, 404):
        desk.register(f"http://{status}.test/", OTHER)
    desk.answer = lambda url: exchange(int(url[7:10])) if url != URL else exchange(0, error='refused: "no"')
    for delivery in desk.accept(OTHER, {"n": 1}).deliveries:
        assert delivery is not None
        desk.settled(delivery)
    failing = desk.settled(desk.trigger())
    desk.pass_time(10)
    desk.settled(failing, 2)
    eventually(lambda: counts(desk) == (3, 0))
    before = [without_bytes(d) for d in desk.all()]
    assert {d["state"] for d in before} == {DELIVERED, RETRYING}
    desk.restart()
    assert [without_bytes(d) for d in desk.all()] == before
    assert counts(desk) == (3, 0)
    desk.pass_time(desk.find(failing).due - desk.clock.now - 1)
    assert desk.find(failing).state == RETRYING
    desk.pass_time(1.01)
    assert desk.settled(failing, 3).count == 3
    assert "no longer kept" in delivery_json(desk.find(failing), attempts=True)["attempts"][0]["gone"]


def test_what_was_under_way_at_a_kill_is_delivered_again(desk: Desk, tmp_path: Path) -> None:
    """The journal as a kill leaves it: nothing but the message."""
    with desk.blocked():
        delivery = desk.trigger(data=1)
        first = desk.next_sent()
        with Desk(desk.copy(tmp_path / "later")) as later:
            assert later.settled(delivery).state == DELIVERED
            second = later.next_sent()
    assert fields(first.request)["webhook-id"] == fields(second.request)["webhook-id"]
    assert first.body == second.body


def test_the_last_of_many_records_counts_and_a_start_is_quick(tmp_path: Path) -> None:
    """A start takes time linear in the file: 10,000 redeliveries of one delivery, with all their attempts."""
    with Desk(tmp_path, URL) as desk:
        delivery = desk.settled(desk.trigger())
        attempt = delivery.attempts[0]
        for _ in range(30):
            delivery.add(attempt)
        record = delivery_record(delivery)
        delivery.count = 10_031
        last = delivery_record(delivery)
        redelivered = delivery_record(replace(delivery, state=PENDING, manual=True))
        delivery.count = 31
        desk.stop()
        with desk.journal.path.open("ab") as file:
            file.write((redelivered + record) * 1_000)
            small = _seconds_to_read(desk)
            file.write((redelivered + record) * 9_000 + last)
        assert _seconds_to_read(desk) < max(15 * small, 0.5) + 1.0
        desk.open(tmp_path)
        found = desk.find(delivery)
        assert (found.state, found.count, len(found.attempts)) == (DELIVERED, 10_031, 20)
        assert delivery_json(found)["attempt_count"] == 10_031
        assert counts(desk) == (0, 0)


def _seconds_to_read(desk: Desk) -> float:
    began = time.process_time()
    desk.open(desk.folder)
    took = time.process_time() - began
    desk.stop()
    return took


# --- a secret that is replaced --------------------------------------------------------------------------------------


def signatures(desk: Desk) -> list[str]:
    """The secrets that have signed the next request, in their order; GitHub's dialect has the first of them."""
    sent = desk.next_sent()
    names = fields(sent.request)
    content = f"{names['webhook-id']}.{names['webhook-timestamp']}.".encode() + sent.body
    made = {}
    for secret in (SECRET, NEW_SECRET):
        digest = hmac.digest(base64.b64decode(secret[6:]), content, "sha256")
        made["v1," + base64.b64encode(digest).decode()] = secret
    found = [made[it] for it in names["webhook-signature"].split(" ")]
    github = hmac.digest(found[0].encode(), sent.body, "sha256").hex()
    assert names["x-hub-signature-256"] == f"sha256={github}"
    return found


@pytest.mark.parametrize("restarted", [False, True])
def test_a_rotation_in_the_middle_of_retries_signs_the_next_ones_with_both(tmp_path: Path, restarted: bool) -> None:
    with Desk(tmp_path, schedule=(10.0, 10.0, 86_400.0), answer=exchange(503)) as desk:
        desk.register(URL, EVENT, secret=SECRET)
        delivery = desk.settled(desk.trigger())
        assert signatures(desk) == [SECRET]
        desk.register(URL, EVENT, secret=NEW_SECRET)
        for attempts in (2, 3):
            if restarted:
                desk.restart()
            desk.pass_time(11)
            assert signatures(desk) == [NEW_SECRET, SECRET]
            desk.settled(delivery, attempts)
        desk.pass_time(86_401)
        assert signatures(desk) == [NEW_SECRET]


# --- redelivery -----------------------------------------------------------------------------------------------------


def test_redelivery_is_one_more_attempt_with_todays_secret_and_no_retries(desk: Desk) -> None:
    desk.register(URL, EVENT, secret=SECRET)
    delivery = desk.settled(desk.trigger(data=1))
    first = fields(desk.next_sent().request)
    desk.register(URL, EVENT, secret=NEW_SECRET)
    desk.answer = exchange(503)
    desk.clock.now += 100
    desk.on_demand.redeliver(delivery)
    desk.settled(delivery, 2)
    assert (delivery.state, delivery.due) == (FAILED, 0.0)
    sent = desk.next_sent()
    names = fields(sent.request)
    assert names["webhook-id"] == first["webhook-id"]
    assert int(names["webhook-timestamp"]) == int(first["webhook-timestamp"]) + 100
    expected = hmac.new(NEW_SECRET.encode(), sent.body, hashlib.sha256).hexdigest()
    assert names["x-hub-signature-256"] == f"sha256={expected}"
    assert desk.dispatcher.counts()["waiting"] == 0
    desk.answer = exchange()
    desk.on_demand.redeliver(delivery)
    assert desk.settled(delivery, 3).state == DELIVERED


@pytest.mark.parametrize("restarted", [False, True])
def test_redelivery_of_one_that_is_retrying_keeps_its_planned_retries(tmp_path: Path, restarted: bool) -> None:
    """Also over a kill between its 202 and its attempt."""
    with Desk(tmp_path, URL) as desk:
        desk.answer = exchange(503)
        delivery = desk.settled(desk.trigger())
        planned = delivery.due
        with desk.redelivering(delivery, exchange(503)):
            files = desk.copy(tmp_path / "later") if restarted else None
        if not files:
            _is_retried_as_planned(desk, delivery, planned)
    if files:
        with Desk(files, answer=exchange(503), time=desk.clock) as later:
            _is_retried_as_planned(later, delivery, planned)


def _is_retried_as_planned(desk: Desk, delivery: Delivery, planned: float) -> None:
    delivery = desk.settled(delivery, 2)
    assert (delivery.state, delivery.due, delivery.tries) == (RETRYING, planned, 1)
    desk.pass_time(planned - desk.clock.now - 0.1)
    assert delivery.count == 2
    desk.pass_time(0.2)
    desk.settled(delivery, 3)
    assert (delivery.state, delivery.tries) == (RETRYING, 2)
    assert delivery.due - desk.clock.now == pytest.approx(RETRY_SCHEDULE[1], abs=1)
    desk.answer = exchange()
    desk.pass_time(400)
    assert desk.settled(delivery, 4).state == DELIVERED


def test_a_redelivery_that_succeeds_needs_no_retries_any_more(desk: Desk) -> None:
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger())
    desk.answer = exchange()
    desk.on_demand.redeliver(delivery)
    assert desk.settled(delivery, 2).state == DELIVERED
    desk.pass_time(86_400)
    assert desk.sent.qsize() == 2 and counts(desk) == (0, 0) and delivery.due == 0.0


def test_a_retry_that_comes_due_while_a_redelivery_is_under_way_is_made_after_it(desk: Desk) -> None:
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger())
    with desk.redelivering(delivery, exchange(503)):
        desk.pass_time(6)
        assert delivery.state == DELIVERING and desk.sent.qsize() == 2
        desk.answer = exchange()
    assert desk.settled(delivery, 3).state == DELIVERED


def test_redelivery_is_refused_while_an_attempt_is_under_way_or_about_to_be(desk: Desk) -> None:
    with desk.blocked():
        deliveries = [desk.under_way(desk.trigger()), desk.trigger()]
        for delivery in deliveries:
            with pytest.raises(NotPossible, match="under way"):
                desk.on_demand.redeliver(delivery)


def test_redelivery_to_a_url_that_is_gone_is_refused(desk: Desk) -> None:
    delivery = desk.settled(desk.trigger())
    desk.unregister(URL, EVENT)
    with pytest.raises(NotPossible, match="no longer registered"):
        desk.on_demand.redeliver(delivery)


@pytest.mark.parametrize("first", [204, 404])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_redelivery_survives_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, compacted: bool
) -> None:
    """Between the 202 and the attempt; also when the journal was compacted in between. Still without retries."""
    with Desk(tmp_path, URL, schedule=()) as desk:
        desk.answer = exchange(first)
        delivery = desk.settled(desk.trigger())
        with desk.redelivering(delivery):
            if compacted:
                monkeypatch.setattr("journal.COMPACT_BYTES", 0)
                inode = desk.journal.path.stat().st_ino
                desk.dispatcher.housekeeper.work()
                assert desk.journal.path.stat().st_ino != inode
            files = desk.copy(tmp_path / "later")
        monkeypatch.undo()
    with Desk(files, answer=exchange(503)) as desk:
        assert desk.settled(delivery, 2).state == FAILED
        assert counts(desk) == (0, 0)


def test_two_who_ask_for_the_same_redelivery_at_once_leave_right_counts(desk: Desk) -> None:
    """Both may have been told 202: one attempt is made, and the journal's two records count as one."""
    delivery = desk.settled(desk.trigger())
    record = delivery_record(replace(delivery, state=PENDING, manual=True))
    for _ in range(2):
        desk.journal.commit(record, lambda: None)
    desk.restart()
    assert desk.settled(delivery, 2).state == DELIVERED
    assert counts(desk) == (0, 0)


def test_a_redelivery_that_came_too_late_takes_no_retries_away_after_a_restart(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was accepted when the retry had just become due: that was its attempt."""
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger())
    blocking = Blocking(exchange(503))
    commit = desk.journal.commit

    def due_meanwhile(record: bytes, accepted: Callable[[], None] = lambda: None) -> None:
        monkeypatch.setattr(desk.journal, "commit", commit)
        desk.pass_time(10)
        desk.under_way(delivery)
        commit(record, accepted)

    with held(blocking):
        desk.answer = blocking
        monkeypatch.setattr(desk.journal, "commit", due_meanwhile)
        desk.on_demand.redeliver(delivery)
    desk.settled(delivery, 2)
    desk.restart()
    delivery = desk.find(delivery)
    assert (delivery.state, delivery.manual, delivery.tries) == (RETRYING, False, 2)
    assert desk.sent.qsize() == 2


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


# --- limits ---------------------------------------------------------------------------------------------------------


def test_backlog_full_is_recorded_and_can_be_redelivered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "MAX_BACKLOG", 2)
    with desk.blocked():
        deliveries = [desk.under_way(desk.trigger())]
        deliveries += [desk.trigger() for _ in range(3)]
        full = deliveries[-1]
        assert [d.state for d in deliveries] == [DELIVERING, PENDING, PENDING, FAILED]
        assert delivery_json(full)["error"] == "backlog full" and not full.attempts
    for delivery in deliveries[:-1]:
        desk.settled(delivery)
    desk.restart()
    assert delivery_json(desk.find(full))["error"] == "backlog full"
    desk.on_demand.redeliver(desk.find(full))
    assert desk.settled(full).state == DELIVERED


def test_retries_that_wait_are_part_of_the_backlog(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "MAX_BACKLOG", 2)
    desk.answer = exchange(503)
    assert [desk.settled(desk.trigger()).state for _ in range(2)] == [RETRYING] * 2
    assert desk.trigger().state == FAILED


@pytest.mark.parametrize("limit, value", [("MAX_WAITING", 320), ("MAX_BODIES", 320 * 200)])
@pytest.mark.parametrize("dead", [1, 50])
def test_dead_urls_close_trigger_for_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, dead: int
) -> None:
    """Each has a share of what is left, so that there is always something left."""
    monkeypatch.setattr(dispatching, limit, value)
    urls = [f"http://dead-{number}.test/" for number in range(dead)]
    with Desk(tmp_path, URL, log=lambda line: None) as desk:
        for number, url in enumerate(urls):
            desk.register(url, f"event-{number}")
        desk.answer = lambda url: exchange() if url == URL else exchange(0, error="connection refused")
        refused = 0
        for number in range(dead):
            for _ in range(value // (1 if limit == "MAX_WAITING" else 200) // dead + 20):
                delivery = desk.trigger(f"event-{number}", "x" * 150)
                refused += delivery.error == "backlog full"
        assert refused > 0
        assert desk.settled(desk.trigger(data="x" * 150)).state == DELIVERED
        eventually(lambda: counts(desk)[1] == 0)
        used = counts(desk)[0] * (1 if limit == "MAX_WAITING" else len(delivery.message.body))
        assert used <= (value if dead > 1 else value / 8), "its share is more than a share"


@pytest.mark.parametrize("limit, value", [("MAX_WAITING", 3), ("MAX_BODIES", 150)])
def test_a_dispatcher_that_is_full_answers_503_and_accepts_nothing(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    listener.answer = listener.hang
    monkeypatch.setattr(dispatching, limit, value)
    with Pair(tmp_path, timeout=SECONDS) as pair:
        answers = []
        for number in range(6):  # each for a URL of its own, whose share is one delivery at the least
            pair.call("DELETE", "/webhooks/unregister", {"url": listener.url(f"/{number - 1}"), "event": EVENT})
            pair.register(listener.url(f"/{number}"), EVENT)
            answers.append(pair.trigger(EVENT, "x" * 20))
        statuses = [answer.status for answer in answers]
        accepted = statuses.count(202)
        assert accepted in (2, 3) and statuses == [202] * accepted + [503] * (6 - accepted)
        refused = answers[-1]
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["content-type"] == "application/problem+json"
        assert "wait" in refused.json()["detail"]
        assert len(pair.call("GET", "/deliveries").json()["deliveries"]) == accepted
        listener.close()


def test_what_is_full_says_what(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "MAX_WAITING", 0)
    with pytest.raises(Full, match="0 deliveries wait already, 0 are the limit"):
        desk.trigger()


# --- a disk that goes on failing ------------------------------------------------------------------------------------


def test_however_often_a_delivery_changes_one_note_of_it_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal keeps the last note of each key: so a disk that refuses for hours costs no more memory."""
    with Desk(tmp_path, URL) as desk:
        desk.answer = exchange(503)
        delivery = desk.settled(desk.trigger())
        desk.dispatcher.housekeeper.work()
        written, note, keys = desk.journal.path.read_bytes(), desk.journal.note, set()

        def counted(key: Any, record: bytes) -> None:
            keys.add(key)
            note(key, record)

        monkeypatch.setattr(desk.journal, "note", counted)
        for number in range(2, 10):
            desk.pass_time(86_400 * 1.3)
            desk.settled(delivery, number)
        assert keys == {delivery}
        eventually(lambda: desk.dispatcher.housekeeper.work() and desk.journal.path.read_bytes() != written)
        desk.restart()
        assert desk.find(delivery).count == 9


# --- start and end --------------------------------------------------------------------------------------------------


def test_close_waits_for_attempts_under_way_and_counts_what_waits(tmp_path: Path) -> None:
    desk, blocking = Desk(tmp_path, URL), Blocking()
    desk.answer = blocking
    counted: queue.Queue[int] = queue.Queue()
    with held(blocking):
        deliveries = [desk.trigger() for _ in range(4)]
        desk.under_way(deliveries[0])
        closing = threading.Thread(target=lambda: counted.put(desk.stop()))
        closing.start()
        with pytest.raises(queue.Empty):
            counted.get(timeout=0.05)
    assert counted.get(timeout=SECONDS) == 3
    closing.join(SECONDS)
    assert deliveries[0].state == DELIVERED and desk.sent.qsize() == 1


def test_close_gives_up_after_its_time(tmp_path: Path) -> None:
    desk, blocking = Desk(tmp_path, URL, monotonic=time.monotonic), Blocking()
    desk.answer = blocking
    with held(blocking):
        desk.under_way(desk.trigger())
        began = time.monotonic()
        assert desk.stop(0.05) == 1
        assert time.monotonic() - began < 2
    assert any("Waiting up to 0 s" in line for line in desk.log)


def test_what_ends_at_a_shutdown_is_in_the_journal(tmp_path: Path) -> None:
    desk = Desk(tmp_path, URL)
    delivery = desk.settled(desk.trigger())
    desk.stop()
    assert delivery_record(delivery) in desk.journal.path.read_bytes()


def test_a_trigger_during_the_shutdown_is_refused_and_leaves_nothing(desk: Desk) -> None:
    """A request that was read late: it is answered 503, as StoreError is, and not as a bug of ours."""
    desk.stop()
    try:
        with pytest.raises(StoreError, match="shutting down"):
            desk.trigger()
    finally:
        desk.open(desk.folder)
    assert desk.all() == []


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
        threading.Event().wait(0.02)


def _hang(connection: socket.socket) -> None:
    connection.recv(1)


FAULTS: list[tuple[Any, str, int, str | None]] = [
    (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", FAILED, 410, None),
    (b"HTTP/1.1 301 -\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", RETRYING, 301, None),
    (b"HTTP/1.1 429 -\r\nRetry-After: 7200\r\nContent-Length: 0\r\n\r\n", RETRYING, 429, None),
    (_reset, RETRYING, 0, "connection reset"),
    (_half, RETRYING, 200, "ended after 9 of 100 bytes"),
    (_endless, RETRYING, 200, "longer than 1,048,576 bytes"),
    (_long_head, RETRYING, 0, "a line or the head of the answer is longer than"),
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
    with Pair(tmp_path, timeout=SECONDS if patient else 0.25, schedule=(3_600,)) as pair, Listener() as bad:
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
            found = pair.dispatcher.history.find(outcome["id"])
            assert found is not None and found.due - time.time() == pytest.approx(delay, rel=JITTER + 0.01)
        eventually(lambda: pair.store.has(url) is (status != 410))
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
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server, server.accept()[0] as connection:
            try:
                context.wrap_socket(connection, server_side=True).close()
            except (SSLError, OSError):
                pass  # the exposee does not like the certificate

    threading.Thread(target=serve, daemon=True).start()
    return f"https://127.0.0.1:{server.getsockname()[1]}/hook"
