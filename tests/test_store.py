"""What survives: kill -9, a full disk, sixty-four clients at once, and people who edit files by hand."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import SECONDS, Client, Pair, Program, eventually, held, request

import journal as journal_module
from checks import url_problem
from durable import StoreError
from journal import Journal
from store import WebhookStore

SECRETS = ["whsec_" + letter * 32 for letter in "ABC"]
A, B, C, D = ENTRIES = [
    {"url": "http://a.example/", "event": "payment_received"},
    {"url": "http://b.example/?x=%22", "event": "payment_received"},
    {"url": "http://a.example/", "event": "invoice_completed"},
    {"url": "https://c.example:8443/d", "event": "payment_processed"},
]
GOOD = json.dumps(A)


def anyone(secret: str | None) -> None:
    """A permit for everybody."""


def nobody(secret: str | None) -> None:
    raise PermissionError("not yours")


def no_sync(descriptor: int) -> None:
    """An fsync for tests that are about something else."""


def text_of(*entries: dict[str, str]) -> str:
    """webhooks.json with these entries, as it is always written."""
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n" if entries else "[]\n"


def register(it: WebhookStore, *entries: dict[str, str], secret: str | None = None) -> None:
    for entry in entries:
        it.register(entry["url"], [entry["event"]], secret, anyone)


def temporary(folder: Path) -> list[Path]:
    return list(folder.glob("*.tmp"))


class Disk:
    """An fsync that can be held back, that can fail, and that counts."""

    def __init__(self) -> None:
        self.count = 0
        self.asked, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.failing: Callable[[int], bool] = lambda number: False  # gets the number of the call since `fail`
        self._since = 0

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        self.asked.set()
        self.gate.wait()
        self._since += 1
        if self.failing(self._since):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hold(self) -> None:
        self.asked.clear()
        self.gate.clear()

    def fail(self, when: Callable[[int], bool] = lambda number: True) -> None:
        self._since, self.failing = 0, when

    def mend(self) -> None:
        self.failing = lambda number: False


@pytest.fixture
def disk() -> Iterator[Disk]:
    it = Disk()
    with held(it.gate):
        yield it


@pytest.fixture
def opened(tmp_path: Path, disk: Disk) -> Iterator[Callable[[], WebhookStore]]:
    """Opens tmp_path/webhooks.json, after closing what was opened before; its fsync is `disk`."""
    last: list[WebhookStore] = []

    def open_again() -> WebhookStore:
        for it in last:
            it.close()
        last[:] = [WebhookStore(tmp_path / "webhooks.json", url_problem, disk)]
        return last[0]

    yield open_again
    for it in last:
        it.close()


def together(disk: Disk, first: Callable[[], Any], *others: Callable[[], Any]) -> list[Future[Any]]:
    """Call `first`, and while the disk makes it wait, all the others."""
    disk.hold()
    barrier = threading.Barrier(len(others) + 1)

    def call(function: Callable[[], Any]) -> Any:
        barrier.wait(SECONDS)
        return function()

    with ThreadPoolExecutor(len(others) + 1) as pool, held(disk.gate):
        futures = [pool.submit(first)]
        assert disk.asked.wait(SECONDS)
        futures += [pool.submit(call, other) for other in others]
        barrier.wait(SECONDS)
        threading.Event().wait(0.1)  # they are on their way to the queue, which nobody can see from here
    return futures


# --- webhooks.json: what is in the file -----------------------------------------------------------------------


def test_the_file_has_an_entry_a_line(tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    it, file = opened(), tmp_path / "webhooks.json"
    assert file.read_text() == "[]\n"
    for number in range(len(ENTRIES)):
        register(it, ENTRIES[number])
        assert file.read_text() == text_of(*ENTRIES[: number + 1])
    register(it, *ENTRIES)
    assert file.read_text() == text_of(*ENTRIES)


@pytest.mark.parametrize(
    "text, entries",
    [
        ("", []),
        ("[]", []),
        (" [\n\n] ", []),
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
    assert file.read_text() == text_of(*entries, new)  # in their order
    assert opened().count() == len(entries) + 1


@pytest.mark.parametrize(
    "text, line, reason",
    [
        ("nonsense", 1, "not JSON"),
        ("  \n", 2, "not JSON"),
        ("{}", 1, "not a list"),
        (GOOD, 1, "not a list"),
        ("null", 1, "not a list"),
        ("[1]", 1, "not an entry"),
        ("[null]", 1, "not an entry"),
        ("[[]]", 1, "not an entry"),
        (f"[\n{GOOD},\n\n  {{}}]", 4, "not an entry"),
        (f"[\n{GOOD},\n{GOOD[:-1]}", 3, "not JSON"),
        (f"[\n{GOOD},\n]\n", 3, "not JSON"),
        (f"[\n{GOOD}\n]\n[]", 4, "not JSON"),
        (f'[{GOOD},\n{{"url": "http://b.example/"}}]', 2, "not an entry"),
        ('[\n{"url": "http://b.example/", "event": "e", "secret": "s"}]', 2, "not an entry"),
        ('[\n{"url": ["http://b.example/"], "event": "e"}]', 2, "not an entry"),
        ('[\n{"url": "http://b.example/", "event": null}]', 2, "not an entry"),
        ('[\n\n{"url": "ftp://b.example/", "event": "e"}]', 3, "http or https"),
        ('[\n{"url": "http://b.example/\\u001b", "event": "e"}]', 2, "visible ASCII"),
        ('[\n{"url": "http://b.example/\\ud800", "event": "e"}]', 2, "visible ASCII"),
        ("[" * 100_000, 1, "not JSON"),
        ("[1" + "0" * 5_000 + "]", 1, "not "),
        ("\udcff", 1, "cannot be read"),
    ],
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


def test_a_place_where_nothing_can_be_written_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / "missing" / "webhooks.json"))):
        WebhookStore(tmp_path / "missing" / "webhooks.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(StoreError, match="folder.json"):
        WebhookStore(tmp_path / "folder.json")


@pytest.mark.parametrize("position", range(4))
def test_one_entry_is_taken_out_wherever_it_stands(
    position: int, tmp_path: Path, opened: Callable[[], WebhookStore]
) -> None:
    it = opened()
    register(it, *ENTRIES)
    gone = ENTRIES[position]
    left = [entry for entry in ENTRIES if entry is not gone]
    assert it.unregister(gone["url"], gone["event"], anyone) == 1
    assert it.unregister(gone["url"], gone["event"], nobody) == 0
    assert (tmp_path / "webhooks.json").read_text() == text_of(*left)
    assert not it.registered(gone["url"], gone["event"]) and it.count() == 3
    assert sorted(opened().webhooks(), key=str) == sorted(left, key=str)


def test_taking_out_the_only_entry_leaves_an_empty_list(tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    it = opened()
    register(it, A)
    assert it.unregister(A["url"], A["event"], anyone) == 1
    assert (tmp_path / "webhooks.json").read_text() == "[]\n"
    register(it, B, A)
    assert (tmp_path / "webhooks.json").read_text() == text_of(B, A)
    assert it.unregister_all(A["url"]) == 1 and it.unregister_all(B["url"]) == 1 and it.unregister_all("http://x/") == 0
    assert opened().webhooks() == [] and not opened().has(A["url"])


# --- webhooks.json: many at once ------------------------------------------------------------------------------


def test_those_who_come_together_share_a_replacement(opened: Callable[[], WebhookStore], disk: Disk) -> None:
    it = opened()
    before = disk.count
    calls = [lambda n=n: it.register(f"http://h{n}.example/", ["e", "f"], None, anyone) for n in range(64)]
    for future in together(disk, *calls):
        future.result()
    assert disk.count - before <= 16  # alone each of them would take 2: the file and its directory
    assert it.count() == opened().count() == 128


def test_a_change_that_is_refused_does_not_stop_the_others(opened: Callable[[], WebhookStore], disk: Disk) -> None:
    it = opened()
    futures = together(
        disk,
        lambda: it.register("http://1.example/", ["e"], None, anyone),
        lambda: it.register("http://2.example/", ["e"], None, anyone),
        lambda: it.register("http://3.example/", ["e"], SECRETS[0], nobody),
        lambda: it.unregister("http://1.example/", "e", nobody),
        lambda: it.register("http://4.example/", ["e"], None, anyone),
    )
    assert [bool(future.exception()) for future in futures] == [False, False, True, True, False]
    urls = {f"http://{n}.example/" for n in (1, 2, 4)}
    assert set(it.urls_for("e")) == set(opened().urls()) == urls
    assert opened().secret("http://3.example/") is None


def test_a_disk_that_refuses_refuses_the_whole_group(opened: Callable[[], WebhookStore], disk: Disk) -> None:
    it = opened()
    disk.fail()
    calls = [lambda n=n: it.register(f"http://h{n}.example/", ["e"], None, anyone) for n in range(8)]
    assert {type(future.exception()) for future in together(disk, *calls)} == {StoreError}
    disk.mend()
    assert it.count() == opened().count() == 0


def test_what_is_there_already_costs_nothing_and_needs_no_permit(
    opened: Callable[[], WebhookStore], disk: Disk
) -> None:
    it = opened()
    register(it, A, secret=SECRETS[0])
    before = disk.count
    it.register(A["url"], [A["event"]], SECRETS[0], nobody)
    assert it.unregister(A["url"], "another", nobody) == 0
    assert disk.count == before


def test_registrations_that_were_answered_survive_kill_9(tmp_path: Path) -> None:
    answered: list[str] = []

    def client(number: int, port: int) -> None:
        try:
            with Client(port) as it:
                for again in range(50):
                    url = f"http://h{number}.example/{again}"
                    body = json.dumps({"url": url, "event_types": ["payment_received"]}).encode()
                    if it.ask(request("POST", "/webhooks/register", body)).status == 200:
                        answered.append(url)
        except (OSError, EOFError):
            pass  # killed

    with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
        port = exposee.port
        clients = [threading.Thread(target=client, args=(number, port)) for number in range(64)]
        for thread in clients:
            thread.start()
        eventually(lambda: len(answered) >= 200, "200 registrations")
        assert exposee.stop(signal.SIGKILL) == -signal.SIGKILL
        for thread in clients:
            thread.join(SECONDS)
    entries = json.loads((tmp_path / "webhooks.json").read_text())
    assert set(answered) <= {entry["url"] for entry in entries}
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee, Client(exposee.port) as again:
        assert len(again.ask(request("GET", "/webhooks")).json()["webhooks"]) == len(entries)


def change(pair: Pair, what: str) -> bytes:
    if what == "register":
        body = {"url": B["url"], "event_types": [B["event"]]}
        return request("POST", "/webhooks/register", json.dumps(body).encode())
    return request("DELETE", "/webhooks/unregister", json.dumps(A).encode())


@pytest.mark.parametrize("what", ["register", "unregister"])
def test_no_200_leaves_before_the_disk_has_it(what: str, tmp_path: Path, disk: Disk) -> None:
    with Pair(tmp_path, fsync=disk) as pair, held(disk.gate), pair.client() as client:
        pair.register(A["url"], A["event"])
        disk.hold()
        client.send(change(pair, what))
        assert disk.asked.wait(SECONDS)
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(SECONDS)
        disk.gate.set()
        assert client.receive().status == 200


# --- webhooks.json: a full disk -------------------------------------------------------------------------------


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FAILURES = ["every fsync", "fsync 1", "fsync 2", "os.replace", "os.open", "os.fchmod"]
MORE = ["fsync 3", "fsync 4"]  # where there are two files to write, each of them and then its directory


@pytest.mark.parametrize(
    "what, failure", [*(("register", it) for it in FAILURES + MORE), *(("unregister", it) for it in FAILURES)]
)
def test_a_full_disk_is_a_503_and_changes_nothing(
    what: str, failure: str, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pair(tmp_path, fsync=disk) as pair:
        for entry in (C, A):
            pair.register(entry["url"], entry["event"])
        ask: tuple[str, str, Any]
        if what == "register":
            ask = ("POST", "/webhooks/register", {"url": B["url"], "event_types": [B["event"]], "secret": SECRETS[0]})
        else:
            ask = ("DELETE", "/webhooks/unregister", A)
        before = pair.call("GET", "/webhooks").json(), (tmp_path / "webhooks.json").read_bytes()
        with monkeypatch.context() as patch:
            if "fsync" in failure:
                number = failure.split()[1] if failure[-1].isdigit() else ""
                disk.fail(lambda n: not number or n == int(number))
            else:
                patch.setattr(failure, full)
            refused = pair.call(*ask)
            disk.mend()
        assert refused.status == 503 and "No space left on device" in refused.json()["detail"]
        assert "retry-after" in refused.headers
        after = pair.call("GET", "/webhooks").json(), (tmp_path / "webhooks.json").read_bytes()
        assert sorted(after[0]["webhooks"], key=str) == sorted(before[0]["webhooks"], key=str)
        assert after[1] == before[1]
        assert pair.store.secret(B["url"]) is None and temporary(tmp_path) == []
        assert pair.call(*ask).status == 200
    entries = json.loads((tmp_path / "webhooks.json").read_text())
    assert sorted(entries, key=str) == sorted([C, A, B] if what == "register" else [C], key=str)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, with 32 KiB taken by a file `ballast`."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only root can mount a small file system")
    try:
        (folder / "ballast").write_bytes(b"x" * 32_768)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=SECONDS)


def test_after_closing_a_registration_is_refused(tmp_path: Path) -> None:
    """Another exposee may have the files by then."""
    it = WebhookStore(tmp_path / "webhooks.json", fsync=no_sync)
    register(it, A)
    it.close()
    with pytest.raises(StoreError, match="shutting down"):
        register(it, B)
    assert not it.has(B["url"]) and (tmp_path / "webhooks.json").read_text() == text_of(A)


def test_a_disk_that_is_really_full_keeps_the_webhooks(small_disk: Path) -> None:
    file = small_disk / "webhooks.json"
    it = WebhookStore(file)
    with pytest.raises(StoreError, match="No space left on device"):
        for number in range(1_000):
            it.register(f"http://h{number}.example/" + "x" * 200, ["e"], None, anyone)
    assert json.loads(file.read_text()) == it.webhooks() != []
    assert temporary(small_disk) == []
    (small_disk / "ballast").unlink()
    register(it, A)
    assert json.loads(file.read_text()) == it.webhooks() and it.registered(A["url"], A["event"])
    it.close()


# --- secrets --------------------------------------------------------------------------------------------------


def test_secrets_have_a_file_of_their_own(tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    it, file = opened(), tmp_path / "webhooks.secrets.json"
    register(it, A, B)
    assert not file.exists()
    register(it, C, secret=SECRETS[0])
    assert json.loads(file.read_text()) == {C["url"]: SECRETS[0]}
    assert (tmp_path / "webhooks.json").read_text() == text_of(A, B, C)
    if os.name != "nt":
        assert file.stat().st_mode & 0o777 == 0o600
    register(it, A, secret=SECRETS[1])
    it = opened()
    assert (it.secret(A["url"]), it.secret(B["url"])) == (SECRETS[1], None)


def test_a_secret_is_stored_before_the_entry_it_belongs_to(
    opened: Callable[[], WebhookStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    it, names, replace = opened(), [], os.replace

    def record(source: str, target: Path) -> None:
        names.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    register(it, A, secret=SECRETS[0])
    assert names == ["webhooks.secrets.json", "webhooks.json"]
    names.clear()
    it.unregister(A["url"], A["event"], anyone)
    assert names[-2:] == ["webhooks.json", "webhooks.secrets.json"]  # and is forgotten after it


def test_a_secret_that_was_refused_is_not_found_after_a_restart(
    tmp_path: Path, opened: Callable[[], WebhookStore], disk: Disk
) -> None:
    """It is on the disk before the entry that is then refused: and goes, if not at once, with the next change."""
    it = opened()
    register(it, A, secret=SECRETS[0])
    disk.fail(lambda number: number > 2)  # the secrets and their directory are fine, webhooks.json is not
    with pytest.raises(StoreError):
        register(it, C, secret=SECRETS[1])
    disk.mend()
    assert it.secret(A["url"]) == SECRETS[0]
    register(it, B)
    assert json.loads((tmp_path / "webhooks.secrets.json").read_text()) == {A["url"]: SECRETS[0]}
    assert opened().secret(A["url"]) == SECRETS[0]


def test_a_secret_is_forgotten_with_the_last_event_of_its_url(
    tmp_path: Path, opened: Callable[[], WebhookStore]
) -> None:
    it = opened()
    register(it, A, C, D, secret=SECRETS[0])
    it.unregister(A["url"], A["event"], anyone)
    assert it.secret(A["url"]) == SECRETS[0]
    it.unregister(C["url"], C["event"], anyone)
    assert it.secret(A["url"]) is None
    assert json.loads((tmp_path / "webhooks.secrets.json").read_text()) == {D["url"]: SECRETS[0]}
    assert opened().secret(D["url"]) == SECRETS[0]


def test_a_stale_secret_is_not_inherited(tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    (tmp_path / "webhooks.secrets.json").write_text(json.dumps({A["url"]: SECRETS[0]}))  # left by a crash
    it = opened()
    assert it.secret(A["url"]) is None
    register(it, A)  # by somebody else, who has no secret
    assert it.secret(A["url"]) is None
    assert opened().secret(A["url"]) is None


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"http://a.example/": 1}', "\udcff"])
def test_another_secrets_file_stops_the_start(text: str, tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    file = tmp_path / "webhooks.secrets.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError, match=re.escape(f"{file}, line 1: ")):
        opened()
    assert file.read_bytes() == text.encode("utf-8", "surrogateescape")


# --- one owner, and what it costs -----------------------------------------------------------------------------


def test_a_second_exposee_on_one_store_refuses_to_start(tmp_path: Path) -> None:
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as first:
        assert first.port
        with pytest.raises(StoreError, match="another exposee has it"):
            WebhookStore(tmp_path / "webhooks.json")
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as second:
            assert second.wait() == 2
            assert len(second.lines) == 1 and "another exposee has it" in second.lines[0]
        first.stop(signal.SIGKILL)  # the lock goes with its owner, however it ended
    WebhookStore(tmp_path / "webhooks.json").close()


def test_a_change_costs_the_same_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formatted is only what changes; the rest is one write of bytes that are there already."""
    formatted, dumps = [0], json.dumps

    def count(value: Any, **options: Any) -> str:
        text = dumps(value, **options)
        formatted[0] += len(text)
        return text

    def cost(size: int) -> tuple[int, float]:
        file = tmp_path / f"{size}.json"
        file.write_text(text_of(*({"url": f"http://h{n:05}.example/", "event": "e"} for n in range(size))))
        it = WebhookStore(file, fsync=no_sync)
        formatted[0], began = 0, time.thread_time()
        for number in range(20):
            it.register(f"http://new{number:02}.example/", ["e"], None, anyone)
            it.unregister(f"http://h{size // 2 + number:05}.example/", "e", anyone)
        spent = time.thread_time() - began
        it.close()
        assert len(json.loads(file.read_text())) == size
        return formatted[0], spent

    monkeypatch.setattr(json, "dumps", count)
    small, large = cost(100), cost(20_000)
    assert small[0] == large[0] < 20_000
    assert large[1] < 40 * 0.025  # seconds of CPU: formatting 20,000 entries takes more


