"""Many threads at once: an interpreter lock lets them take turns, and on a free-threaded Python they do not wait."""

from __future__ import annotations

import io
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from support import EVENT, OTHER, SECONDS, Listener, Pair, eventually, fields

import receiver
import server
from history import delivery_json
from messages import CANCELLED, DELIVERED, FAILED, NotPossible
from ondemand import OnDemand
from terminal import Printer
from wire import Request

THREADS = 8
WORK = 0.5  # seconds that the threads work against each other


@pytest.fixture(autouse=True)
def turns() -> Iterator[None]:
    """Threads that share an interpreter lock take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*tasks: Callable[[random.Random], object], seconds: float = WORK) -> None:
    """Each task again and again, in THREADS threads, for so long. An exception fails the test."""
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            tasks[number % len(tasks)](chance)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


@pytest.mark.parametrize("workers", [1, 4])
def test_whatever_threads_do_at_once_nothing_is_lost_and_nothing_counted_wrong(tmp_path: Path, workers: int) -> None:
    with Listener() as listener, Pair(tmp_path, workers=workers, schedule=(), fsync=os.fsync) as pair:
        dispatcher, store, on_demand = pair.dispatcher, pair.store, OnDemand(pair.dispatcher)
        kept, others = listener.url("/kept"), [listener.url(f"/{number}") for number in range(4)]
        pair.register(kept, EVENT)
        accepted: list[str] = []

        def trigger(chance: random.Random) -> None:
            accepted.append(dispatcher.trigger(EVENT, b'{"event": "payment_received", "data": 1}').id)

        def register(chance: random.Random) -> None:
            url, event = chance.choice(others), chance.choice([EVENT, OTHER])
            dispatcher.registered(url)
            store.register(url, [event], None, lambda _: None)
            dispatcher.registered(url)
            if store.unregister(url, event, lambda _: None):
                dispatcher.cancel(url, event)

        def look(chance: random.Random) -> None:
            for delivery in dispatcher.history.newest(lambda _: True, 50):
                assert delivery_json(delivery, attempts=True)["message"]
            assert all(count >= 0 for count in dispatcher.counts().values())
            dispatcher.history.changes(max(0, dispatcher.history.version - 5), 10, 0.0)

        def again(chance: random.Random) -> None:
            if found := dispatcher.history.newest(lambda _: True, 50):
                with suppress(NotPossible):
                    on_demand.redeliver(chance.choice(found))
            on_demand.ping()

        together(trigger, register, look, again)
        eventually(lambda: dispatcher.counts() == {"waiting": 0, "under_way": 0}, "the end of all deliveries")
        found = dispatcher.history.newest(lambda _: True, 1_000_000)
        assert {delivery.state for delivery in found} <= {DELIVERED, CANCELLED, FAILED}
        assert {d.message.id for d in found if d.url == kept and d.state == DELIVERED} >= set(accepted[-100:])
        arrived = {fields(listener.requests.get())["webhook-id"] for _ in range(listener.requests.qsize())}
        assert arrived >= set(accepted) and accepted
        assert not [line for line in pair.log if "our side" in line]


def test_a_receiver_remembers_the_newest_ids_whatever_threads_do_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that could not be sent are forgotten while others are remembered."""
    monkeypatch.setattr(receiver, "SEEN", 3)
    it = receiver.Receiver(say=lambda *lines: None)

    def receive(chance: random.Random) -> None:
        headers = {"webhook-id": f"msg_{chance.randrange(20)}", "content-type": "application/json"}
        request = Request("POST", receiver.PATH, receiver.PATH, {}, headers, "localhost", "127.0.0.1", b'{"event": "e"}')
        handler = it.routes[receiver.PATH]["POST"]
        answer = handler(request) if handler else None
        assert answer and answer.after
        answer.after(chance.random() < 0.5)

    together(receive)


def test_every_line_that_is_left_out_is_counted_whatever_threads_do_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terminal.QUEUED", 5)
    monkeypatch.setattr("terminal.PAUSE", 0.0)
    stream, count = io.StringIO(), 2_000
    printer = Printer(stream)

    def say(number: int) -> None:
        for _ in range(count):
            printer.say("a line")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(say, range(THREADS)))
    printer.close()
    lines = stream.getvalue().splitlines()
    left_out = sum(int(line.split()[1].replace(",", "")) for line in lines if line.startswith("..."))
    assert lines.count("a line") + left_out == THREADS * count


@pytest.mark.skipif(server.HAS_LOCK, reason="needs a free-threaded Python")
def test_without_an_interpreter_lock_threads_stay_on_all_cores() -> None:
    cores = os.sched_getaffinity(0)
    thread = threading.Thread(target=server.stay_on_one_core)  # of a thread: the tests' own keeps its cores
    thread.start()
    thread.join(SECONDS)
    assert os.sched_getaffinity(0) == cores
