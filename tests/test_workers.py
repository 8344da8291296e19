"""Who sends: lanes and threads. Above all: no receiver slows another, whatever it does."""

from __future__ import annotations

import json
import queue
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import NO_CONTENT, SECONDS, Client, Listener, Pair, Program, eventually, held, request
from test_delivery import EVENT, URL, Blocking, Desk, exchange

import workers
from messages import DELIVERED, DELIVERING, PENDING, RETRYING, Delivery, Message
from transport import Exchange, Transport
from workers import FAILING, NEW, QUICK, STEADY, WINDOW, Lane

# --- lanes ----------------------------------------------------------------------------------------------------------


def lane_with(waiting: int) -> Lane:
    lane = Lane(URL)
    message = Message("msg_0", EVENT, 0.0, b"{}")
    lane.waiting.extend(Delivery(message, index, URL) for index in range(waiting))
    return lane


def test_a_window_opens_with_success_and_closes_with_a_failure() -> None:
    lane = lane_with(100)
    assert lane.window == 1
    for window in (2, 4, 8, WINDOW, WINDOW):
        lane.take()
        lane.learn(success=True, quick=True)
        assert lane.window == window
    for _ in range(WINDOW):
        assert lane.ready()
        lane.take()
    assert not lane.ready(), "the window is full"
    lane.learn(success=False, quick=True)
    assert lane.window == 1 and not lane.ready()


def test_what_is_urgent_goes_first_and_past_the_window() -> None:
    lane = lane_with(2)
    lane.take()
    assert not lane.ready()
    ping = Delivery(Message("msg_1", "ping", 0.0, b"{}"), 0, URL)
    lane.urgent.append(ping)
    assert lane.ready() and lane.take() is ping and not lane.ready()


@pytest.mark.parametrize(
    "success, quick, pace", [(True, True, QUICK), (False, True, QUICK), (True, False, STEADY), (False, False, FAILING)]
)
def test_the_pace_is_that_of_the_last_attempt(success: bool, quick: bool, pace: str) -> None:
    lane = lane_with(1)
    assert lane.pace == NEW
    lane.take()
    lane.learn(success, quick)
    assert lane.pace == pace


def test_a_lane_has_no_more_attempts_under_way_than_its_window(tmp_path: Path) -> None:
    """Window 1 at first, so that a receiver that has just started is not met with a flood."""
    blocking = Blocking()
    with Desk(tmp_path, URL) as desk, held(blocking.gate):
        desk.answer = blocking
        deliveries = [desk.trigger() for _ in range(100)]
        eventually(lambda: deliveries[0].state == DELIVERING)
        assert desk.office.counts()["under_way"] == 1
        desk.answer = second = Blocking()
        with held(second.gate):
            blocking.gate.set()
            eventually(lambda: desk.office.counts()["under_way"] == 2)
            assert [d.state for d in deliveries[:4]] == [DELIVERED, DELIVERING, DELIVERING, PENDING]
        desk.settled(deliveries[-1], 1)


# --- threads --------------------------------------------------------------------------------------------------------


def test_one_that_hangs_does_not_hold_up_the_others_of_its_pace(tmp_path: Path) -> None:
    """Their places are freed: there are far fewer of them than receivers that hang here."""
    hanging = [f"http://hang-{number}.test/" for number in range(40)]
    blocking = Blocking()
    with Desk(tmp_path, *hanging, URL) as desk:
        with held(blocking.gate):
            desk.answer = lambda url: blocking(url) if url != URL else exchange()
            message = desk.office.trigger(EVENT, 1)
            healthy = message.deliveries[-1]
            assert healthy is not None and healthy.url == URL
            assert desk.settled(healthy, 1).state == DELIVERED
            eventually(lambda: desk.office.counts()["under_way"] == 40)
        eventually(lambda: desk.office.counts()["waiting"] == 0)