# --- deliveries.jsonl -----------------------------------------------------------------------------------------


def nothing() -> None:
    """What is called when a record is accepted."""


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


def test_records_are_read_in_the_order_they_were_written(journal: Journal) -> None:
    assert list(journal.read()) == []
    for number in range(5):
        journal.commit(record(number), nothing)
    assert list(journal.read()) == [{"number": number} for number in range(5)]
    assert journal.path.read_bytes() == b"".join(map(record, range(5)))


def test_a_commit_waits_for_the_disk(journal: Journal, disk: Disk) -> None:
    disk.hold()
    accepted, returned = threading.Event(), threading.Event()

    def commit() -> None:
        journal.commit(record(1), accepted.set)
        returned.set()

    thread = threading.Thread(target=commit)
    thread.start()
    assert disk.asked.wait(SECONDS)
    assert journal.path.read_bytes() == record(1)
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
    journal.note(record(1))
    journal.note(record(2))
    assert numbers(journal.path) == []
    journal.flush()
    assert numbers(journal.path) == [1, 2] and disk.count == before
    journal.note(record(3))
    journal.commit(record(4), nothing)
    assert numbers(journal.path) == [1, 2, 3, 4] and disk.count == before + 1


def test_after_closing_a_commit_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deliveries.jsonl", no_sync)
    journal.note(record(0))
    journal.close()
    assert numbers(journal.path) == [0]
    with pytest.raises(StoreError):
        journal.commit(record(1), nothing)
    assert numbers(journal.path) == [0]


