"""Idempotency-Key: a trigger that is sent again makes no second message, over threads, restarts and compactions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from disks import Disk
from support import EVENT, SECONDS, Desk, Listener, Pair, Response, eventually, exchange, held

import history
import keys
from keys import Reused
from messages import DELIVERED, body_of
from records import message_of

URL = "http://a.test/hook"
ONE, TWO = body_of(EVENT, b"1"), body_of(EVENT, b"2")
DAY = 86_400.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path, URL) as it:
        yield it


def same(first: Response, second: Response) -> bool:
    kept = ("location", "content-type")
    heads = [(it.status, [it.headers[name] for name in kept]) for it in (first, second)]
    return heads[0] == heads[1] and first.json() == second.json()


# --- on the wire ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("urls", [0, 1, 2])
def test_the_same_key_and_body_is_answered_as_the_first_was(urls: int, pair: Pair, listener: Listener) -> None:
    for number in range(urls):
        pair.register(listener.url(f"/{number}"), EVENT)
    first = pair.trigger(EVENT, 1, Idempotency_Key='"one key"')
    pair.register(listener.url("/later"), EVENT)
    assert first.status == 202 and same(first, pair.trigger(EVENT, 1, Idempotency_Key='"one key"'))
    assert pair.trigger(EVENT, 1, Idempotency_Key='"another"').json()["id"] != first.json()["id"]
    assert pair.trigger(EVENT, 1).json()["id"] != first.json()["id"]


def test_quotes_are_not_part_of_a_key(pair: Pair) -> None:
    assert same(pair.trigger(EVENT, 1, Idempotency_Key='"a-b"'), pair.trigger(EVENT, 1, Idempotency_Key="a-b"))


def test_another_body_with_the_same_key_is_422(pair: Pair) -> None:
    first = pair.trigger(EVENT, 1, Idempotency_Key="k")
    for event, data in ((EVENT, 2), ("invoice_completed", 1)):
        refused = pair.trigger(event, data, Idempotency_Key="k")
        assert refused.status == 422 and "Idempotency-Key was used with another" in refused.json()["detail"]
    assert same(first, pair.trigger(EVENT, 1, Idempotency_Key="k"))


@pytest.mark.parametrize(
    "key", ["", '"', '""', '"a', 'a"b', "a b", '"a\\"b"', '"a";x=1', "a, b", '"a", "b"', "\xfc", "k" * 256, f'"{"k" * 256}"']
)
def test_a_malformed_key_is_400_and_accepts_nothing(key: str, pair: Pair) -> None:
    refused = pair.trigger(EVENT, 1, Idempotency_Key=key)
    assert refused.status == 400 and "Idempotency-Key is malformed, expected" in refused.json()["detail"]


def test_a_repeated_trigger_may_wait_for_the_outcome(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), EVENT)
    first = pair.trigger(EVENT, 1, Idempotency_Key="k")
    listener.next()
    again = pair.trigger(EVENT, 1, Idempotency_Key="k", Prefer="wait=5")
    assert again.status == 200 and again.json()["id"] == first.json()["id"]
    assert [it["state"] for it in again.json()["deliveries"]] == [DELIVERED] and listener.requests.empty()


def test_a_message_that_is_forgotten_is_answered_as_it_was(
    pair: Pair, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_OVER", 1)
    pair.register(listener.url(), EVENT)
    first = pair.trigger(EVENT, 1, Idempotency_Key="k")
    for number in range(3):
        assert pair.trigger(EVENT, number, Prefer="wait=5").status == 200
    assert pair.call("GET", first.headers["location"]).json() == {"deliveries": []}
    assert same(first, pair.trigger(EVENT, 1, Idempotency_Key="k"))
    assert same(first, pair.trigger(EVENT, 1, Idempotency_Key="k", Prefer="wait=5")), "there is no outcome to tell"


# --- at the same time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [False, True])
def test_a_repeat_waits_for_what_comes_of_the_first(refused: bool, tmp_path: Path, disk: Disk) -> None:
    """It has the first one's answer, or its place if the disk refused that."""
    with Pair(tmp_path, fsync=disk) as pair, ThreadPoolExecutor(2) as pool, held(disk.gate):
        disk.hold()
        first = pool.submit(pair.trigger, EVENT, 1, Idempotency_Key="k")
        assert disk.asked.wait(SECONDS)
        second = pool.submit(pair.trigger, EVENT, 1, Idempotency_Key="k")
        assert wait([second], 0.05).not_done
        if refused:
            disk.fail()
        disk.gate.set()
        assert first.result(SECONDS).status == (503 if refused else 202)
        disk.mend()
        again = pair.trigger(EVENT, 1, Idempotency_Key="k")
        assert second.result(SECONDS).status in ((202, 503) if refused else (202,))
        assert refused or same(first.result(), second.result())
        assert second.result().status == 503 or same(second.result(), again)


