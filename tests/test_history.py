"""What is remembered of messages, within limits, and how the journal brings it back."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from disks import Disk
from support import EVENT, OTHER, SECONDS, Blocking, Desk, Listener, Pair, Response, a_delivery
from support import eventually, exchange, held, without_bytes

import history
from client import KEPT_RESPONSE, Exchange
from history import History, Reused, attempt_json, delivery_json, iso
from journal import delivery_record as record_of
from journal import compacted, message_of
from messages import CANCELLED, DELIVERED, FAILED, PENDING, PING, RETRYING, Attempt, Delivery, Message, body_of

URL, SECOND = "http://a.test/hook", "http://b.test/hook"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A dispatcher with one URL."""
    with Desk(tmp_path, URL) as it:
        yield it


def empty() -> History:
    return History(threading.Condition())


def message(number: int, event: str = EVENT) -> Message:
    return Message(f"msg_{number:024}", event, 1_700_000_000.5 + number, b'{"event": "e", "data": 1}')


def shown(it: History) -> list[dict[str, Any]]:
    """All that is remembered, newest first, as the API shows it."""
    return [delivery_json(d, attempts=True) for d in it.newest(lambda d: True, 1_000_000, "")]


def replayed(it: History) -> History:
    """What a start makes of a compacted journal."""
    again = empty()
    for record in compacted(*it.snapshot()):
        again.replay(json.loads(record))
    again.trim()
    return again


# --- limits ---------------------------------------------------------------------------------------------------------


def test_what_is_over_is_bounded_and_the_oldest_is_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_OVER", 3)
    deliveries = [desk.settled(desk.trigger(data=n)) for n in range(3)]
    deliveries += [desk.settled(desk.trigger(data=n)) for n in range(2)]
    kept = [d.id for d in reversed(deliveries[-3:])]
    assert [d.id for d in desk.all()] == kept
    assert desk.dispatcher.history.find(deliveries[0].id) is None
    desk.restart()
    assert [d.id for d in desk.all()] == kept


