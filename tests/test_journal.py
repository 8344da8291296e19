"""The journal: what is committed survives, what a crash has torn is dropped, and a full disk tears nothing."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disks import Disk, full, together
from support import EVENT, SECONDS, Desk, a_delivery, exchange, held, no_sync

import durable
import journal as journal_module
from durable import StoreError
from history import attempt_json
from journal import MARK, Journal, delivery_record, message_record, restore
from messages import STATES, Attempt, Message, body_of


def record(number: int, size: int = 0) -> bytes:
    return json.dumps({"number": number, **({"x": "x" * size} if size else {})}).encode() + b"\n"


def numbers(path: Path) -> list[int]:
    """The records that a start would read, by number; every line has to be whole."""
    with tempfile.TemporaryDirectory() as folder:  # a copy: its owner may have it open
        journal = Journal(shutil.copy(path, folder), no_sync)
        found = [it["number"] for it in journal.read()]
        journal.close()
    assert journal.warning is None
    return found


@pytest.fixture
def journal(tmp_path: Path, disk: Disk) -> Iterator[Journal]:
    it = Journal(tmp_path / "deliveries.jsonl", disk)
    yield it
    disk.mend()
    disk.gate.set()
    it.close()


@pytest.fixture
def grown(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journal that has grown enough to be compacted: records 0 to 99."""
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 1_000)
    for number in range(100):
        journal.note(number, record(number))
    journal.commit(b"")
    return journal


def test_records_are_read_in_the_order_they_were_written(journal: Journal) -> None:
    assert list(journal.read()) == []
    for number in range(5):
        journal.commit(record(number))
    assert list(journal.read()) == [{"number": number} for number in range(5)]
    lines = journal.path.read_bytes().splitlines(keepends=True)
    assert lines == [line for number in range(5) for line in (MARK, record(number))]


def test_a_commit_waits_for_the_disk(journal: Journal, disk: Disk) -> None:
    disk.hold()
    accepted, returned = threading.Event(), threading.Event()

    def commit() -> None:
        journal.commit(record(1), accepted.set)
        returned.set()

    thread = threading.Thread(target=commit)
    thread.start()
    assert disk.asked.wait(SECONDS)
    assert journal.path.read_bytes() == MARK + record(1)
    assert not accepted.wait(0.1) and not returned.is_set()
    disk.gate.set()
    assert returned.wait(SECONDS) and accepted.is_set()
    thread.join()


def test_commits_that_come_together_share_an_fsync(journal: Journal, disk: Disk) -> None:
    before, accepted = disk.count, []
    calls = [lambda n=n: journal.commit(record(n), lambda: accepted.append(n)) for n in range(64)]
    for future in together(disk, *calls):
        future.result()
    assert disk.count - before <= 8
    assert sorted(accepted) == sorted(numbers(journal.path)) == list(range(64))
    assert accepted == numbers(journal.path)  # accepted in the order of the file


def test_notes_go_with_the_next_commit_and_wait_for_no_disk(journal: Journal, disk: Disk) -> None:
    before = disk.count
    journal.note(1, record(1))
    journal.note(2, record(2))
    assert numbers(journal.path) == [] and disk.count == before
    journal.commit(record(3))
    assert numbers(journal.path) == [1, 2, 3] and disk.count == before + 1


def test_a_name_is_synced_before_anybody_is_told_that_a_record_is_in_the_file(tmp_path: Path, disk: Disk) -> None:
    before = disk.count
    journal = Journal(tmp_path / "deliveries.jsonl", disk)
    journal.commit(record(0))
    assert disk.count == before + 3
    journal.close()


def test_a_journal_is_closed_also_when_its_notes_are_refused(journal: Journal, disk: Disk) -> None:
    journal.note(0, record(0))
    disk.fail()
    journal.close()
    Journal(journal.path, no_sync).close()


def test_after_closing_a_commit_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deliveries.jsonl", no_sync)
    journal.note(0, record(0))
    journal.close()
    assert numbers(journal.path) == [0]
    with pytest.raises(StoreError):
        journal.commit(record(1))
    assert numbers(journal.path) == [0]