def test_of_many_threads_with_one_key_one_makes_a_message(desk: Desk) -> None:
    threads, rounds = 16, 20
    barrier = threading.Barrier(threads)

    def trigger(key: str) -> str:
        barrier.wait(SECONDS)
        return desk.dispatcher.trigger(EVENT, ONE, key).id

    with ThreadPoolExecutor(threads) as pool:
        for number in range(rounds):
            ids = set(pool.map(trigger, [f"key {number}"] * threads))
            assert ids == {desk.dispatcher.trigger(EVENT, ONE, f"key {number}").id}
    assert len(desk.all()) == rounds


def test_a_trigger_that_the_disk_refused_leaves_its_key_free(tmp_path: Path, disk: Disk, listener: Listener) -> None:
    with Pair(tmp_path, fsync=disk) as pair:
        pair.register(listener.url(), EVENT)
        disk.fail()
        assert pair.trigger(EVENT, 1, Idempotency_Key="k").status == 503
        disk.mend()
        first = pair.trigger(EVENT, 2, Idempotency_Key="k")  # another body: the key was used for nothing
        assert same(first, pair.trigger(EVENT, 2, Idempotency_Key="k"))
        assert b'"data": 2' in listener.next() and listener.requests.empty()
    with Pair(tmp_path) as pair:
        assert same(first, pair.trigger(EVENT, 2, Idempotency_Key="k"))


# --- over restarts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("forgotten", [False, True])
def test_a_restart_knows_the_keys(
    desk: Desk, compacted: bool, forgotten: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = desk.dispatcher.trigger(EVENT, ONE, "k")
    desk.settled(desk.trigger())
    if forgotten:
        monkeypatch.setattr(history, "MAX_OVER", 0)
        desk.dispatcher.trigger(EVENT, TWO)
        eventually(lambda: not desk.all(), "the end of all deliveries")
    if compacted:
        monkeypatch.setattr("journal.COMPACT_BYTES", 0)
        inode = desk.journal.path.stat().st_ino
        desk.dispatcher.housekeeper.work()
        assert desk.journal.path.stat().st_ino != inode
    with Desk(desk.copy(tmp_path / "later"), time=desk.clock) as later:
        again = later.dispatcher.trigger(EVENT, ONE, "k")
        assert (again.id, again.event, again.count) == (first.id, EVENT, 1)
        assert bool(again.deliveries) is not forgotten
        with pytest.raises(Reused):
            later.dispatcher.trigger(EVENT, TWO, "k")


def test_key_and_message_are_one_record(desk: Desk) -> None:
    """So that no crash can part them: a torn record is dropped with its key."""
    message = desk.dispatcher.trigger(EVENT, ONE, 'k "\\')
    (record,) = [it for it in map(json.loads, desk.journal.path.read_text().splitlines()) if "key" in it]
    assert record["message"] == message.id and record["urls"] == [URL] and record["key"][:2] == ['k "\\', 1]


@pytest.mark.parametrize("key", [None, 7, [], ["k", 1], ["k", 1, "x", 8]])
def test_another_key_in_the_journal_stops_the_start(key: object) -> None:
    """delivery.py makes a line of that."""
    record: dict[str, Any] = {"message": "msg_1", "event": EVENT, "time": 1.5, "urls": [], "body": "", "key": key}
    with pytest.raises((TypeError, ValueError)):
        message_of(record)


# --- limits -----------------------------------------------------------------------------------------------------


def test_a_key_is_forgotten_after_a_day(desk: Desk) -> None:
    first = desk.dispatcher.trigger(EVENT, ONE, "k")
    desk.clock.now += DAY - 1
    assert desk.dispatcher.trigger(EVENT, ONE, "k").id == first.id
    desk.clock.now += 1
    second = desk.dispatcher.trigger(EVENT, TWO, "k")
    assert second.id != first.id
    desk.restart()
    assert desk.dispatcher.trigger(EVENT, TWO, "k").id == second.id


def test_only_so_many_keys_are_known_and_the_oldest_go(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    ids = [desk.dispatcher.trigger(EVENT, ONE, f"k{number}").id for number in range(3)]
    for _ in range(2):
        assert [desk.dispatcher.trigger(EVENT, ONE, f"k{number}").id for number in (1, 2)] == ids[1:]
        desk.restart()
    assert desk.dispatcher.trigger(EVENT, ONE, "k0").id not in ids


def test_a_key_that_is_used_again_after_a_day_is_the_newer_messages_after_a_compaction_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the older one is still remembered, and so stands behind it in the journal."""
    with Desk(tmp_path, URL, answer=exchange(503)) as desk:
        old = desk.dispatcher.trigger(EVENT, ONE, "k")
        desk.settled(next(filter(None, old.deliveries)))
        desk.unregister(URL, EVENT)
        desk.clock.now += DAY
        new = desk.dispatcher.trigger(EVENT, TWO, "k")  # for nobody, so it is forgotten at once
        monkeypatch.setattr("journal.COMPACT_BYTES", 0)
        desk.dispatcher.housekeeper.work()
        desk.restart()
        assert desk.dispatcher.trigger(EVENT, TWO, "k").id == new.id
