"""What is remembered of messages, within limits, and how the journal brings it back."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import EVENT, OTHER, SECONDS, Blocking, Desk, eventually, exchange, held, without_bytes

import history
from history import History
from messages import CANCELLED, DELIVERED, FAILED, PENDING, PING, RETRYING, Attempt, Delivery, Message
from records import delivery_json, records
from records import delivery_record as record_of

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
    for record in records(*it.snapshot()):
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
    assert b"".join(records(*again.snapshot())) == b"".join(records(*it.snapshot()))


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
    lines = list(records(*it.snapshot()))
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
