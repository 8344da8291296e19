"""webhooks.json as people edit it: before the start in any layout, and while the exposee runs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from disks import Disk, Faults, full
from stores import ENTRIES, SECRETS, A, B, C, D, anyone, register, text_of

import loading
from durable import StoreError
from store import WebhookStore

GOOD = json.dumps(A)


@pytest.mark.parametrize(
    "text, entries",
    [
        ("[]", []),
        (" [\n\n] ", []),
        ("\ufeff[]", []),  # as older Windows editors begin a file
        (text_of(*ENTRIES), ENTRIES),
        (json.dumps(ENTRIES), ENTRIES),
        (json.dumps(ENTRIES, indent=4).replace("\n", "\r\n"), ENTRIES),
        (json.dumps(ENTRIES, separators=(",", ":")), ENTRIES),
        ('[{"event":"e","url":"http:\\/\\/\\u0061.example\\/"}]', [{"url": "http://a.example/", "event": "e"}]),
        (text_of(A, B, A, A), [A, B]),
        (text_of(D, C, B, A), [D, C, B, A]),
    ],
)
def test_any_layout_of_the_list_loads(
    text: str, entries: list[dict[str, str]], tmp_path: Path, opened: Callable[[], WebhookStore]
) -> None:
    file = tmp_path / "webhooks.json"
    file.write_bytes(text.encode())
    it = opened()
    assert sorted(it.webhooks(), key=str) == sorted(entries, key=str)
    new = {"url": "http://new.example/", "event": "payment_received"}
    register(it, new)
    written = file.read_text().splitlines()
    assert sorted(line.strip(",") for line in written[1:-1]) == sorted(map(json.dumps, [*entries, new]))
    assert opened().count() == len(entries) + 1


@pytest.mark.parametrize(
    "text, line, reason",
    [
        ("nonsense", 1, "not JSON"),
        ("", 1, "is empty, expected at least []"),
        ("  \n", 1, "is empty, expected at least []"),
        (f"[\n{GOOD}\n,\n\n]", 3, "not JSON"),
        (f"[\n{GOOD[:-1]}\n, \n }}]", 3, "not JSON"),
        ("{}", 1, "not a list"),
        (GOOD, 1, "not a list"),
        ("null", 1, "not a list"),
        ("[1]", 1, "not an entry"),
        ("[null]", 1, "not an entry"),
        ("[[]]", 1, "not an entry"),
        (f"[\n{GOOD},\n\n  {{}}]", 4, "not an entry"),
        (f"[\n{GOOD},\n{GOOD[:-1]}", 3, "not JSON"),
        (f"[\n{GOOD},\n]\n", 2, "not JSON"),
        (f"[\n{GOOD}\n]\n[]", 4, "not JSON"),
        (f'[{GOOD},\n{{"url": "http://b.example/"}}]', 2, "not an entry"),
        ('[\n{"url": "http://b.example/", "event": "e", "secret": "s"}]', 2, "not an entry"),
        ('[\n{"url": ["http://b.example/"], "event": "e"}]', 2, "not an entry"),
        ('[\n{"url": "http://b.example/", "event": null}]', 2, "not an entry"),
        ('[\n{"url": "http://b.example/", "event": ""}]', 2, "not an entry"),
        ('[\n\n{"url": "ftp://b.example/", "event": "e"}]', 3, "http or https"),
        ('[\n{"url": "http://b.example/\\u001b", "event": "e"}]', 2, "visible ASCII"),
        ('[\n{"url": "http://b.example/\\ud800", "event": "e"}]', 2, "visible ASCII"),
        ('[\n{"url": "http://a.example/", "event": "e",\n "url": "http://b.example/", "event": "e"}]', 2, "not an entry"),
        ("[" * 100_000, 1, "nested too deeply"),
        ("[1" + "0" * 5_000 + "]", 1, "not "),
        ("\udcff", 1, "cannot be read"),
    ],
    ids=range(27),
)
def test_another_file_stops_the_start_and_is_left_alone(
    text: str, line: int, reason: str, tmp_path: Path, opened: Callable[[], WebhookStore]
) -> None:
    file = tmp_path / "webhooks.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = file.stat()
    with pytest.raises(StoreError) as stopped:
        opened()
    assert str(stopped.value).startswith(f"{file}, line {line}: ") and reason in str(stopped.value)
    after = file.stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size)
    assert {path.name for path in tmp_path.iterdir()} <= {"webhooks.json", "webhooks.lock"}
    file.write_text(text_of(A))
    assert opened().webhooks() == [A]  # mended, and nothing kept hold of it


# --- an edit while the exposee runs ---------------------------------------------------------------------------


@pytest.fixture
def said() -> list[str]:
    """The lines on the terminal."""
    return []


@pytest.fixture
def running(tmp_path: Path, opened: Callable[..., WebhookStore], said: list[str]) -> WebhookStore:
    """A store with A and B, and a secret; it says its lines to `said`."""
    it = opened(said.append)
    register(it, A, secret=SECRETS[0])
    register(it, B)
    return it


def in_place(file: Path, text: str) -> None:
    before = file.stat().st_mtime_ns
    while file.stat().st_mtime_ns == before:  # a file system's clock may tick every few milliseconds only
        file.write_text(text)


def by_renaming(file: Path, text: str) -> None:
    Path(f"{file}~").write_text(text)
    os.replace(f"{file}~", file)


def kept_in(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.edited-*"))]


EDITS = {
    "another entry": text_of(A, B, D),
    "an entry less": text_of(A),
    "the same size": text_of(A, B).replace("//b.", "//x."),
    "no JSON": "[nonsense",
    "nothing": "",
    "no text": "\0" * 200,
}


@pytest.mark.parametrize("edit", [in_place, by_renaming])
@pytest.mark.parametrize("text", EDITS.values(), ids=EDITS)
def test_an_edit_is_kept_and_told_and_the_change_goes_on(
    edit: Callable[[Path, str], None], text: str, running: WebhookStore, said: list[str], tmp_path: Path
) -> None:
    file, secrets = tmp_path / "webhooks.json", (tmp_path / "webhooks.secrets.json").stat()
    edit(file, text)
    register(running, A)  # is there already: nothing is written, and so the edit stays
    assert file.read_text() == text and said == []
    register(running, C)
    assert file.read_text() == text_of(A, B, C) and sorted(map(str, running.webhooks())) == sorted(map(str, [A, B, C]))
    assert kept_in(tmp_path) == [text]
    assert len(said) == 1 and f"{file} was edited" in said[0] and f"{tmp_path / 'webhooks.edited-1.json'}: " in said[0]
    assert (tmp_path / "webhooks.secrets.json").stat() == secrets
    register(running, D)
    running.unregister(A["url"], A["event"], anyone)
    assert len(said) == len(kept_in(tmp_path)) == 1


def test_no_edit_takes_the_name_of_an_earlier_one_and_the_same_one_is_kept_once(
    running: WebhookStore, said: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "webhooks.json"
    for number, text in enumerate(["[1]", "[2]", "[1]", "[2]", "[3]"]):
        in_place(file, text)
        running.register(f"http://{number}.example/", ["e"], None, anyone)
    assert kept_in(tmp_path) == ["[1]", "[2]", "[3]"]
    names = [line.split("it is now ")[1].split(": ")[0] for line in said]
    assert [Path(name).read_text() for name in names] == ["[1]", "[2]", "[1]", "[2]", "[3]"]


@pytest.mark.parametrize("change", ["register", "unregister", "unregister_urls"])
def test_a_file_that_was_removed_is_written_again(
    change: str, running: WebhookStore, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "webhooks.json").unlink()
    if change == "register":
        register(running, C)
    elif change == "unregister":
        running.unregister(A["url"], A["event"], anyone)
    else:
        running.unregister_urls([A["url"]])
    assert (tmp_path / "webhooks.json").read_text() == (text_of(A, B, C) if change == "register" else text_of(B))
    assert kept_in(tmp_path) == [] and len(said) == 1 and "was removed" in said[0]


def test_an_edit_is_kept_when_a_failed_change_is_put_back(
    running: WebhookStore, said: list[str], disk: Disk, tmp_path: Path
) -> None:
    disk.fail(lambda number: number > 1)  # the file has its new name, and may lose it again
    with pytest.raises(StoreError, match="may have been stored"):
        register(running, C)
    disk.mend()
    assert (tmp_path / "webhooks.json").read_text() == text_of(A, B, C)
    in_place(tmp_path / "webhooks.json", text_of(A, B, D))
    running.close()
    assert (tmp_path / "webhooks.json").read_text() == text_of(A, B)
    assert kept_in(tmp_path) == [text_of(A, B, D)] and len(said) == 1


@pytest.mark.skipif(os.name == "nt", reason="no open file is replaced there")
def test_what_an_editor_is_still_writing_goes_to_where_the_edit_is_kept(running: WebhookStore, tmp_path: Path) -> None:
    with open(tmp_path / "webhooks.json", "w") as editor:
        register(running, C)
        editor.write(text_of(D))
    assert kept_in(tmp_path) == [text_of(D)] and (tmp_path / "webhooks.json").read_text() == text_of(A, B, C)


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_on_a_file_system_without_links_an_edit_is_copied(
    running: WebhookStore, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", full)
    in_place(tmp_path / "webhooks.json", "[1]")
    (tmp_path / "webhooks.json").chmod(0o600)
    register(running, C)
    assert kept_in(tmp_path) == ["[1]"] and (tmp_path / "webhooks.json").read_text() == text_of(A, B, C)
    assert (tmp_path / "webhooks.edited-1.json").stat().st_mode & 0o777 == 0o600


def test_an_edit_that_cannot_be_kept_refuses_the_change(
    running: WebhookStore, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, secrets = tmp_path / "webhooks.json", (tmp_path / "webhooks.secrets.json").read_bytes()
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(loading, "replacement", full)
    in_place(file, "[1]")
    for _ in range(2):
        with pytest.raises(StoreError, match="an edit of webhooks.json cannot be kept: .*: nothing was stored"):
            register(running, D, secret=SECRETS[1])
    assert file.read_text() == "[1]" and not running.has(D["url"]) and list(tmp_path.glob("*.tmp")) == []
    assert (tmp_path / "webhooks.secrets.json").read_bytes() == secrets
    assert len(said) == 2 and f"{file} was edited" in said[0] and "cannot be kept" in said[0]
    file.rename(tmp_path / "mine")
    register(running, C)
    assert file.read_text() == text_of(A, B, C) and (tmp_path / "mine").read_text() == "[1]"


def test_an_edit_is_kept_and_told_once_when_the_disk_then_refuses_the_change(
    running: WebhookStore, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "webhooks.json"
    in_place(file, text_of(D))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StoreError, match="No space left"):
            register(running, C)
        assert kept_in(tmp_path) == [text_of(D)] and file.read_text() == text_of(D)
        crashed = tmp_path / "crashed"
        shutil.copytree(tmp_path, crashed)
    after = WebhookStore(crashed / "webhooks.json", log=said.append)
    assert after.webhooks() == [D]  # a start reads the edit
    register(after, C)
    after.close()
    register(running, C)
    assert file.read_text() == text_of(A, B, C) and kept_in(tmp_path) == [text_of(D)] and len(said) == 1


@pytest.mark.parametrize("ever_after", [False, True], ids=["fails once", "goes on failing"])
def test_whatever_fails_an_edit_is_not_lost(ever_after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(monkeypatch)
    for point in itertools.count(1):
        folder = tmp_path / str(point)
        it = WebhookStore(folder / "webhooks.json", fsync=faults.fsync)
        register(it, A)
        in_place(folder / "webhooks.json", "[1]")
        faults.fail(point, ever_after)
        with contextlib.suppress(StoreError):
            register(it, B, secret=SECRETS[0])
        hit = faults.count >= point
        assert "[1]" in [(folder / "webhooks.json").read_text(), *kept_in(folder)]
        faults.mend()
        register(it, C)
        assert kept_in(folder) == ["[1]"]
        it.close()
        if not hit:
            break
    assert point > 10


def test_nothing_else_is_taken_for_an_edit(
    opened: Callable[..., WebhookStore], said: list[str], disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "webhooks.json"
    file.write_text(json.dumps([A, B]))
    it = opened(said.append)

    def register_many(thread: int) -> None:
        for number in range(125):
            it.register(f"http://{thread}.example/{number}", ["e"], None, anyone)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(register_many, range(8)))
    os.utime(file)  # touched
    register(it, C)
    os.replace(shutil.copy(file, tmp_path / "copy"), file)
    register(it, D)
    in_place(file, json.dumps(json.loads(file.read_text())[::-1], indent=4))
    it.unregister(A["url"], A["event"], anyone)
    for failing in (1, 2):
        disk.fail(lambda number, failing=failing: number == failing)  # type: ignore[misc]
        with pytest.raises(StoreError):
            register(it, A)
    disk.mend()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StoreError):
            register(it, A)
    register(it, A)
    in_place(file, text_of(B))
    it = opened(said.append)  # a start reads an edit
    register(it, C)
    assert file.read_text() == text_of(B, C)
    assert said == [] and {path.name for path in tmp_path.iterdir()} == {"webhooks.json", "webhooks.lock"}