def test_a_new_receiver_is_served_beside_300_that_hang(tmp_path: Path) -> None:
    """As many as that have to fit, with room left to try one of which nothing is known."""
    hanging = [f"http://hang-{number}.test/" for number in range(300)]
    blocking = Blocking(exchange(0, error="timed out"))
    with Desk(tmp_path, *hanging) as desk, held(blocking.gate):
        desk.answer = lambda url: blocking(url) if url != URL else exchange()
        desk.office.trigger(EVENT, 1)
        eventually(lambda: desk.office.counts()["under_way"] == 300)
        desk.register(URL, "invoice_completed")
        began = time.monotonic()
        delivery = desk.trigger("invoice_completed")
        try:
            eventually(lambda: delivery.state == DELIVERED or time.monotonic() - began > 2)
            assert delivery.state == DELIVERED
        finally:
            blocking.gate.set()


def test_an_error_of_ours_is_one_failed_attempt_and_the_worker_goes_on(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, calls = Transport.send, iter([True])

    def raise_once(self: Transport, url: str, request: bytes, seconds: float) -> Exchange:
        if next(calls, False):
            raise RuntimeError("a bug")
        return send(self, url, request, seconds)

    monkeypatch.setattr(Transport, "send", raise_once)
    with Pair(tmp_path, workers=1, schedule=(0.05,)) as pair:
        pair.register(listener.url(), EVENT)
        first = pair.trigger(EVENT, 1, Prefer="wait=5").json()["deliveries"][0]
        assert first["state"] in (RETRYING, PENDING, DELIVERING, DELIVERED)
        found = pair.office.find(first["id"])
        assert found is not None
        eventually(lambda: found.state == DELIVERED)
        assert "a bug" in str(found.attempts[0].error)
        assert pair.trigger(EVENT, 2, Prefer="wait=5").json()["deliveries"][0]["state"] == DELIVERED
        eventually(lambda: pair.office.counts() == {"waiting": 0, "under_way": 0})


def test_a_secret_that_cannot_sign_costs_no_other_url_anything(tmp_path: Path, listener: Listener) -> None:
    """People edit the file of secrets by hand: what is sent in the same batch is sent once, and counts as sent."""
    bad, good = listener.url("/bad"), [listener.url(f"/good/{number}") for number in range(6)]
    with Pair(tmp_path, schedule=(3_600,)) as pair:
        pair.register(bad, EVENT, secret="whsec_" + "A" * 32)
        for url in good:
            pair.register(url, EVENT)
        pair.trigger(EVENT, 0, Prefer="wait=5")
    (tmp_path / "webhooks.secrets.json").write_text(json.dumps({bad: "whsec_A"}), "utf-8")
    with Pair(tmp_path, schedule=(3_600,)) as pair:
        for number in range(1, 6):
            outcome = pair.trigger(EVENT, number, Prefer="wait=5").json()["deliveries"]
            assert [d["state"] for d in outcome if d["url"] != bad] == [DELIVERED] * 6
    received = [listener.requests.get_nowait() for _ in range(listener.requests.qsize())]
    assert sum(b"POST /good/" in sent for sent in received) == 36, "sent again, or not at all"


def test_an_error_of_ours_does_not_end_what_was_left_to_others(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request of a batch is answered late, and another one's worker raises: the late one is settled once."""
    closing = b"HTTP/1.1 204 -\r\nConnection: close\r\n\r\n"
    with Pair(tmp_path, workers=1, schedule=(3_600,)) as pair, Listener(closing) as closes:
        for url in (listener.url(), closes.url()):
            pair.register(url, EVENT)
        pair.trigger(EVENT, "they are known to be quick now", Prefer="wait=5")
        answered = threading.Event()

        def late(connection: socket.socket) -> None:
            assert answered.wait(SECONDS)
            connection.sendall(NO_CONTENT)

        def fail(*_: object) -> Exchange:
            raise RuntimeError("a bug")

        listener.answer = late
        with held(answered):
            monkeypatch.setattr(Transport, "send", fail)
            closes.close()  # so that there is no connection to post over
            message = pair.trigger(EVENT, 2).json()["id"]
            find = {d.url: d for d in pair.office.deliveries(lambda d: d.message.id == message, 2)}
            eventually(lambda: find[closes.url()].state == RETRYING)
            assert find[listener.url()].state == DELIVERING
        eventually(lambda: find[listener.url()].state == DELIVERED)
        assert len(find[listener.url()].attempts) == 1
        assert pair.office.counts() == {"waiting": 1, "under_way": 0}


def test_slow_receivers_that_answer_work_in_parallel(tmp_path: Path, listener: Listener) -> None:
    """60 URLs that take 0.1 s each would take 6 s one after the other."""

    def slowly(connection: socket.socket) -> None:
        threading.Event().wait(0.1)
        connection.sendall(NO_CONTENT)

    listener.answer = slowly
    with Pair(tmp_path) as pair:
        for number in range(60):
            pair.register(listener.url(f"/{number}"), EVENT)
        pair.trigger(EVENT, "they are known to be slow now", Prefer="wait=10")
        began = time.monotonic()
        outcome = pair.trigger(EVENT, 2, Prefer="wait=10").json()
        assert time.monotonic() - began < 1.5
        assert "60 of 60" in outcome["message"]


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


def test_a_stream_to_one_url_is_delivered_in_parallel_and_once_each(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), EVENT)
    with pair.client() as client:
        ids = [_trigger(client, number) for number in range(300)]
    received = [_id(listener.next()) for _ in ids]
    assert sorted(received) == sorted(ids)
    assert 1 <= listener.connections <= WINDOW + workers.QUICK_PLACES
    eventually(lambda: pair.office.counts()["waiting"] == 0)
    assert listener.requests.empty()


def test_a_burst_for_a_quick_receiver_gets_connections_of_its_own(pair: Pair, listener: Listener) -> None:
    """160 deliveries to a receiver that takes 10 ms for each would take 1.6 s over one connection."""

    def quickly(connection: socket.socket) -> None:
        threading.Event().wait(0.01)
        connection.sendall(NO_CONTENT)

    pair.register(listener.url(), EVENT)
    for number in range(5):
        pair.trigger(EVENT, f"it is known to be well now, {number}", Prefer="wait=5")
    assert listener.connections == 1
    listener.answer = quickly
    began = time.monotonic()
    with pair.client() as client:
        for number in range(160):
            _trigger(client, number)
    for _ in range(165):
        listener.next()
    assert time.monotonic() - began < 1.0
    assert 2 <= listener.connections <= WINDOW + workers.QUICK_PLACES


def test_receivers_that_were_quick_and_hang_take_a_thread_each_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quick receiver has 16 attempts in its window: they do not all wait for it."""
    monkeypatch.setattr(workers, "PATIENCE", 0.1)  # quick on a busy machine, too

    def count() -> int:
        return sum(thread.name.startswith("worker ") for thread in threading.enumerate())

    with Pair(tmp_path, schedule=(3_600,)) as pair, Listener() as ill:
        for number in range(10):
            pair.register(ill.url(f"/{number}"), EVENT)
        for number in range(6):
            pair.trigger(EVENT, number, Prefer="wait=5")
        ill.answer = ill.hang
        with pair.client() as client:
            for number in range(WINDOW):
                _trigger(client, number)
        most, end = 0, time.monotonic() + 2.0
        while time.monotonic() < end:
            most = max(most, count())
            time.sleep(0.01)
        assert 10 <= most < 80, "of 160 that could have been under way"
        assert pair.office.counts()["under_way"] >= 10


def test_what_is_late_at_a_shutdown_is_read(tmp_path: Path, listener: Listener) -> None:
    def late(connection: socket.socket) -> None:
        threading.Event().wait(0.2)
        connection.sendall(NO_CONTENT)

    with Pair(tmp_path) as pair:
        pair.register(listener.url(), EVENT)
        for number in range(6):
            pair.trigger(EVENT, number, Prefer="wait=5")
            listener.next()
        threading.Event().wait(0.05)  # the workers are idle
        listener.answer = late
        message = pair.trigger(EVENT, "late").json()["id"]
        listener.next()
        assert pair.office.close(SECONDS / 2) == 0
        (delivery,) = pair.office.deliveries(lambda d: d.message.id == message, 1)
        assert delivery.state == DELIVERED


def test_a_thread_that_the_system_refuses_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refusals = threading.Thread.start, iter([True, True])

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("worker ") and next(refusals, False):
            raise RuntimeError("can't start new thread")
        start(thread)

    with Desk(tmp_path, URL) as desk:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert desk.settled(desk.trigger(), 1).state == DELIVERED
        assert desk.office.counts() == {"waiting": 0, "under_way": 0}


def test_a_new_connection_that_is_reset_is_a_failed_attempt_and_not_sent_again(pair: Pair, listener: Listener) -> None:
    """Only one that was kept open may have died while it was idle."""
    listener.answer = b"HTTP/1.1 204 -\r\nConnection: close\r\n\r\n"
    pair.register(listener.url(), EVENT)
    for number in range(3):
        pair.trigger(EVENT, number, Prefer="wait=5")
    listener.answer = lambda connection: connection.shutdown(socket.SHUT_RDWR)
    (outcome,) = pair.trigger(EVENT, 3, Prefer="wait=5").json()["deliveries"]
    assert (outcome["state"], outcome["attempt_count"]) == (RETRYING, 1), outcome
    assert listener.requests.qsize() == 4


def test_idle_workers_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SPARE_SECONDS", 0.05)

    def count() -> int:
        return sum(thread.name.startswith("worker ") for thread in threading.enumerate())

    eventually(lambda: count() == 0)  # those of other tests
    with Desk(tmp_path, *(f"http://{number}.test/" for number in range(30))) as desk:
        desk.office.trigger(EVENT, 1)
        eventually(lambda: desk.office.counts()["waiting"] == 0)
        eventually(lambda: count() == 0)
        assert desk.settled(desk.trigger(), 1).state == DELIVERED


def test_close_waits_for_attempts_under_way_and_counts_what_waits(tmp_path: Path) -> None:
    desk, blocking = Desk(tmp_path, URL), Blocking()
    desk.answer = blocking
    counted: queue.Queue[int] = queue.Queue()
    with held(blocking.gate):
        deliveries = [desk.trigger() for _ in range(4)]
        eventually(lambda: deliveries[0].state == DELIVERING)
        closing = threading.Thread(target=lambda: counted.put(desk.office.close(SECONDS)))
        closing.start()
        with pytest.raises(queue.Empty):
            counted.get(timeout=0.05)
    assert counted.get(timeout=SECONDS) == 3
    closing.join(SECONDS)
    assert deliveries[0].state == DELIVERED and desk.sent.qsize() == 1
    desk.store.close()


def test_close_gives_up_after_its_time(tmp_path: Path) -> None:
    desk, blocking = Desk(tmp_path, URL), Blocking()
    desk.answer = blocking
    with held(blocking.gate):
        delivery = desk.trigger()
        eventually(lambda: delivery.state == DELIVERING)
        began = time.monotonic()
        assert desk.office.close(0.05) == 1
        assert time.monotonic() - began < 1
    desk.store.close()


# --- isolation, measured ----------------------------------------------------------------------------------------------


def _id(sent: bytes) -> str:
    return sent.partition(b"webhook-id: ")[2].partition(b"\r\n")[0].decode()


def _trigger(client: Client, data: Any) -> str:
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
            _trigger(client, number)
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
    assert statistics.median(ratios) < 1.25, ratios


@pytest.mark.slow
def test_300_that_hang_cost_under_400_threads_and_150_mib(tmp_path: Path) -> None:
    with Listener() as hanging, Listener() as healthy:
        hanging.answer = hanging.hang
        urls = [hanging.url(f"/{number}") for number in range(300)] + [healthy.url()]
        entries = [{"url": url, "event": EVENT} for url in urls]
        (tmp_path / "webhooks.json").write_text(json.dumps(entries), "utf-8")
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee, Client(exposee.port) as client:
            for number in range(100):
                _trigger(client, number)
            for _ in range(100):
                healthy.next()
            eventually(lambda: hanging.requests.qsize() >= 250)
            status = Path(f"/proc/{exposee.process.pid}/status").read_text("utf-8")
            values = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
            print(f"beside 300 that hang: {values['Threads']} threads, {int(values['VmRSS']) // 1024} MiB")
            assert int(values["Threads"]) < 400
            assert int(values["VmRSS"]) < 150 * 1024
            exposee.process.kill()
