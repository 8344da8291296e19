"""Recovery: one more attempt of all that have failed. Pings and single redeliveries are in test_delivery.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import Disk
from support import EVENT, OTHER, Desk, Listener, Pair, eventually, exchange

import ondemand
from messages import CANCELLED, DELIVERED, FAILED, RETRYING, Delivery, NotPossible

URL, SECOND = "http://a.test/hook", "http://b.test/hook"
RECOVER = "/deliveries/attempts"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A dispatcher with one URL, and no retries."""
    with Desk(tmp_path, URL, schedule=()) as it:
        yield it


def has_failed(delivery: Delivery) -> bool:
    return delivery.state == FAILED


def failed(desk: Desk, number: int, event: str = EVENT) -> list[Delivery]:
    """The deliveries of so many messages, which have failed, oldest first; what comes after them succeeds."""
    desk.answer = exchange(503)
    found = [it for data in range(number) for it in desk.accept(event, data).deliveries if it]
    eventually(lambda: desk.dispatcher.counts()["waiting"] == 0, "the end of them")
    assert {it.state for it in found} == {FAILED}
    desk.answer = exchange()
    while not desk.sent.empty():
        desk.sent.get()
    return found


def recover(desk: Desk, matches: Callable[[Delivery], bool] = has_failed) -> int:
    return desk.on_demand.recover(matches)


# --- what is asked for --------------------------------------------------------------------------------------------


def test_all_that_have_failed_are_attempted_once_more(desk: Desk) -> None:
    first, second = failed(desk, 2)
    assert recover(desk) == 2
    desk.pass_time(1)
    assert [desk.settled(it, 2).state for it in (first, second)] == [DELIVERED, DELIVERED]
    assert recover(desk) == 0
    assert [it.request.count(first.message.id.encode()) for it in (desk.next_sent(), desk.next_sent())] == [1, 0]


