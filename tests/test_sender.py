"""How attempts are made: thousands at a time by one thread. Above all: no receiver slows another, whatever it does."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import (
    EVENT,
    NO_CONTENT,
    OTHER,
    SECONDS,
    Blocking,
    Client,
    Desk,
    Listener,
    Pair,
    Program,
    eventually,
    exchange,
    held,
    request,
)

import endpoints
from addresses import Guard
from client import Exchange
from client import exchange as real_exchange
from connections import Pool, Wait
from endpoints import WINDOW
from messages import DELIVERED, RETRYING

URL = "http://a.test/hook"
CLOSING = b"HTTP/1.1 204 -\r\nConnection: close\r\n\r\n"


def slowly(seconds: float) -> Callable[[socket.socket], None]:
    """A receiver that answers after a while."""

    def answer(connection: socket.socket) -> None:
        threading.Event().wait(seconds)
        connection.sendall(NO_CONTENT)

    return answer


# --- many at a time -------------------------------------------------------------------------------------------------


def test_2_000_that_hang_cost_no_thread_and_hold_up_nobody(tmp_path: Path) -> None:
    hanging = [f"http://hang-{number}.test/" for number in range(2_000)]
    (tmp_path / "webhooks.json").write_text(json.dumps([{"url": url, "event": EVENT} for url in hanging]), "utf-8")
    blocking = Blocking(exchange(0, error="timed out"))
    with Desk(tmp_path, monotonic=time.monotonic, log=lambda line: None) as desk, held(blocking):
        desk.answer = lambda url: exchange() if url == URL else blocking(url)
        threads = threading.active_count()
        desk.register(URL, EVENT, OTHER)
        for number in range(3):
            desk.accept(EVENT, number)
        eventually(lambda: desk.dispatcher.counts()["under_way"] >= 400)
        for number in range(20):
            began = time.monotonic()
            assert desk.settled(desk.trigger(OTHER, number)).state == DELIVERED
            assert time.monotonic() - began < 1
        assert threading.active_count() <= threads  # one of an earlier test may have ended
        fourth = [d for d in desk.accept(EVENT, 4).deliveries if d and d.url == URL]
        assert desk.settled(fourth[0]).state == DELIVERED
        desk.dispatcher.close(0.0)


def test_a_new_receiver_is_served_beside_300_that_hang(tmp_path: Path) -> None:
    hanging = [f"http://hang-{number}.test/" for number in range(300)]
    blocking = Blocking(exchange(0, error="timed out"))
    with Desk(tmp_path, *hanging, monotonic=time.monotonic) as desk, held(blocking):
        desk.answer = lambda url: blocking(url) if url != URL else exchange()
        desk.accept(EVENT, 1)
        eventually(lambda: desk.dispatcher.counts()["under_way"] == 300)
        desk.register(URL, OTHER)
        assert desk.settled(desk.trigger(OTHER)).state == DELIVERED


def test_attempts_under_way_follow_the_file_descriptors_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 256))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    blocking = Blocking()
    urls = [f"http://{number}.test/" for number in range(300)]
    with Desk(tmp_path, *urls, monotonic=time.monotonic, timeout=600.0) as desk:
        with held(blocking):
            desk.answer = blocking
            message = desk.accept()
            eventually(lambda: desk.dispatcher.counts()["under_way"] > 32)
            desk.turn()
            desk.turn()
            assert desk.dispatcher.counts()["under_way"] < 256 - endpoints.RESERVED
        for delivery in message.deliveries:
            assert delivery is not None
            assert desk.settled(delivery).state == DELIVERED


@pytest.mark.parametrize("workers", [2, 4])
def test_several_senders_share_the_urls(tmp_path: Path, listener: Listener, workers: int) -> None:
    with Pair(tmp_path, workers=workers) as pair:
        for number in range(40):
            pair.register(listener.url(f"/{number}"), EVENT)
        for number in range(5):
            assert "40 of 40" in pair.trigger(EVENT, number, Prefer="wait=10").json()["message"]
        assert len(pair.call("GET", "/ping").json()["deliveries"]) == 40
        assert pair.dispatcher.counts() == {"waiting": 0, "under_way": 0}
    assert listener.requests.qsize() == 240


def test_slow_receivers_that_answer_work_in_parallel(tmp_path: Path, listener: Listener) -> None:
    """60 URLs that take 0.1 s each would take 6 s one after the other."""
    listener.answer = slowly(0.1)
    with Pair(tmp_path) as pair:
        for number in range(60):
            pair.register(listener.url(f"/{number}"), EVENT)
        began = time.monotonic()
        outcome = pair.trigger(EVENT, 2, Prefer="wait=10").json()
        assert "60 of 60" in outcome["message"]
        assert time.monotonic() - began < 3


def test_a_burst_for_one_receiver_gets_connections_of_its_own(pair: Pair, listener: Listener) -> None:
    """160 deliveries to a receiver that takes 50 ms for each would take 8 s over one connection."""
    pair.register(listener.url(), EVENT)
    for number in range(5):
        pair.trigger(EVENT, f"it is known to be well now, {number}", Prefer="wait=5")
    assert listener.connections == 1
    listener.answer = slowly(0.05)
    began = time.monotonic()
    with pair.client() as client:
        for number in range(160):
            trigger(client, number)
    for _ in range(165):
        listener.next()
    assert time.monotonic() - began < 4
    assert 2 <= listener.connections <= WINDOW


def test_a_stream_to_one_url_is_delivered_in_parallel_and_once_each(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), EVENT)
    with pair.client() as client:
        ids = [trigger(client, number) for number in range(300)]
    received = [webhook_id(listener.next()) for _ in ids]
    assert sorted(received) == sorted(ids)
    assert 1 <= listener.connections <= WINDOW
    eventually(lambda: pair.dispatcher.counts()["waiting"] == 0)
    assert listener.requests.empty()


# --- one attempt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://[fe80::1]/"])
def test_an_attempt_that_ends_without_having_waited_is_settled_at_once(tmp_path: Path, url: str) -> None:
    """Nothing else happens that might wake the sender."""
    (tmp_path / "webhooks.json").write_text(json.dumps([{"url": url, "event": EVENT}]), "utf-8")
    with Desk(tmp_path, exchanging=real_exchange, guard=Guard()) as desk:
        delivery = desk.settled(desk.trigger())
        assert delivery.state == RETRYING and "link-local" in str(delivery.attempts[0].error)


def test_a_deadline_ends_an_attempt_whatever_it_waits_for(tmp_path: Path) -> None:
    blocking = Blocking()
    with Desk(tmp_path, URL, timeout=10.0) as desk, held(blocking):
        desk.answer = blocking
        delivery = desk.under_way(desk.trigger())
        desk.pass_time(9.9)
        assert delivery.count == 0
        desk.pass_time(0.2)
        desk.settled(delivery)
        assert (delivery.state, delivery.attempts[0].error) == (RETRYING, "timed out waiting for the answer")
        assert desk.dispatcher.counts() == {"waiting": 1, "under_way": 0}
        blocking.set()  # the answer comes too late, and harms nothing
        desk.answer = exchange()
        desk.pass_time(10)
        assert desk.settled(delivery, 2).state == DELIVERED


def test_an_error_of_ours_is_one_failed_attempt_and_the_sender_goes_on(tmp_path: Path) -> None:
    def failing(url: str) -> Exchange:
        raise RuntimeError("a bug")

    with Desk(tmp_path, URL) as desk:
        desk.answer = failing
        first = desk.settled(desk.trigger())
        assert first.state == RETRYING and "a bug" in str(first.attempts[0].error)
        assert any("a bug" in line for line in desk.log)
        desk.answer = exchange()
        assert desk.settled(desk.trigger()).state == DELIVERED
        desk.pass_time(10)
        assert desk.settled(first, 2).state == DELIVERED
        assert desk.dispatcher.counts() == {"waiting": 0, "under_way": 0}


def test_an_error_of_ours_in_showing_one_outcome_loses_no_other(tmp_path: Path) -> None:
    calls = iter([1, 2])

    def show(title: str, *messages: object) -> None:
        if "it answers" in title and next(calls, None):
            raise RuntimeError("a bug")

    urls = [f"http://{number}.test/" for number in range(5)]
    with Desk(tmp_path, *urls, show=show) as desk:
        for number in range(2):
            for delivery in desk.accept(EVENT, number).deliveries:
                assert delivery is not None
                assert desk.settled(delivery).state == DELIVERED
        assert any("a bug" in line for line in desk.log)
        assert desk.dispatcher.counts() == {"waiting": 0, "under_way": 0}


def test_a_secret_that_cannot_sign_costs_no_other_url_anything(tmp_path: Path) -> None:
    bad, good = "http://bad.test/", [f"http://good-{number}.test/" for number in range(6)]
    with Desk(tmp_path, bad, *good, log=lambda line: None) as desk:
        desk.store.secrets = lambda url: ["whsec_A"] if url == bad else []  # type: ignore[method-assign]
        for number in range(5):
            for delivery in desk.accept(EVENT, number).deliveries:
                assert delivery is not None
                if delivery.url != bad:
                    assert desk.settled(delivery).state == DELIVERED
        eventually(lambda: desk.dispatcher.counts() == {"waiting": 5, "under_way": 0})
        assert desk.sent.qsize() == 30, "sent again, or not at all"


def test_a_request_is_composed_once_per_attempt_and_not_before_there_is_a_connection(tmp_path: Path) -> None:
    composed: list[str] = []
    connected: Future[None] = Future()

    def exchanging(
        pool: Pool, url: str, compose: Callable[[], bytes], deadline: float
    ) -> Generator[Wait, None, Exchange]:
        yield connected
        return exchange()._replace(request=compose())

    with Desk(tmp_path, URL, exchanging=exchanging) as desk:
        secrets = desk.store.secrets
        desk.store.secrets = lambda url: composed.append(url) or secrets(url)  # type: ignore
        delivery = desk.under_way(desk.trigger())
        desk.turn()
        assert composed == []
        connected.set_result(None)
        desk.settled(delivery)
        assert composed == [URL]


# --- connections that are kept open ---------------------------------------------------------------------------------


def test_a_kept_open_connection_is_used_again_and_its_loss_survived(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), EVENT)
    for number in range(5):
        pair.trigger(EVENT, number, Prefer="wait=5")
    assert listener.connections == 1

    def and_hang_up(connection: socket.socket) -> None:
        connection.sendall(NO_CONTENT)
        connection.shutdown(socket.SHUT_RDWR)

    listener.answer = and_hang_up
    for number in range(5):
        (outcome,) = pair.trigger(EVENT, number, Prefer="wait=5").json()["deliveries"]
        assert (outcome["state"], outcome["attempt_count"]) == (DELIVERED, 1), outcome
    assert 2 <= listener.connections <= 6
    assert listener.requests.qsize() == 10


def test_a_new_connection_that_is_reset_is_a_failed_attempt_and_not_sent_again(pair: Pair, listener: Listener) -> None:
    """Only one that was kept open may have died while it was idle."""
    listener.answer = CLOSING
    pair.register(listener.url(), EVENT)
    for number in range(3):
        pair.trigger(EVENT, number, Prefer="wait=5")
    listener.answer = lambda connection: connection.shutdown(socket.SHUT_RDWR)
    (outcome,) = pair.trigger(EVENT, 3, Prefer="wait=5").json()["deliveries"]
    assert (outcome["state"], outcome["attempt_count"]) == (RETRYING, 1), outcome
    assert listener.requests.qsize() == 4


# --- names and TLS --------------------------------------------------------------------------------------------------


def test_names_that_hang_in_the_resolver_hold_up_no_name_that_is_known(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    getaddrinfo, gate = socket.getaddrinfo, threading.Event()

    def resolve(host: Any, *more: Any) -> Any:
        if str(host).startswith("hang"):
            gate.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return getaddrinfo("127.0.0.1", *more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    known, hanging = f"http://known.example:{listener.port}/", [f"http://hang-{n}.example/" for n in range(64)]
    with Pair(tmp_path, guard=None, timeout=0.5) as pair, held(gate):
        pair.store.register(known, [EVENT], None, lambda _: None)
        listener.answer = CLOSING  # so that the name is looked up each time
        assert pair.trigger(EVENT, 0, Prefer="wait=5").json()["deliveries"][0]["state"] == DELIVERED
        for url in hanging:
            pair.store.register(url, [OTHER], None, lambda _: None)
        pair.trigger(OTHER)
        eventually(lambda: pair.dispatcher.counts()["under_way"] == 64)
        for number in range(10):
            began = time.monotonic()
            assert pair.trigger(EVENT, number, Prefer="wait=5").json()["deliveries"][0]["state"] == DELIVERED
            assert time.monotonic() - began < 0.5
        assert sum(thread.name.startswith("resolve") for thread in threading.enumerate()) < 20
        eventually(lambda: all(d.count for d in pair.dispatcher.history.newest(lambda d: d.url in hanging, 64)))
        found = pair.dispatcher.history.newest(lambda d: d.url in hanging, 64)
        assert {d.attempts[0].error for d in found} == {"timed out connecting"}


@contextmanager
def silent(count: int) -> Iterator[int]:
    """A server that lets connections come, and never says a word; gives its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=count) as server:
        yield server.getsockname()[1]