@pytest.mark.parametrize("tail", [b"{", b'{"number": 3', b'{"number": 3}', b"\0\0\0\0", b'{"number": \n', b"\xff\xfe"])
def test_a_torn_last_line_is_dropped_with_one_warning(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "deliveries.jsonl"
    path.write_bytes(record(1) + record(2) + tail)
    journal = Journal(path, no_sync)
    assert [it["number"] for it in journal.read()] == [1, 2]
    assert journal.warning and journal.warning.startswith(f"{path}, line 3: ")
    assert path.read_bytes() == record(1) + record(2)
    journal.commit(record(4), nothing)
    journal.close()
    assert numbers(path) == [1, 2, 4]


@pytest.mark.parametrize("broken", [b"nonsense\n", b"[]\n", b"1\n", b"\n", b'{"a"\n', b"\xff\n", b"[" * 99_999 + b"\n"])
def test_a_broken_line_elsewhere_stops_the_start_and_is_left_alone(broken: bytes, tmp_path: Path) -> None:
    path = tmp_path / "deliveries.jsonl"
    path.write_bytes(data := record(1) + broken + record(2))
    journal = Journal(path, no_sync)
    with pytest.raises(StoreError, match=re.escape(f"{path}, line 2: ")):
        list(journal.read())
    journal.close()
    assert path.read_bytes() == data


def test_two_stores_in_one_folder_do_not_share_a_journal(tmp_path: Path) -> None:
    """The second exposee would cut what the first one appends, and the first one what the second one does."""
    journal = Journal(tmp_path / "deliveries.jsonl", no_sync)
    with pytest.raises(StoreError, match="deliveries.jsonl: another exposee has it"):
        Journal(tmp_path / "deliveries.jsonl", no_sync)
    journal.close()
    Journal(tmp_path / "deliveries.jsonl", no_sync).close()


@pytest.mark.parametrize("name, line", [("webhooks.json", 2), ("deliveries.jsonl", 2)])
def test_the_program_says_in_one_line_which_file_stops_it(name: str, line: int, tmp_path: Path) -> None:
    text = f"[{GOOD},\nnonsense" if name == "webhooks.json" else '{"a": 1}\nnonsense\n{"a": 1}\n'
    if name != "webhooks.json":
        text = text.replace('{"a": 1}', '{"delivery": "dlv_unknown_0", "state": "delivered"}')
    (tmp_path / name).write_text(text)
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
        assert exposee.wait() == 2
    assert len(exposee.lines) == 1 and f"{name}, line {line}: " in exposee.lines[0]
    assert (tmp_path / name).read_text() == text


# --- deliveries.jsonl on a full disk --------------------------------------------------------------------------


def test_a_commit_that_fails_leaves_nothing_behind(journal: Journal, disk: Disk) -> None:
    journal.commit(record(0), nothing)
    accepted: list[int] = []
    disk.fail()
    calls = [lambda n=n: journal.commit(record(n), lambda: accepted.append(n)) for n in range(1, 9)]
    assert {type(future.exception()) for future in together(disk, *calls)} == {StoreError}
    assert accepted == [] and numbers(journal.path) == [0]
    disk.mend()
    journal.commit(record(9), nothing)
    assert numbers(journal.path) == [0, 9]


@contextlib.contextmanager
def torn(journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record 0 is written, record 1 is refused, and what there is of it cannot be cut off inside of this."""
    journal.commit(record(0), nothing)
    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", full)
        disk.fail()
        with pytest.raises(StoreError, match="No space left on device"):
            journal.commit(record(1), nothing)
        disk.mend()
        yield


def test_what_could_not_be_cut_off_at_once_is_cut_off_later(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torn(journal, disk, monkeypatch):
        pass
    journal.commit(record(2), nothing)
    assert numbers(journal.path) == [0, 2]


def test_nothing_is_appended_to_what_could_not_be_cut_off(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torn(journal, disk, monkeypatch):
        journal.note(record(2))
        with pytest.raises(StoreError, match="No space left on device"):
            journal.commit(record(3), nothing)
    journal.commit(record(4), nothing)
    assert numbers(journal.path) == [0, 2, 4]


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
        journal.note(record(number, 1_000))
        noted.append(number)
        journal.flush()
    assert numbers(path)[: len(accepted)] == accepted
    with pytest.raises(StoreError):
        journal.commit(record(3_000, 1_000), nothing)
    (small_disk / "ballast").unlink()
    journal.commit(record(4_000, 1_000), nothing)
    journal.close()
    assert numbers(path) == [*accepted, *noted, 4_000]  # the notes have waited


# --- deliveries.jsonl: compaction -----------------------------------------------------------------------------


@pytest.fixture
def grown(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journal that has grown enough to be compacted: records 0 to 99."""
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 1_000)
    for number in range(100):
        journal.note(record(number))
    journal.flush()
    return journal


def test_a_journal_that_has_grown_is_replaced(grown: Journal) -> None:
    def records() -> Iterable[bytes]:
        yield record(98)
        grown.note(record(100))  # happens meanwhile
        yield record(99)

    grown.compact(records)
    assert grown.path.read_bytes() == record(98) + record(99)
    grown.commit(record(101), nothing)
    assert numbers(grown.path) == [98, 99, 100, 101]
    assert temporary(grown.path.parent) == []


def test_a_journal_is_compacted_again_only_after_it_has_doubled(grown: Journal) -> None:
    asked: list[int] = []

    def records() -> Iterable[bytes]:
        asked.append(1)
        return [record(number) for number in range(80)]

    for _ in range(3):
        grown.compact(records)
    assert len(asked) == 1
    grown.commit(record(100, grown.path.stat().st_size), nothing)
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
    grown.commit(record(100), nothing)
    assert numbers(grown.path) == list(range(101))
    assert temporary(grown.path.parent) == []


def test_nobody_commits_while_the_journal_is_replaced(grown: Journal, disk: Disk) -> None:
    """Else a record would go to the file that is about to be thrown away."""
    with ThreadPoolExecutor(2) as pool, held(disk.gate):
        disk.hold()
        compaction = pool.submit(grown.compact, lambda: map(record, range(100)))
        assert disk.asked.wait(SECONDS)
        commit = pool.submit(grown.commit, record(100), nothing)
        disk.gate.set()
        compaction.result(SECONDS)
        commit.result(SECONDS)
    assert numbers(grown.path) == list(range(101))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="sees open files in /proc")