@pytest.mark.parametrize("tail", [b"{", b'{"number": 3', b'{"number": 3}', b"\0\0\0\0", b'{"number": \n', b"\xff\xfe"])
def test_a_torn_last_line_is_dropped_with_one_warning(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "deliveries.jsonl"
    path.write_bytes(record(1) + record(2) + tail)
    journal = Journal(path, no_sync)
    assert [it["number"] for it in journal.read()] == [1, 2]
    assert journal.warning and journal.warning.startswith(f"{path}, line 3: ")
    journal.commit(record(4))
    journal.close()
    assert path.read_bytes() == record(1) + record(2) + MARK + record(4)


BROKEN = [b"nonsense\n", b"[]\n", b"1\n", b"\n", b'{"a"\n', b"\xff\n", b"[" * 99_999 + b"\n", bytes(5_000) + record(8)]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("later", [b"", record(3), bytes(512), record(3) + b"\n\0"], ids=range(4))
def test_from_a_broken_line_on_that_was_not_synced_all_is_dropped(broken: bytes, later: bytes, tmp_path: Path) -> None:
    """A power loss may keep a later page and lose an earlier one; nobody has been told of either."""
    path = tmp_path / "deliveries.jsonl"
    good = record(1) + MARK + record(2) + MARK + record(4)
    path.write_bytes(good + broken + later)
    journal = Journal(path, no_sync)
    assert [it["number"] for it in journal.read()] == [1, 2, 4]
    assert journal.warning and f"{path}, line 6: " in journal.warning
    assert f"{len(broken + later):,} bytes" in journal.warning and "\n" not in journal.warning
    journal.commit(record(5))
    journal.close()
    assert path.read_bytes() == good + MARK + record(5)


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("torn", [b"", b'{"num'])
def test_a_broken_line_that_was_synced_stops_the_start_and_is_left_alone(
    broken: bytes, torn: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "deliveries.jsonl"
    path.write_bytes(data := record(1) + broken + record(2) + MARK + record(3) + torn)
    journal = Journal(path, no_sync)
    with pytest.raises(StoreError, match=re.escape(f"{path}, line 2: ")):
        list(journal.read())
    journal.close()
    assert path.read_bytes() == data


def test_a_line_that_was_broken_by_hand_stops_the_start_also_after_a_compaction(grown: Journal) -> None:
    grown.compact(lambda: map(record, range(3)))
    grown.close()
    grown.path.write_bytes(data := grown.path.read_bytes().replace(b"1", b"one"))
    journal = Journal(grown.path, no_sync)
    with pytest.raises(StoreError, match="line 2: "):
        list(journal.read())
    journal.close()
    assert grown.path.read_bytes() == data


def test_a_power_loss_costs_the_last_write_only_and_other_damage_is_told(tmp_path: Path) -> None:
    """After a power loss any page of what was not synced may be NULs: the start goes on with what was."""
    path = tmp_path / "deliveries.jsonl"
    journal = Journal(path, no_sync)
    journal.commit(record(1))
    synced = path.stat().st_size
    journal.note(2, record(2))
    journal.commit(record(3))
    journal.close()
    whole = path.read_bytes()
    for start in range(0, len(whole) - 5, 5):
        path.write_bytes(data := whole[:start] + bytes(5) + whole[start + 5 :])
        again = Journal(path, no_sync)
        if start + 5 <= synced:
            with pytest.raises(StoreError):
                list(again.read())
        elif start >= synced:
            found = [it["number"] for it in again.read()]
            assert found == [1, 2, 3][: len(found)] and again.warning
        again.close()
        assert path.read_bytes() == data


def test_what_a_kill_has_left_unsynced_is_synced_before_a_mark_comes_after_it(tmp_path: Path) -> None:
    """Else a power loss in the first write after the restart could keep the mark and lose what is before it."""
    path, synced = tmp_path / "deliveries.jsonl", [0]
    path.write_bytes(left := record(1, 9_000))

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            synced.append(os.fstat(descriptor).st_size)

    journal = Journal(path, fsync)
    assert synced[-1] == len(left)
    journal.close()


def test_a_record_knows_its_line(tmp_path: Path) -> None:
    """The reader of the records names it when it does not know what a record means."""
    journal = Journal(tmp_path / "deliveries.jsonl", no_sync)
    for number in range(3):
        journal.commit(record(number))
    assert [(journal.line, it["number"]) for it in journal.read()] == [(2, 0), (4, 1), (6, 2)]
    journal.close()


@pytest.mark.skipif(os.name == "nt", reason="needs flock")
@pytest.mark.parametrize("compacted", [False, True])
def test_a_journal_has_one_owner_even_without_a_file_of_its_lock(compacted: bool, grown: Journal) -> None:
    """The second exposee would cut what the first one appends, and the first one what the second one does."""
    if compacted:
        grown.compact(lambda: map(record, range(50)))
    with pytest.raises(StoreError, match="deliveries.jsonl: another exposee has it"):
        Journal(grown.path, no_sync)
    grown.close()
    Journal(grown.path, no_sync).close()


# --- notes ------------------------------------------------------------------------------------------------------------


def test_a_later_note_takes_the_place_of_one_that_waits(journal: Journal) -> None:
    for number in range(1_000):
        journal.note(number % 3, record(number))
    journal.commit(b"")
    assert numbers(journal.path) == [999, 997, 998]
    journal.note(0, record(1_000))
    journal.commit(b"")
    assert numbers(journal.path) == [999, 997, 998, 1_000]


def test_a_commit_of_nothing_makes_the_notes_durable(journal: Journal, disk: Disk) -> None:
    before = disk.count
    journal.note(1, record(1))
    journal.commit(b"")
    assert disk.count == before + 1 and numbers(journal.path) == [1]
    journal.commit(b"")
    assert disk.count == before + 1, "there was nothing to write"


def test_notes_are_kept_while_the_disk_refuses_them(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        journal.note("b", record(5))  # comes meanwhile
        full()

    journal.note("a", record(1))
    journal.note("b", record(2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(StoreError):
            journal.commit(b"")
    journal.note("a", record(3))
    disk.fail()
    with pytest.raises(StoreError, match="nothing was stored"):
        journal.commit(record(4))
    disk.mend()
    assert numbers(journal.path) == []
    journal.commit(b"")
    assert numbers(journal.path) == [3, 5]


def test_no_order_of_locks_is_turned_around(journal: Journal) -> None:
    """`accepted` takes the dispatcher's lock under the journal's, `note` is called under the dispatcher's."""
    lock, done = threading.Lock(), list[int]()

    def accepted() -> None:
        with lock:
            done.append(1)
            journal.note("accepted", record(1))

    def note() -> None:
        with lock:
            journal.note("noted", record(2))

    calls = [lambda: journal.commit(record(3), accepted), note, lambda: journal.compact(list)]
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(call) for _ in range(100) for call in calls]
        for future in futures:
            future.result(SECONDS)
    assert len(done) == 100


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_commit_that_fails_leaves_nothing_behind(journal: Journal, disk: Disk) -> None:
    journal.commit(record(0))
    accepted: list[int] = []
    disk.fail()
    calls = [lambda n=n: journal.commit(record(n), lambda: accepted.append(n)) for n in range(1, 9)]
    assert {type(future.exception()) for future in together(disk, *calls)} == {StoreError}
    assert accepted == [] and numbers(journal.path) == [0]
    disk.mend()
    journal.commit(record(9))
    assert numbers(journal.path) == [0, 9]


@contextlib.contextmanager
def torn(journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record 0 is written, record 1 is refused, and what there is of it cannot be cut off inside of this."""
    journal.commit(record(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", full)
        disk.fail()
        with pytest.raises(StoreError, match="No space left on device: .* may have been stored"):
            journal.commit(record(1))
        disk.mend()
        yield


def test_what_could_not_be_cut_off_at_once_is_cut_off_later(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torn(journal, disk, monkeypatch):
        assert b"1" in journal.path.read_bytes()
    journal.commit(record(2))
    assert numbers(journal.path) == [0, 2]


def test_nothing_is_appended_to_what_could_not_be_cut_off(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torn(journal, disk, monkeypatch):
        journal.note(2, record(2))
        with pytest.raises(StoreError, match="No space left on device"):
            journal.commit(record(3))
    journal.commit(record(4))
    assert sorted(numbers(journal.path)) == [0, 2, 4]


def test_a_disk_that_is_really_full_tears_no_line(small_disk: Path) -> None:
    path = small_disk / "deliveries.jsonl"
    journal = Journal(path)
    accepted: list[int] = []
    noted: list[int] = []
    with pytest.raises(StoreError, match="No space left on device"):
        for number in range(1_000):
            journal.commit(record(number, 1_000), functools.partial(accepted.append, number))
    assert numbers(path) == accepted and 20 < len(accepted) < 40
    for number in range(2_000, 2_010):
        journal.note(number, record(number, 1_000))
        noted.append(number)
        with contextlib.suppress(StoreError):
            journal.commit(b"")
    assert numbers(path)[: len(accepted)] == accepted
    with pytest.raises(StoreError):
        journal.commit(record(3_000, 1_000))
    (small_disk / "ballast").unlink()
    journal.commit(record(4_000, 1_000))
    journal.close()
    assert numbers(path) == [*accepted, *noted, 4_000]  # the notes have waited


# --- compaction ------------------------------------------------------------------------------------------------------


def test_a_journal_that_has_grown_is_replaced(grown: Journal) -> None:
    def records() -> Iterable[bytes]:
        yield record(98)
        grown.note(100, record(100))  # happens meanwhile
        yield record(99)

    grown.commit(b"")
    grown.compact(records)
    assert grown.path.read_bytes() == record(98) + record(99) + MARK
    grown.commit(record(101))
    assert numbers(grown.path) == [98, 99, 100, 101]
    assert list(grown.path.parent.glob("*.tmp")) == []


def test_nothing_is_accepted_for_a_journal_that_was_removed_until_it_is_written_again(journal: Journal) -> None:
    journal.commit(record(0))
    journal.note(1, record(1))
    journal.path.unlink()
    with pytest.raises(StoreError, match=f"{journal.path.name} was removed"):
        journal.commit(record(2))
    journal.compact(lambda: [record(0)])
    journal.commit(record(3))
    assert numbers(journal.path) == [0, 1, 3]


def edited(path: Path) -> None:
    """As editors do it: another file with more in it takes the name."""
    (path.parent / "edited").write_bytes(path.read_bytes() + record(7))
    os.replace(path.parent / "edited", path)


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b""), edited])
def test_nothing_is_accepted_for_a_journal_that_was_changed_until_it_is_written_again(
    change: Callable[[Path], object], journal: Journal
) -> None:
    journal.commit(record(0))
    change(journal.path)
    with pytest.raises(StoreError, match=f"{journal.path.name} was removed or changed"):
        journal.commit(record(1))
    journal.compact(lambda: [record(0)])
    journal.commit(record(2))
    assert numbers(journal.path) == [0, 2]


def test_a_journal_that_was_removed_is_whole_before_anything_is_accepted_also_if_it_could_not_be_written_at_once(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.commit(record(0))
    journal.path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        journal.compact(lambda: [record(0)])
    with pytest.raises(StoreError, match="was removed"):
        journal.commit(record(1))
    journal.compact(lambda: [record(0)])
    journal.commit(record(2))
    assert numbers(journal.path) == [0, 2]


def test_a_journal_is_compacted_again_only_after_it_has_doubled(grown: Journal) -> None:
    asked: list[int] = []

    def records() -> Iterable[bytes]:
        asked.append(1)
        return [record(number) for number in range(80)]

    for _ in range(3):
        grown.compact(records)
    assert len(asked) == 1
    grown.commit(record(100, grown.path.stat().st_size))
    grown.compact(records)
    assert len(asked) == 2


@pytest.mark.parametrize("failure", ["fsync 1", "fsync 2", "os.replace", "os.open"])
def test_a_compaction_that_fails_loses_nothing(
    failure: str, grown: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if "fsync" in failure:
            disk.fail(lambda number: number == int(failure[-1]))
        else:
            patch.setattr(failure, full)
        grown.compact(lambda: map(record, range(100)))
        disk.mend()
    grown.commit(record(100))
    assert numbers(grown.path) == list(range(101))
    assert list(grown.path.parent.glob("*.tmp")) == []


def test_a_new_name_that_could_not_be_synced_is_synced_before_the_next_commit(grown: Journal, disk: Disk) -> None:
    """Else a crash could bring back the old file, without what was committed since."""
    disk.fail(lambda number: number == 2)  # the new file is synced, its directory is not
    grown.compact(lambda: map(record, range(50)))
    assert grown.path.read_bytes() == b"".join(map(record, range(50))) + MARK
    disk.fail()
    with pytest.raises(StoreError, match="nothing was stored"):
        grown.commit(record(50))
    disk.mend()
    before = disk.count
    grown.commit(record(50))
    assert disk.count == before + 2 and numbers(grown.path) == list(range(51))


def test_nobody_commits_while_the_journal_is_replaced(grown: Journal, disk: Disk) -> None:
    """Else a record would go to the file that is about to be thrown away."""
    with ThreadPoolExecutor(2) as pool, held(disk.gate):
        disk.hold()
        compaction = pool.submit(grown.compact, lambda: map(record, range(100)))
        assert disk.asked.wait(SECONDS)
        commit = pool.submit(grown.commit, record(100))
        disk.gate.set()
        compaction.result(SECONDS)
        commit.result(SECONDS)
    assert numbers(grown.path) == list(range(101))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="sees open files in /proc")
def test_no_file_is_open_when_it_is_replaced(grown: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to replace an open file, and to rename one."""
    replace = os.replace
    replaced: list[str] = []

    def replace_as_windows_does(source: str, target: Path) -> None:
        files = {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}
        if files & {os.path.realpath(source), os.path.realpath(target)}:
            raise PermissionError(errno.EACCES, "open in this process")
        replaced.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_as_windows_does)
    monkeypatch.setattr(journal_module, "WINDOWS", True)
    with durable.replacement(tmp_path / "another", [b"1"], no_sync, 0o666):
        pass
    grown.compact(lambda: map(record, range(100)))
    grown.commit(record(100))
    assert replaced == ["another", "deliveries.jsonl"]
    assert numbers(grown.path) == list(range(101))


# --- its records ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, 'a "quoted"\nline\u2028 and \\ more'])
def test_records_are_one_line_of_json_each(error: str | None) -> None:
    delivery = a_delivery()
    delivery.add(Attempt(1_700_000_000.25, 1e-07, 0 if error else 204, error))
    delivery.due, delivery.error, delivery.tries = 1_700_000_300.0, error, 1
    records = [
        message_record(delivery.message, ["http://example.com/hook", ""]),
        delivery_record(delivery),
        delivery_record(replace(delivery, manual=True)),
    ]
    for record in records:
        assert record.endswith(b"\n") and record.count(b"\n") == 1
    assert json.loads(records[0]) == {
        "message": delivery.message.id,
        "event": "payment_received",
        "time": 1_700_000_000.25,
        "urls": ["http://example.com/hook", ""],
        "body": delivery.message.body.decode(),
    }
    state = {
        "delivery": delivery.id,
        "state": "pending",
        "due": 1_700_000_300.0,
        "tries": 1,
        "count": 1,
        "attempts": [[1_700_000_000.25, 0.0, 0 if error else 204, error]],
    }
    assert json.loads(records[1]) == {**state, **({"error": error} if error else {})}
    assert json.loads(records[2]) == {**json.loads(records[1]), "manual": True}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("flag", ["", "manual", "confirmed"])
def test_a_record_restores_the_whole_state(state: str, flag: str) -> None:
    delivery, again = a_delivery(), a_delivery()
    for number in range(25):
        delivery.add(Attempt(1_700_000_000.25 + number, 0.5, 503 + number, "cut" if number % 2 else None))
    delivery.state, delivery.due, delivery.tries, delivery.error = state, 1_700_000_300.125, 7, 'why "not"'
    if flag:
        setattr(delivery, flag, True)
    restore(again, json.loads(delivery_record(delivery)))
    assert again.state == ("pending" if state == "delivering" else state), "an attempt does not outlive its process"
    for name in ("due", "tries", "count", "error", "manual", "confirmed"):
        assert getattr(again, name) == getattr(delivery, name), name
    assert list(map(attempt_json, again.attempts)) == list(map(attempt_json, delivery.attempts))


def test_a_record_keeps_the_bytes_of_a_body() -> None:
    """The journal has the bytes of a body as a text: reading it again cannot change them."""
    body = b'{"event": "e",  "data": [1E2, -0, 1e-400, 9007199254740993.0, "\\u00e9\xc3\xa9"]}'
    message = Message("msg_1", "e", 1.5, body)
    assert json.loads(message_record(message, []))["body"].encode() == body


@pytest.mark.parametrize("data", [10**300, 0.1 + 0.2, "\u2028\x00\x7f", {"b": 1, "a": {"b": 2}}], ids=ascii)
def test_the_same_bytes_are_sent_after_a_restart(tmp_path: Path, data: Any) -> None:
    """The signature covers them, and receivers compare: reading the journal may not change a body."""
    with Desk(tmp_path, "http://a.test/") as desk:
        desk.answer = exchange(503)
        delivery = desk.settled(desk.trigger(data=data))
        desk.restart()
        desk.answer = exchange(204)
        desk.pass_time(10)
        desk.on_demand.redeliver(desk.settled(delivery, 2))
        desk.settled(delivery, 3)
        bodies = [desk.next_sent().body for _ in range(3)]
    assert len(set(bodies)) == 1 and json.loads(bodies[0]) == {"event": "payment_received", "data": data}


@pytest.mark.parametrize(
    "data",
    ["99999999999999.99", "9007199254740993.0", "1e-400", "-0", "1E2", "[1e9,1E+9]", '{"b":  "\\u00e9\\/","a":-0.0}'],
)
def test_a_spelling_is_the_same_after_a_restart_and_in_a_redelivery(tmp_path: Path, data: str) -> None:
    with Desk(tmp_path, "http://a.test/") as desk:
        desk.answer = exchange(503)
        (delivery,) = desk.dispatcher.trigger(EVENT, body_of(EVENT, data.encode())).deliveries
        assert delivery is not None
        desk.settled(delivery)
        desk.restart()
        desk.answer = exchange(204)
        desk.pass_time(10)
        desk.on_demand.redeliver(desk.settled(delivery, 2))
        desk.settled(delivery, 3)
        bodies = {desk.next_sent().body for _ in range(3)}
    assert bodies == {f'{{"event": "{EVENT}", "data": {data}}}'.encode()}