def test_tls_handshakes_that_hang_hold_up_nobody(tmp_path: Path, listener: Listener) -> None:
    with silent(200) as port, Pair(tmp_path, timeout=SECONDS) as pair:
        for number in range(100):
            pair.store.register(f"https://127.0.0.1:{port}/{number}", [OTHER], None, lambda _: None)
        pair.register(listener.url(), EVENT)
        pair.trigger(OTHER)
        eventually(lambda: pair.dispatcher.counts()["under_way"] == 100)
        for number in range(10):
            began = time.monotonic()
            assert pair.trigger(EVENT, number, Prefer="wait=5").json()["deliveries"][0]["state"] == DELIVERED
            assert time.monotonic() - began < 1
        pair.dispatcher.close(0.0)


def test_a_silent_server_is_timed_out_in_its_handshake(tmp_path: Path) -> None:
    with silent(10) as port, Pair(tmp_path, timeout=0.2) as pair:
        pair.register(f"https://127.0.0.1:{port}/", EVENT)
        (outcome,) = pair.trigger(EVENT, Prefer="wait=5").json()["deliveries"]
        assert (outcome["state"], outcome["error"]) == (RETRYING, "timed out connecting")


# --- the end --------------------------------------------------------------------------------------------------------


def test_what_is_answered_during_a_shutdown_counts(tmp_path: Path, listener: Listener) -> None:
    listener.answer = slowly(0.2)
    with Pair(tmp_path) as pair:
        pair.register(listener.url(), EVENT)
        message = pair.trigger(EVENT, "late").json()["id"]
        listener.next()
        assert pair.dispatcher.close(SECONDS / 2) == 0
        (delivery,) = pair.dispatcher.history.newest(lambda d: True, 1, message)
        assert delivery.state == DELIVERED