def test_no_retries_come_after_it(tmp_path: Path) -> None:
    """Not even for one that never had its planned ones, as its backlog was full."""
    with Desk(tmp_path, URL, schedule=(10.0, 10.0)) as desk, desk.blocked(exchange(503)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("delivery.MAX_BACKLOG", 0)
            desk.under_way(desk.trigger())
            desk.trigger()
            full = desk.trigger()
        assert (full.state, full.error) == (FAILED, "backlog full")
        assert recover(desk) == 1
    with Desk(desk.copy(tmp_path / "later"), answer=exchange(503), time=desk.clock, schedule=(10.0, 10.0)) as later:
        assert later.settled(full).state == FAILED


@pytest.mark.parametrize("moment", ["before its turn", "after its attempt"])
def test_it_survives_a_restart(desk: Desk, moment: str) -> None:
    deliveries = failed(desk, 3)
    if moment == "after its attempt":
        desk.answer = exchange(503)
    assert recover(desk) == 3
    if moment == "after its attempt":
        desk.pass_time(1)
        for delivery in deliveries:
            desk.settled(delivery, 2)
    desk.restart()
    desk.pass_time(1)
    expected = FAILED if moment == "after its attempt" else DELIVERED
    assert [desk.settled(delivery, 2).state for delivery in deliveries] == [expected] * 3
    assert desk.dispatcher.counts() == {"waiting": 0, "under_way": 0}


def test_what_a_kill_finds_in_the_journal_is_attempted(desk: Desk, tmp_path: Path) -> None:
    deliveries = failed(desk, 3)
    assert recover(desk) == 3
    with Desk(desk.copy(tmp_path / "later"), time=desk.clock, schedule=(10.0,), answer=exchange(503)) as later:
        assert [later.settled(delivery, 2).state for delivery in deliveries] == [FAILED] * 3
        later.pass_time(100)
        assert later.dispatcher.counts()["waiting"] == 0


def test_what_is_not_registered_any_more_or_under_way_is_left_out(desk: Desk) -> None:
    desk.register(SECOND, OTHER)
    kept, gone, under_way = *failed(desk, 1), *failed(desk, 1, OTHER), *failed(desk, 1)
    desk.unregister(SECOND, OTHER)
    desk.register(SECOND, "payment_processed")  # for another event: it does not want this one any more
    with desk.redelivering(under_way):
        assert recover(desk) == 1
        assert (kept.state, gone.state) == (RETRYING, FAILED)


def test_pings_are_left_out(desk: Desk) -> None:
    desk.answer = exchange(503)
    (ping,) = desk.on_demand.ping()
    assert desk.settled(ping).state == FAILED and recover(desk) == 0


def test_an_unregistration_cancels_what_has_not_had_its_turn(desk: Desk) -> None:
    deliveries = failed(desk, 3)
    assert recover(desk) == 3
    desk.unregister(URL, EVENT)
    assert {it.state for it in deliveries} <= {CANCELLED, DELIVERED} and deliveries[-1].state == CANCELLED
    desk.register(URL, EVENT)
    assert recover(desk, lambda it: it.state == CANCELLED) >= 2
    desk.pass_time(1)
    eventually(lambda: all(it.state == DELIVERED for it in deliveries))


def test_two_who_recover_at_once_make_one_attempt_of_each(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries = failed(desk, 3)
    commit, counts = desk.journal.commit, [0, 0]

    def meanwhile(record: bytes, accepted: Callable[[], None] = lambda: None) -> None:
        monkeypatch.setattr(desk.journal, "commit", commit)
        counts[1] = recover(desk)
        desk.pass_time(1)
        for delivery in deliveries:
            desk.settled(delivery, 2)
        commit(record, accepted)

    monkeypatch.setattr(desk.journal, "commit", meanwhile)
    counts[0] = recover(desk)
    assert counts == [0, 3]
    desk.restart()
    desk.pass_time(10)
    assert {it.state for it in desk.all()} == {DELIVERED} and desk.sent.qsize() == 3


# --- on the wire --------------------------------------------------------------------------------------------------


@pytest.fixture
def unwell(listener: Listener) -> Listener:
    listener.answer = b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"
    return listener


def test_a_filter_chooses_by_url_and_time(tmp_path: Path, unwell: Listener) -> None:
    with Pair(tmp_path, schedule=()) as pair:
        times = []
        for path in ("/a", "/b"):
            pair.register(unwell.url(path), EVENT)
        for _ in range(2):
            found = pair.trigger(EVENT, 1, Prefer="wait=5").json()["deliveries"]
            times.append(found[0]["time"])

        def count(**wanted: Any) -> int:
            answer = pair.call("POST", RECOVER, wanted)
            number: int = answer.json()["deliveries"]
            assert answer.status == 202
            assert answer.json()["message"] == f"{number} deliveries will be attempted once more"
            eventually(lambda: pair.dispatcher.counts()["waiting"] == 0)
            return number

        assert count(url=unwell.url("/a")) == 2
        assert count(since=times[1]) == 2 and count(since=times[1].replace("Z", "+00:00"), state="failed") == 2
        assert count(since=times[0], url=unwell.url("/b")) == 2 and count(since="2020-01-31") == 4
        assert count(since=0) == 4 and count(since=4e9) == count(state="cancelled") == count(url="x") == 0


NO_TIMES: list[object] = ["yesterday", None, True, [], {}, "", "9" * 400, "2025-01-31T25:00:00Z", "20250131"]
NO_TIMES += ["2025-W05-5", "2025-01-31 12:00", "2025-01-31T12:00:00.5Z", "2025-01-31T12:00:00ZZ"]


@pytest.mark.parametrize(
    "body, words",
    [
        ({}, "expected one or more of state, url, since"),
        ({"stat": "failed"}, 'the members are ["stat"]'),
        ({"url": "http://a/", "limit": 1}, "expected one or more of"),
        ({"state": "delivered"}, 'state is "delivered", expected failed or cancelled'),
        ({"state": None}, "expected failed or cancelled"),
        ({"state": ["failed"]}, "expected failed or cancelled"),
        ({"url": None}, "url is missing, expected a text"),
        ({"url": 7}, "url is 7, expected a text"),
        *(({"since": since}, "expected Unix time, or ISO 8601") for since in NO_TIMES),
        ([], "expected an object with state, url, since"),
    ],
    ids=repr,
)
def test_another_filter_is_422(body: Any, words: str, pair: Pair) -> None:
    refused = pair.call("POST", RECOVER, body)
    assert refused.status == 422 and words in refused.json()["detail"], refused


def test_it_is_for_the_owner(pair: Pair) -> None:
    assert pair.call("POST", RECOVER, {"state": "failed"}, X_Forwarded_For="203.0.113.7").status == 403


def test_a_disk_that_refuses_changes_nothing(tmp_path: Path, unwell: Listener, disk: Disk) -> None:
    with Pair(tmp_path, schedule=(), fsync=disk) as pair:
        pair.register(unwell.url(), EVENT)
        for _ in range(3):
            pair.trigger(EVENT, 1, Prefer="wait=5")
        before = pair.call("GET", "/deliveries").body
        disk.fail()
        assert pair.call("POST", RECOVER, {"state": "failed"}).status == 503
        assert pair.call("GET", "/deliveries").body == before and pair.dispatcher.counts()["waiting"] == 0
        disk.mend()
        assert pair.call("POST", RECOVER, {"state": "failed"}).json()["deliveries"] == 3


def test_one_that_waits_for_its_recovery_cannot_be_redelivered(desk: Desk) -> None:
    """Its attempt is seconds away, and a second one was not meant."""
    failed(desk, 2)
    assert recover(desk) == 2
    last = next(it for it in desk.all() if it.due)
    with pytest.raises(NotPossible, match="is under way or about to be"):
        desk.on_demand.redeliver(last)
    desk.pass_time(1)
    assert desk.settled(last, 2).state == DELIVERED


# --- beside others ------------------------------------------------------------------------------------------------


def test_5_000_recovered_leave_the_live_ones_their_turn(desk: Desk) -> None:
    """In each second some hundreds of them are sent, of the many thousands that a sender makes."""
    for number in range(49):
        desk.register(f"{URL}/{number}", EVENT)
    desk.register(SECOND, OTHER)
    assert len(failed(desk, 100)) == 5_000 == recover(desk)
    recovered = live = 0
    for _ in range(3):
        before = desk.clock.now
        desk.pass_time(1)
        live_one = desk.trigger(OTHER)
        desk.settled(live_one)
        eventually(lambda: desk.dispatcher.counts()["under_way"] == 0)
        while not desk.sent.empty():
            sent = desk.sent.get()
            recovered, live = recovered + (sent.url != SECOND), live + (sent.url == SECOND)
            assert sent.at >= before
        assert live and recovered <= live * ondemand.RECOVERED + 1
    desk.pass_time(10)
    eventually(lambda: desk.dispatcher.counts()["waiting"] == 0)
    assert {it.state for it in desk.all()} == {DELIVERED}
