"""A replaced file is the old one or the new one, and threads that come together share an fsync."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from disks import Disk, full, together
from support import SECONDS, held, no_sync

import durable
from durable import Fsync, GroupCommit, StoreError, open_locked, replacement, sync_directory

# --- a file that is replaced ------------------------------------------------------------------------------------------


def broken_records() -> Any:
    yield b"ne"
    full()


FAILURES = ["fsync 1", "fsync 2", "os.open", "os.replace", "os.chmod", "content"]


def replace(path: Path, pieces: Iterable[bytes], fsync: Fsync, mode: int = 0o666) -> None:
    with replacement(path, pieces, fsync, mode) as temporary:
        assert Path(temporary).read_bytes() == b"new", "not written before it takes the name"
    sync_directory(path, fsync)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_replacement_that_fails_leaves_the_old_content_until_the_name_has_changed(
    failure: str, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        if "fsync" in failure:
            disk.fail(lambda number: number == int(failure[-1]))
        elif "os." in failure:
            patch.setattr(failure, full)
        replace(path, broken_records() if failure == "content" else [b"new"], disk)
    assert path.read_bytes() == (b"new" if failure == "fsync 2" else b"old")
    assert list(tmp_path.iterdir()) == [path]
    disk.mend()
    replace(path, [b"ne", b"w", b""], disk)
    assert path.read_bytes() == b"new"


def test_a_replacement_that_is_broken_off_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacement(path, [b"new"], no_sync, 0o666):
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_second_file_that_a_crash_has_left_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file.tmp").write_bytes(b"a long rest of a former content")
    replace(tmp_path / "file", [b"new"], no_sync, 0o600)
    assert (tmp_path / "file").read_bytes() == b"new" and not (tmp_path / "file.tmp").exists()
    if os.name != "nt":
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_file_that_an_indexer_has_open_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses meanwhile."""
    rename, refusals = os.replace, [1, 2, 3]

    def refuse(source: str, target: Path) -> None:
        if refusals and refusals.pop():
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(durable, "WINDOWS", True)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    replace(tmp_path / "file", [b"new"], no_sync)
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_lock_has_one_owner_and_ends_with_its_descriptor(tmp_path: Path) -> None:
    first = open_locked(tmp_path / "hooks.lock", tmp_path / "hooks.json")
    with pytest.raises(StoreError, match="hooks.json: another exposee has it"):
        open_locked(tmp_path / "hooks.lock", tmp_path / "hooks.json")
    other = open_locked(tmp_path / "others.lock", tmp_path / "others.json")
    os.close(first)
    os.close(open_locked(tmp_path / "hooks.lock", tmp_path / "hooks.json"))
    os.close(other)


# --- many threads, one disk -------------------------------------------------------------------------------------------


class Paper:
    """Something to write on: groups of items, and an fsync for each."""

    def __init__(self, disk: Disk) -> None:
        self.groups: list[list[Any]] = []
        self.writing, self.disk = threading.Lock(), disk

    def write(self, items: list[Any]) -> list[Any]:
        assert self.writing.acquire(blocking=False), "two threads write"
        try:
            self.disk(0)
            if "bug" in items:
                raise ZeroDivisionError
            self.groups.append(items)
            return [ValueError("refused") if item == "refused" else f"{item} is written" for item in items]
        finally:
            self.writing.release()


def test_all_that_come_while_one_writes_are_the_next_group(disk: Disk) -> None:
    paper = Paper(disk)
    commits = GroupCommit(paper.write)
    for number, future in enumerate(together(disk, *[lambda n=n: commits.commit(n) for n in range(64)])):
        assert future.result() == f"{number} is written"
    assert paper.groups[0] == [0] and len(paper.groups) <= 4
    assert sorted(item for group in paper.groups for item in group) == list(range(64))


def test_a_failure_is_told_to_everybody_in_its_group_and_to_nobody_else(disk: Disk) -> None:
    paper = Paper(disk)
    commits = GroupCommit(paper.write)
    calls: list[Callable[[], None]] = [lambda n=n: commits.commit(n) for n in range(8)]  # type: ignore[misc]
    disk.fail(lambda number: number == 2)
    errors = [future.exception() for future in together(disk, *calls)]
    failed = {number for number, error in enumerate(errors) if error}
    assert failed and {type(error) for error in errors if error} == {StoreError} and errors[0] is None
    assert failed == set(range(8)) - {item for group in paper.groups for item in group}
    with pytest.raises(ZeroDivisionError):
        commits.commit("bug")
    commits.commit("well again")


def test_what_is_said_of_one_item_is_told_to_its_thread_alone_and_a_bug_to_all(disk: Disk) -> None:
    commits = GroupCommit(Paper(disk).write)
    calls = [lambda it=it: commits.commit(it) for it in (1, 2, "refused", 3)]
    assert [str(future.exception()) for future in together(disk, *calls)] == ["None", "None", "refused", "None"]
    calls = [lambda it=it: commits.commit(it) for it in (1, "bug", "bug", "bug")]
    errors = [type(future.exception()) for future in together(disk, *calls)]
    assert errors == [type(None)] + [ZeroDivisionError] * 3


def test_an_item_that_was_refused_leaves_nothing_for_the_search_for_cycles() -> None:
    class Item:
        pass

    commits: GroupCommit[Item, None] = GroupCommit(full)
    gc.disable()
    try:
        item = Item()
        known = weakref.ref(item)
        with pytest.raises(StoreError) as refusal:
            commits.commit(item)
        del refusal, item
        assert known() is None
    finally:
        gc.enable()


def test_nobody_waits_for_ever_when_many_commit_again_and_again(disk: Disk) -> None:
    paper = Paper(disk)
    commits = GroupCommit(paper.write)
    disk.fail(lambda number: number % 7 == 0)
    stored, refused = list[int](), list[int]()

    def commit(thread: int) -> None:
        for number in range(200):
            try:
                commits.commit((thread, number))
                stored.append(1)
            except StoreError:
                refused.append(1)

    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(commit, thread) for thread in range(16)]:
            future.result(SECONDS)
    assert len(stored) == sum(map(len, paper.groups)) and len(stored) + len(refused) == 3_200 and refused


def test_nothing_is_written_after_the_end(disk: Disk) -> None:
    paper = Paper(disk)
    commits = GroupCommit(paper.write)
    disk.hold()
    with ThreadPoolExecutor(2) as pool, held(disk.gate):
        first = pool.submit(commits.commit, 1)
        assert disk.asked.wait(SECONDS)
        second = pool.submit(commits.commit, 2)
        commits.closed = True
        disk.gate.set()
        first.result(SECONDS)
        with pytest.raises(StoreError, match="shutting down: nothing was stored"):
            second.result(SECONDS)
    for again in (3, 4):
        with pytest.raises(StoreError, match="shutting down: nothing was stored"):
            commits.commit(again)
    assert paper.groups == [[1]]