def test_no_thread_and_no_descriptor_is_left_after_the_end(tmp_path: Path) -> None:
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    with Desk(tmp_path, URL) as desk:
        desk.settled(desk.trigger())
        assert {"sender", "housekeeper"} <= {thread.name for thread in set(threading.enumerate()) - threads}
    assert not set(threading.enumerate()) - threads
    assert len(set(os.listdir("/proc/self/fd")) - descriptors) <= 1  # the one of listdir


# --- isolation, measured --------------------------------------------------------------------------------------------


def webhook_id(sent: bytes) -> str:
    return sent.partition(b"webhook-id: ")[2].partition(b"\r\n")[0].decode()


def trigger(client: Client, data: Any) -> str:
    answer = client.ask(request("POST", "/trigger", json.dumps({"event": EVENT, "data": data}).encode()))
    assert answer.status == 202, answer
    return str(answer.json()["id"])


def _seconds(folder: Path, healthy: Listener, others: Listener, count: int) -> float:
    """How long 80 healthy URLs take to get all events beside `count` URLs of the others."""
    folder.mkdir()
    events = 14_000 // (80 + count)  # more than a second: what it costs to find out who hangs is paid once
    urls = [others.url(f"/{number}") for number in range(count)] + [healthy.url(f"/{number}") for number in range(80)]
    entries = [{"url": url, "event": EVENT} for url in urls]
    (folder / "webhooks.json").write_text(json.dumps(entries), "utf-8")
    with Program("exposee.py", "--port", "0", cwd=folder) as exposee, Client(exposee.port) as client:
        began = time.monotonic()
        for number in range(events):
            trigger(client, number)
        for _ in range(80 * events):
            healthy.next()
        seconds = time.monotonic() - began
        exposee.process.kill()  # it would wait for those that hang
        return seconds


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 200])
def test_receivers_that_hang_cost_the_others_nothing(tmp_path: Path, count: int) -> None:
    """80 healthy ones take no more than 1.25 times what they take beside as many that answer."""
    ratios = []
    for turn in range(3):
        with Listener() as healthy, Listener() as answering:
            usual = _seconds(tmp_path / f"{turn} usual", healthy, answering, count)
        with Listener() as healthy, Listener() as hanging:
            hanging.answer = hanging.hang
            beside = _seconds(tmp_path / f"{turn} beside", healthy, hanging, count)
        ratios.append(beside / usual)
        print(f"80 healthy URLs beside {count}: answering {usual:.2f} s, hanging {beside:.2f} s")
    assert min(ratios) < 1.25, ratios  # what else the machine does can make one run take longer, but not all


@pytest.mark.slow
def test_300_that_hang_cost_no_thread_and_100_mib(tmp_path: Path) -> None:
    with Listener() as hanging, Listener() as healthy:
        hanging.answer = hanging.hang
        urls = [hanging.url(f"/{number}") for number in range(300)] + [healthy.url()]
        entries = [{"url": url, "event": EVENT} for url in urls]
        (tmp_path / "webhooks.json").write_text(json.dumps(entries), "utf-8")
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee, Client(exposee.port) as client:
            for number in range(100):
                trigger(client, number)
            for _ in range(100):
                healthy.next()
            eventually(lambda: hanging.requests.qsize() >= 300)
            status = Path(f"/proc/{exposee.process.pid}/status").read_text("utf-8")
            values = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
            print(f"beside 300 that hang: {values['Threads']} threads, {int(values['VmRSS']) // 1024} MiB")
            assert int(values["Threads"]) <= 20
            assert int(values["VmRSS"]) < 100 * 1024
            exposee.process.kill()