def test_what_waits_is_not_forgotten_however_much_is_over(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_OVER", 2)
    desk.register(SECOND, OTHER)
    desk.answer = lambda url: exchange(503) if url == URL else exchange()
    retrying = desk.settled(desk.trigger())
    for number in range(5):
        desk.trigger(OTHER, number)
    eventually(lambda: desk.dispatcher.counts() == {"waiting": 1, "under_way": 0})
    assert desk.dispatcher.history.find(retrying.id) is retrying and len(desk.all()) == 3
    desk.restart()
    assert desk.find(retrying).state == RETRYING and len(desk.all()) == 3


def test_bodies_of_the_past_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_PAST", 3_000)
    deliveries = []
    for _ in range(5):
        deliveries.append(desk.trigger(data="x" * 1_000))
        eventually(lambda: deliveries[-1].state == DELIVERED)
    assert [d.id for d in desk.all()] == [d.id for d in reversed(deliveries[-2:])]
    assert deliveries[0].message.body == b"", "a subscriber that is behind keeps it"


@pytest.mark.parametrize("limit, value", [("MAX_RAW", 3_000), ("RAW_ATTEMPTS", 2)])
def test_bytes_of_old_attempts_go_and_the_attempts_say_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(history, limit, value)
    deliveries = [desk.settled(desk.trigger(data="x" * 1_000)) for _ in range(5)]
    attempts = [delivery_json(d, attempts=True)["attempts"][0] for d in deliveries]
    assert ["gone" in attempt for attempt in attempts] == [True, True, True, False, False]
    assert attempts[0]["request"] is None and "x" * 1_000 in attempts[4]["request"]
    assert attempts[0]["status"] == 204


def test_20_attempts_of_a_delivery_are_remembered_and_all_are_counted(desk: Desk) -> None:
    desk.answer = lambda url: exchange(200 + desk.sent.qsize())
    delivery = desk.settled(desk.trigger())
    for number in range(2, 26):
        desk.on_demand.redeliver(delivery)
        desk.settled(delivery, number)
    for _ in range(2):
        value = delivery_json(desk.find(delivery), attempts=True)
        assert value["attempt_count"] == 25
        assert [attempt["status"] for attempt in value["attempts"]] == [200 + n for n in range(6, 26)]
        desk.restart()


# --- changes --------------------------------------------------------------------------------------------------------


def test_each_delivery_that_changed_is_told_once_in_order(desk: Desk) -> None:
    version = desk.dispatcher.history.version
    deliveries = [desk.settled(desk.trigger()) for _ in range(3)]
    changes = desk.dispatcher.history.changes(version, 1_000, 0.0)
    assert changes and changes[1] == deliveries
    assert desk.dispatcher.history.changes(changes[0], 1_000, 0.0) == (changes[0], [])
    desk.on_demand.redeliver(deliveries[1])
    again = desk.dispatcher.history.changes(changes[0], 1_000, SECONDS)
    assert again and again[1] == [deliveries[1]]


def test_a_burst_is_told_in_batches(desk: Desk) -> None:
    """To write thousands of deliveries down at once would hold up the sending of them."""
    version = desk.dispatcher.history.version
    deliveries = [desk.settled(desk.trigger(data=number)) for number in range(7)]
    found: list[Delivery] = []
    while changes := desk.dispatcher.history.changes(version, 3, 0.0):
        version, batch = changes
        assert len(batch) <= 3
        found += batch
        if not batch:
            break
    assert list(dict.fromkeys(found)) == deliveries


def test_whoever_waits_for_changes_is_woken_by_one(desk: Desk) -> None:
    version, found = desk.dispatcher.history.version, []
    waiting = threading.Thread(target=lambda: found.append(desk.dispatcher.history.changes(version, 10, SECONDS)))
    waiting.start()
    delivery, began = desk.trigger(), time.monotonic()
    waiting.join(SECONDS)
    assert time.monotonic() - began < SECONDS / 2
    assert found[0] and found[0][1] == [delivery]


def test_a_subscriber_that_is_too_slow_is_dropped_and_costs_nobody_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHANGES", 9)
    with Desk(tmp_path, URL) as desk:
        slow = quick = desk.dispatcher.history.version
        for _ in range(5):
            desk.settled(desk.trigger())
            changes = desk.dispatcher.history.changes(quick, 1_000, 0.0)
            assert changes and len(changes[1]) == 1
            quick = changes[0]
        assert desk.dispatcher.history.changes(slow, 1_000, 0.0) is None
        assert desk.dispatcher.history.changes(desk.dispatcher.history.version - 9, 1_000, 0.0)


def test_a_shutdown_ends_the_waiting_for_changes(desk: Desk) -> None:
    found: list[Any] = []
    version = desk.dispatcher.history.version
    waiting = threading.Thread(target=lambda: found.append(desk.dispatcher.history.changes(version, 10, SECONDS)))
    waiting.start()
    desk.restart()
    waiting.join(SECONDS / 2)
    assert found == [None]


def test_a_shutdown_ends_the_waiting_for_attempts_which_are_not_over(desk: Desk) -> None:
    ended: list[bool] = []
    with desk.blocked():
        delivery = desk.under_way(desk.trigger())
        waiting = threading.Thread(target=lambda: ended.append(desk.dispatcher.history.wait([delivery], SECONDS)))
        waiting.start()
        desk.stop(0.0)
        waiting.join(SECONDS / 2)
    assert ended == [False]


# --- finding --------------------------------------------------------------------------------------------------------


def test_the_newest_that_match_are_found_newest_first() -> None:
    it = empty()
    messages = [message(number) for number in range(4)]
    for one in messages:
        it.add(one, [URL, SECOND])
    assert [d.id for d in it.newest(lambda d: d.url == URL, 3, "")] == [f"dlv_{n:024}_0" for n in (3, 2, 1)]
    assert [d.index for d in it.newest(lambda d: True, 10, messages[1].id)] == [1, 0]
    assert it.newest(lambda d: True, 10, "msg_unknown") == []


# --- the journal's records ------------------------------------------------------------------------------------------


def test_a_compacted_journal_brings_everything_back() -> None:
    it = empty()
    for number in range(6):
        it.add(message(number, PING if number == 5 else EVENT), [URL, SECOND])
    deliveries = it.newest(lambda d: True, 100, "")
    for delivery, state in zip(deliveries, (DELIVERED, FAILED, CANCELLED)):
        delivery.add(Attempt(1_700_000_100.25, 0.5, 503, "cut"))
        delivery.confirmed = delivery.message.event == PING
        delivery.error = "unregistered" if state == CANCELLED else None
        it.finish(delivery, state)
    deliveries[3].state, deliveries[3].due, deliveries[3].tries = RETRYING, 1_700_000_200.5, 1
    deliveries[4].manual = True
    again = replayed(it)
    assert shown(again) == shown(it)
    assert (again.waiting, again.bodies) == (it.waiting, it.bodies) == (9, 5 * 25)
    found = again.find(deliveries[4].id)
    assert found and found.manual and found.state == PENDING
    assert again.pings.get(URL) and again.pings.get(SECOND)
    assert b"".join(compacted(*again.snapshot())) == b"".join(compacted(*it.snapshot()))


def test_a_compacted_journal_forgets_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended last is remembered longest, though its message is the oldest."""
    it = empty()
    old, new = message(0), message(1)
    for one in (old, new):
        it.add(one, [URL])
    for delivery in (*new.deliveries, *old.deliveries):
        assert delivery
        it.finish(delivery, DELIVERED)
    monkeypatch.setattr(history, "MAX_OVER", 1)
    again = replayed(it)
    assert [again.find(f"dlv_{number:024}_0") is not None for number in range(2)] == [True, False]


def test_deliveries_of_a_message_keep_their_ids_when_others_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_OVER", 1)
    it, one = empty(), message(0)
    it.add(one, [URL, SECOND, URL + "/3"])
    for delivery in list(filter(None, one.deliveries))[:2]:
        it.finish(delivery, DELIVERED)
    for again in (it, replayed(it), replayed(replayed(it))):
        assert [d.id for d in again.newest(lambda d: True, 9, "")] == [f"dlv_{0:024}_2", f"dlv_{0:024}_1"]
        assert (again.waiting, again.bodies) == (1, 25)


def test_the_last_record_of_a_delivery_counts_whatever_came_before() -> None:
    it, one = empty(), message(0)
    it.add(one, [URL])
    (delivery,) = filter(None, one.deliveries)
    lines = list(compacted(*it.snapshot()))
    states = []
    for state in (RETRYING, DELIVERED, PENDING, FAILED, RETRYING, CANCELLED, DELIVERED):
        delivery.state, delivery.due = state, 5.0 if state == RETRYING else 0.0
        lines.append(record_of(delivery))
        states.append(state)
        again = empty()
        for line in [*lines, lines[0], lines[-1]]:
            again.replay(json.loads(line))
        found = again.find(delivery.id)
        assert found and found.state == state and found.due == delivery.due
        assert again.waiting == (state in (RETRYING, PENDING)) and again.bodies == 25 * again.waiting


def test_a_record_of_a_delivery_that_is_forgotten_is_passed_over() -> None:
    it = empty()
    it.replay({"delivery": "dlv_0_0", "state": DELIVERED})
    assert shown(it) == []


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"message": "msg_1"},
        {"message": "msg_1", "event": EVENT, "time": "now", "urls": [URL], "body": "{}"},
        {"message": "msg_1", "event": EVENT, "time": 1, "urls": None, "body": "{}"},
        {"message": "msg_1", "event": EVENT, "time": 1, "urls": [URL], "body": {}},
        {"message": "msg_1", "event": EVENT, "time": 1, "urls": [7], "body": "{}"},
        {"message": "msg_1", "event": 7, "time": 1, "urls": [URL], "body": "{}"},
        {"message": 7, "event": EVENT, "time": 1, "urls": [URL], "body": "{}"},
        {"message": ["msg_1"], "event": EVENT, "time": 1, "urls": [URL], "body": "{}"},
        {"delivery": 7},
        {"delivery": "dlv_000000000000000000000000_0"},
        {"delivery": "dlv_000000000000000000000000_0", "state": "lost", "due": 0, "tries": 0, "count": 0},
        {"delivery": "dlv_000000000000000000000000_0", "state": FAILED, "due": 0, "tries": 0, "count": 0,
         "attempts": [[1]]},
        {"delivery": "dlv_000000000000000000000000_0", "state": FAILED, "due": "x", "tries": 0, "count": 0,
         "attempts": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_that_is_not_ours_is_refused(record: dict[str, Any]) -> None:
    """delivery.py makes a line of that which stops the start; test_crash.py reads it."""
    it = empty()
    it.add(message(0), [URL])
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        it.replay(record)


def test_notes_that_are_older_than_the_compacted_journal_change_nothing(desk: Desk) -> None:
    """A note that was made while the journal was compacted stands behind what it led to; each is the whole state."""
    desk.answer = exchange(503)
    delivery = desk.settled(desk.trigger())
    older = record_of(delivery)
    desk.answer = exchange()
    desk.pass_time(10)
    newer = record_of(desk.settled(delivery, 2))
    desk.journal.note("older", older)
    desk.journal.note("newer", newer)
    desk.restart()
    assert (desk.find(delivery).state, desk.find(delivery).count) == (DELIVERED, 2)
    assert desk.dispatcher.counts() == {"waiting": 0, "under_way": 0}


def test_a_compaction_meets_an_attempt_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocking = Blocking()
    with Desk(tmp_path, URL) as desk, held(blocking):
        desk.answer = blocking
        delivery = desk.under_way(desk.trigger())
        monkeypatch.setattr("journal.COMPACT_BYTES", 0)
        desk.dispatcher.housekeeper.work()
        monkeypatch.undo()
        blocking.set()
        desk.settled(delivery)
        desk.restart()
        assert (desk.find(delivery).state, desk.find(delivery).count) == (DELIVERED, 1)


def test_compaction_under_load_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.COMPACT_BYTES", 5_000)
    monkeypatch.setattr("housekeeper.FLUSH_SECONDS", 0.01)
    answers = random.Random(1)
    urls = [f"http://{number}.test/" for number in range(4)]
    options: dict[str, Any] = {"clock": time.time, "monotonic": time.monotonic, "schedule": (0.01,) * 30}
    with Desk(tmp_path, *urls, **options) as desk:
        desk.answer = lambda url: exchange(answers.choice((204, 204, 503)))
        inodes, accepted = set[int](), list[Message]()

        def trigger() -> None:
            for number in range(5_000):
                accepted.append(desk.accept(EVENT, number))
                inodes.add(os.stat(desk.journal.path).st_ino)
                if number >= 49 and len(inodes) > 1:
                    break

        threads = [threading.Thread(target=trigger) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        eventually(lambda: desk.dispatcher.counts() == {"waiting": 0, "under_way": 0})
        before = [without_bytes(d) for d in desk.all()]
        assert len(before) == 4 * len(accepted) and {d["state"] for d in before} == {DELIVERED}
        assert len(inodes) > 1, "it was never compacted"
        desk.restart()
        after = [without_bytes(d) for d in desk.all()]
        assert sorted(after, key=str) == sorted(before, key=str)
        assert desk.dispatcher.counts() == {"waiting": 0, "under_way": 0}


# --- Idempotency-Keys: a trigger that is sent again makes no second message, over threads, restarts and compactions --


ONE, TWO = body_of(EVENT, b"1"), body_of(EVENT, b"2")
DAY = 86_400.0


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
    "key",
    ["", '"', '""', '"a', 'a"b', "a b", '"a\\"b"', '"a";x=1', "a, b", '"a", "b"', "\xfc", "k" * 256, f'"{"k" * 256}"'],
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
    monkeypatch.setattr(history, "MAX_KEYS", 2)
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


# --- as JSON for people -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_700_000_000.25, "2023-11-14T22:13:20.250000Z"),
        (1_709_164_799.9999998, "2024-02-28T23:59:59.999999Z"),
        (4_102_444_800.0, "2100-01-01T00:00:00.000000Z"),
    ],
)
def test_times_are_iso_in_utc_with_microseconds(seconds: float, text: str) -> None:
    assert iso(seconds) == text


def test_a_fresh_delivery_as_json() -> None:
    assert delivery_json(a_delivery()) == {
        "id": "dlv_0123456789abcdef01234567_3",
        "message": "msg_0123456789abcdef01234567",
        "event": "payment_received",
        "url": "http://example.com/hook",
        "state": "pending",
        "time": "2023-11-14T22:13:20.250000Z",
        "attempt_count": 0,
    }


def test_a_retrying_delivery_says_what_happened_and_what_comes() -> None:
    delivery = a_delivery()
    delivery.state, delivery.due = RETRYING, 1_700_000_005.5
    delivery.add(Attempt(1_700_000_000.25, 0.0123456789, 503, "the answer ended after 3 of 9 bytes"))
    shown = delivery_json(delivery)
    assert shown["next_attempt"] == "2023-11-14T22:13:25.500000Z"
    assert (shown["status"], shown["error"]) == (503, "the answer ended after 3 of 9 bytes")
    assert shown["attempt_count"] == 1 and shown.keys().isdisjoint({"attempts", "body"})
    assert shown["duration"] == 0.012346
    assert delivery_json(delivery, attempts=True)["body"] == delivery.message.body.decode()
    assert delivery_json(delivery, attempts=True)["attempts"] == [
        {
            "time": "2023-11-14T22:13:20.250000Z",
            "duration": 0.012346,
            "status": 503,
            "error": "the answer ended after 3 of 9 bytes",
            "request": None,
            "response": None,
            "gone": "the bytes of this attempt are no longer kept",
        }
    ]


def test_raw_bytes_are_shown_as_latin_1() -> None:
    outcome = Exchange(bytes(range(256)), b"\xff\x00", KEPT_RESPONSE + 1, 200, b"", None)
    shown = attempt_json(Attempt(0.0, 0.0, 200, None, outcome))
    assert shown["request"].encode("latin-1") == bytes(range(256))
    assert shown["response"].encode("latin-1") == b"\xff\x00"
    assert shown["response_bytes"] == KEPT_RESPONSE + 1
    assert "gone" not in shown and "error" not in shown


@pytest.mark.parametrize("event, shown", [("ping", True), ("payment_received", False)])
def test_only_pings_can_be_confirmed(event: str, shown: bool) -> None:
    assert ("confirmed" in delivery_json(a_delivery(event))) is shown


def test_a_retry_that_begins_while_its_delivery_is_shown_is_planned_or_is_not() -> None:
    """Another thread sets `due` to 0.0 between any two looks at it."""

    class Changing(Delivery):
        __slots__ = ("looks",)

        @property
        def due(self) -> float:
            return self.looks.pop(0) if self.looks else 0.0

        @due.setter
        def due(self, value: float) -> None:
            self.looks = [1_700_000_000.0]

    delivery = Changing(a_delivery().message, 0, "http://example.com/hook")
    assert delivery_json(delivery).get("next_attempt", "2023-11-14T22:13:20.000000Z") == "2023-11-14T22:13:20.000000Z"