def test_no_file_is_open_when_it_is_replaced(
    grown: Journal, opened: Callable[[], WebhookStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to replace an open file, and to rename one."""
    replace = os.replace
    replaced: list[str] = []

    def replace_as_windows_does(source: str, target: Path) -> None:
        files = {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}
        if files & {os.path.realpath(source), os.path.realpath(target)}:
            raise PermissionError(errno.EACCES, "open in this process")
        replaced.append(Path(target).name)
        replace(source, target)

    it = opened()
    monkeypatch.setattr(os, "replace", replace_as_windows_does)
    register(it, A, secret=SECRETS[0])
    grown.compact(lambda: map(record, range(100)))
    grown.commit(record(100), nothing)
    assert replaced == ["webhooks.secrets.json", "webhooks.json", "deliveries.jsonl"]
    assert numbers(grown.path) == list(range(101))


# --- a removal that the disk has not agreed to --------------------------------------------------------------------


def test_a_webhook_counts_until_the_disk_has_agreed_to_its_end(tmp_path: Path) -> None:
    """Else deliveries that wait would be cancelled for an unregistration that is then refused."""
    url, seen, refuse = "http://a.example/", list[tuple[bool, bool]](), [True]

    def fsync(descriptor: int) -> None:
        seen.append((store.registered(url, "e"), store.has(url)))
        if refuse[0]:
            raise OSError(errno.ENOSPC, "No space left on device")

    store = WebhookStore(tmp_path / "webhooks.json", fsync=os.fsync)
    store.register(url, ["e"], None, anyone)
    store.close()
    refuse[0] = False
    store = WebhookStore(tmp_path / "webhooks.json", fsync=fsync)
    refuse[0] = True
    with pytest.raises(StoreError):
        store.unregister(url, "e", anyone)
    assert store.registered(url, "e") and seen
    refuse[0] = False
    assert store.unregister(url, "e", anyone) == 1
    assert set(seen) == {(True, True)} and not store.registered(url, "e") and not store.has(url)
    store.close()


def test_a_secret_without_a_webhook_stays_when_its_registration_is_refused(tmp_path: Path, disk: Disk) -> None:
    file = tmp_path / "webhooks.secrets.json"
    file.write_text('{"http://typo.example/": "whsec_old"}')
    store = WebhookStore(tmp_path / "webhooks.json", fsync=disk)
    disk.fail()
    with pytest.raises(StoreError):
        store.register("http://typo.example/", ["e"], None, anyone)
    disk.mend()
    store.register("http://b.example/", ["e"], "whsec_new", anyone)
    store.close()
    assert json.loads(file.read_text()) == {"http://typo.example/": "whsec_old", "http://b.example/": "whsec_new"}
