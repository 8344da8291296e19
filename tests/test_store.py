"""webhooks.json and the secrets: kill -9, a failing disk and sixty-four clients at once."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import json
import os
import re
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from disks import Disk, Faults, full, together
from stores import ENTRIES, SECRETS, A, B, C, D, anyone, nobody, register, text_of
from support import ROOT, SECONDS, Client, Clock, Pair, Program, eventually, held, no_sync, request

import store as store_module
from durable import StoreError
from store import WebhookStore


def temporary(folder: Path) -> list[Path]:
    return list(folder.glob("*.tmp"))


# --- webhooks.json: what is in the file -----------------------------------------------------------------------


def test_the_file_has_an_entry_a_line(tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    it, file = opened(), tmp_path / "webhooks.json"
    assert file.read_text() == "[]\n"
    for number in range(len(ENTRIES)):
        register(it, ENTRIES[number])
        assert file.read_text() == text_of(*ENTRIES[: number + 1])
    register(it, *ENTRIES)
    assert file.read_text() == text_of(*ENTRIES)


def test_a_place_where_nothing_can_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=re.escape(f"{tmp_path / 'file'}: cannot be made a folder: ")):
        WebhookStore(tmp_path / "file" / "webhooks.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(StoreError, match="folder.json"):
        WebhookStore(tmp_path / "folder.json")


def test_a_missing_folder_is_made_once_the_port_is_bound(tmp_path: Path) -> None:
    file = tmp_path / "some" / "new" / "folder" / "webhooks.json"
    with Program("exposee.py", "--port", "0", "--store", "some/new/folder/webhooks.json", cwd=tmp_path) as exposee:
        with Client(exposee.port) as client:
            body = {"url": A["url"], "event_types": [A["event"]]}
            assert client.ask(request("POST", "/webhooks/register", json.dumps(body).encode())).status == 200
            assert file.read_text() == text_of(A)
            file.write_text(text_of(D))
            body["event_types"] = [C["event"]]
            assert client.ask(request("POST", "/webhooks/register", json.dumps(body).encode())).status == 200
        assert "webhooks.json was edited" in exposee.wait_for("webhooks.edited-1.json")
        taken = str(exposee.port)
        with Program("exposee.py", "--port", taken, "--store", "other/webhooks.json", cwd=tmp_path) as second:
            assert second.wait() == 2 and not (tmp_path / "other").exists()
    with Program("exposee.py", "--port", "0", "--store", "some/new/folder/webhooks.json/x.json", cwd=tmp_path) as third:
        assert third.wait() == 2
    assert len(third.lines) == 1 and f"{file}: " in third.lines[0]


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
    assert it.unregister_urls([A["url"], "http://x/", B["url"], A["url"]]) == 2 and it.unregister_urls([]) == 0
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
    assert opened().secrets("http://3.example/") == []


def test_a_change_that_is_refused_leaves_nothing_for_the_search_for_cycles(opened: Callable[[], WebhookStore]) -> None:
    class Refusal(Exception):
        pass

    known: list[weakref.ref[Refusal]] = []

    def refuse(secret: str | None) -> None:
        refusal = Refusal()
        known.append(weakref.ref(refusal))
        raise refusal

    it = opened()
    gc.disable()
    try:
        with contextlib.suppress(Refusal):
            it.register("http://1.example/", ["e"], None, refuse)
        assert known[0]() is None
    finally:
        gc.enable()


def test_a_disk_that_refuses_refuses_the_whole_group(opened: Callable[[], WebhookStore], disk: Disk) -> None:
    it = opened()
    disk.fail()
    calls = [lambda n=n: it.register(f"http://h{n}.example/", ["e"], None, anyone) for n in range(8)]
    assert {type(future.exception()) for future in together(disk, *calls)} == {StoreError}
    disk.mend()
    assert it.count() == opened().count() == 0


def test_what_is_there_already_costs_nothing_and_needs_no_secret(
    opened: Callable[[], WebhookStore], disk: Disk
) -> None:
    def unprotected(secret: str | None) -> None:
        assert secret is None

    it = opened()
    register(it, A, secret=SECRETS[0])
    before = disk.count
    it.register(A["url"], [A["event"]], SECRETS[0], unprotected)
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
        client.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(SECONDS)
        disk.gate.set()
        assert client.receive().status == 200


# --- webhooks.json: a full disk -------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["every fsync", "fsync 2", "os.replace"])
@pytest.mark.parametrize("what", ["register", "unregister"])
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
        assert pair.store.secrets(B["url"]) == [] and temporary(tmp_path) == []
        assert pair.call(*ask).status == 200
    entries = json.loads((tmp_path / "webhooks.json").read_text())
    assert sorted(entries, key=str) == sorted([C, A, B] if what == "register" else [C], key=str)


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
    assert (it.secrets(A["url"]), it.secrets(B["url"])) == (SECRETS[1::-1], [])


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
    assert it.secrets(A["url"]) == [SECRETS[0]]
    register(it, B)
    assert json.loads((tmp_path / "webhooks.secrets.json").read_text()) == {A["url"]: SECRETS[0]}
    assert opened().secrets(A["url"]) == [SECRETS[0]]


def test_a_secret_is_forgotten_with_the_last_event_of_its_url(
    tmp_path: Path, opened: Callable[[], WebhookStore]
) -> None:
    it = opened()
    register(it, A, C, D, secret=SECRETS[0])
    it.unregister(A["url"], A["event"], anyone)
    assert it.secrets(A["url"]) == [SECRETS[0]]
    it.unregister(C["url"], C["event"], anyone)
    assert it.secrets(A["url"]) == []
    assert json.loads((tmp_path / "webhooks.secrets.json").read_text()) == {D["url"]: SECRETS[0]}
    assert opened().secrets(D["url"]) == [SECRETS[0]]


def test_a_stale_secret_is_not_inherited(tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    (tmp_path / "webhooks.secrets.json").write_text(json.dumps({A["url"]: SECRETS[0]}))  # left by a crash
    it = opened()
    assert it.secrets(A["url"]) == []
    register(it, A)  # by somebody else, who has no secret
    assert it.secrets(A["url"]) == []
    assert opened().secrets(A["url"]) == []


OTHER_FILES = ["", "nonsense", "[]", '{"http://a.example/": 1}', '{"a": {}}', "\udcff", '{"u": "x", "u": "y"}']


@pytest.mark.parametrize("text", OTHER_FILES)
def test_another_secrets_file_stops_the_start(text: str, tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    file = tmp_path / "webhooks.secrets.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError, match=re.escape(f"{file}")):
        opened()
    assert file.read_bytes() == text.encode("utf-8", "surrogateescape")


KEY = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NO_SECRETS = ["", "whsec_", "whsec_!!!!", "whsec_abc", KEY, f"whsec_{KEY[:-4]}", f"whsec_{KEY * 3}", f"whsec_{KEY}\n"]


@pytest.mark.parametrize("value", [*NO_SECRETS, None, 7, [f"whsec_{KEY}"]], ids=ascii)
def test_a_secret_that_signs_nothing_stops_the_start(value: Any, tmp_path: Path) -> None:
    """An empty one would send unsigned, a broken one would sign with another key; the secret itself is not shown."""
    (tmp_path / "webhooks.json").write_text(text_of(A, B))
    file = tmp_path / "webhooks.secrets.json"
    file.write_text(json.dumps({A["url"]: SECRETS[0], B["url"]: value}))
    with pytest.raises(StoreError) as stopped:
        WebhookStore(tmp_path / "webhooks.json")
    assert str(file) in str(stopped.value) and B["url"] in str(stopped.value) and KEY not in str(stopped.value)
    file.write_text(json.dumps({A["url"]: SECRETS[0], B["url"]: f"whsec_{KEY}"}))
    WebhookStore(tmp_path / "webhooks.json").close()


# --- a secret that is replaced ----------------------------------------------------------------------------------

DAY = 86_400.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rotating(tmp_path: Path, clock: Clock) -> Iterator[Callable[[], WebhookStore]]:
    """Opens the store again and again; in the beginning, A has the first secret, in a file of the plain form."""
    (tmp_path / "webhooks.json").write_text(text_of(A))
    (tmp_path / "webhooks.secrets.json").write_text(json.dumps({A["url"]: SECRETS[0]}))
    with contextlib.ExitStack() as stack:

        def opened() -> WebhookStore:
            stack.close()
            it = WebhookStore(tmp_path / "webhooks.json", clock=clock)
            stack.callback(it.close)
            return it

        yield opened


def secrets_in(folder: Path) -> str:
    return (folder / "webhooks.secrets.json").read_text()


def test_the_old_secret_signs_for_a_day_over_restarts(
    rotating: Callable[[], WebhookStore], tmp_path: Path, clock: Clock
) -> None:
    it = rotating()
    register(it, A, secret=SECRETS[1])
    assert it.secrets(A["url"]) == [SECRETS[1], SECRETS[0]]
    clock.now += DAY - 1
    it = rotating()
    register(it, A, D, secret=SECRETS[1])  # the same once more is no change
    assert it.secrets(A["url"]) == [SECRETS[1], SECRETS[0]] and it.secrets(D["url"]) == [SECRETS[1]]
    clock.now += 1
    assert it.secrets(A["url"]) == [SECRETS[1]] == rotating().secrets(A["url"])


def test_after_a_day_the_next_secret_to_be_stored_removes_the_old_one_from_the_file(
    rotating: Callable[[], WebhookStore], tmp_path: Path, clock: Clock
) -> None:
    it = rotating()
    register(it, A, secret=SECRETS[1])
    clock.now += DAY
    assert SECRETS[0] in secrets_in(tmp_path)
    register(it, B, secret=SECRETS[2])
    assert json.loads(secrets_in(tmp_path)) == {A["url"]: SECRETS[1], B["url"]: SECRETS[2]}
    assert rotating().secrets(A["url"]) == [SECRETS[1]]


def test_a_second_rotation_ends_the_first_secret(rotating: Callable[[], WebhookStore], tmp_path: Path) -> None:
    it = rotating()
    for secret in SECRETS[1:]:
        register(it, A, secret=secret)
    assert it.secrets(A["url"]) == [SECRETS[2], SECRETS[1]] and SECRETS[0] not in secrets_in(tmp_path)
    register(it, A, secret=SECRETS[1])  # back again
    assert rotating().secrets(A["url"]) == [SECRETS[1], SECRETS[2]]


def test_old_secrets_end_with_the_last_webhook(rotating: Callable[[], WebhookStore], tmp_path: Path) -> None:
    it = rotating()
    register(it, A, secret=SECRETS[1])
    it.unregister(A["url"], A["event"], anyone)
    register(it, A, secret=SECRETS[2])  # by somebody else, perhaps
    assert it.secrets(A["url"]) == [SECRETS[2]] == rotating().secrets(A["url"])
    assert json.loads(secrets_in(tmp_path)) == {A["url"]: SECRETS[2]}


def test_a_rotation_that_the_disk_refuses_leaves_the_old_secret(tmp_path: Path, disk: Disk) -> None:
    it = WebhookStore(tmp_path / "webhooks.json", fsync=disk)
    register(it, A, secret=SECRETS[0])
    disk.fail()
    with pytest.raises(StoreError):
        register(it, A, secret=SECRETS[1])
    assert it.secrets(A["url"]) == SECRETS[:1]
    disk.mend()
    it.close()
    assert json.loads(secrets_in(tmp_path)) == {A["url"]: SECRETS[0]}


@pytest.mark.parametrize("former", [[], [SECRETS[1]], [7, 1], ["x", 1], [SECRETS[1], "1"], [SECRETS[1], 1, 7]])
def test_a_former_secret_without_its_end_stops_the_start(former: Any, tmp_path: Path) -> None:
    (tmp_path / "webhooks.json").write_text(text_of(A))
    (tmp_path / "webhooks.secrets.json").write_text(json.dumps({A["url"]: [SECRETS[0], *former]}))
    with pytest.raises(StoreError, match=f"the secret of {A['url']} is not") as stopped:
        WebhookStore(tmp_path / "webhooks.json")
    assert "whsec_B" not in str(stopped.value)


# --- every point at which a disk can fail ---------------------------------------------------------------------


CHANGES: dict[str, Callable[[WebhookStore], object]] = {
    "a webhook": lambda it: register(it, D),
    "a webhook with a secret": lambda it: register(it, D, secret=SECRETS[2]),
    "another secret": lambda it: register(it, A, secret=SECRETS[2]),
    "a URL whose secret was left in the file": lambda it: it.register("http://left.example/", ["e"], None, anyone),
    "one webhook less": lambda it: it.unregister(B["url"], B["event"], anyone),
    "one URL with a secret less": lambda it: it.unregister_urls([A["url"]]),
}


def stored(it: WebhookStore) -> tuple[list[str], dict[str, list[str]]]:
    return sorted(map(str, it.webhooks())), {url: it.secrets(url) for url in it.urls()}


def stored_in(folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    """What a start would find in these files."""
    (folder / "copy").mkdir(exist_ok=True)
    for name in ("webhooks.json", "webhooks.secrets.json"):
        shutil.copy(folder / name, folder / "copy")
    it = WebhookStore(folder / "copy" / "webhooks.json", fsync=no_sync)
    it.close()
    return stored(it)


@pytest.mark.parametrize("end", ["close", "another change"])
@pytest.mark.parametrize("ever_after", [False, True], ids=["fails once", "goes on failing"])
@pytest.mark.parametrize("what", CHANGES)
def test_whatever_fails_what_was_answered_is_stored_and_what_was_refused_is_not(
    what: str, ever_after: bool, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    refused = said_maybe = 0
    edits: list[str] = []
    for point in itertools.count(1):
        (tmp_path / "webhooks.json").write_text(text_of(A, B, C))
        (tmp_path / "webhooks.secrets.json").write_text(
            json.dumps({A["url"]: SECRETS[0], "http://left.example/": SECRETS[1]})
        )
        it = WebhookStore(tmp_path / "webhooks.json", fsync=faults.fsync, log=edits.append)
        expected = stored(it)
        faults.fail(point, ever_after)
        try:
            CHANGES[what](it)
            assert not faults.failing(faults.count), f"point {point} was not noticed"
            expected = stored(it)
        except StoreError as error:
            refused += 1
            said_maybe += "may have been stored" in str(error)
            assert stored(it) == expected
            if "nothing was stored" in str(error):
                faults.failing, failing = lambda number: False, faults.failing
                assert stored_in(tmp_path) == expected, f"point {point}: {error}"
                faults.failing = failing
        hit = faults.count >= point
        faults.mend()
        if end == "another change":
            it.register("http://another.example/", ["e"], None, anyone)
            expected = stored(it)
        else:
            it.close()
        assert stored_in(tmp_path) == expected, f"point {point}"
        it.close()
        assert temporary(tmp_path) == [] or ever_after
        left = json.loads((tmp_path / "webhooks.secrets.json").read_text())
        assert left.keys() - {"http://left.example/"} == {url for url, secrets in expected[1].items() if secrets}
        if not hit:
            break
    assert refused >= 7 and bool(said_maybe) == ever_after and edits == []


@pytest.mark.parametrize("what", CHANGES)
def test_a_crash_at_any_moment_leaves_no_entry_without_its_secret_and_none_with_another_s(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a start would find after each step is what was there, or what was asked for, of each URL."""
    left, seen = "http://left.example/", list[dict[str, list[str]]]()
    (tmp_path / "webhooks.json").write_text(text_of(A, B, C))
    (tmp_path / "webhooks.secrets.json").write_text(json.dumps({A["url"]: SECRETS[0], left: SECRETS[1]}))
    it = WebhookStore(tmp_path / "webhooks.json", fsync=no_sync)
    replace = os.replace

    def rename(source: str, target: Path) -> None:
        replace(source, target)
        if Path(target).parent == tmp_path:
            seen.append(stored_in(tmp_path)[1])

    monkeypatch.setattr(os, "replace", rename)
    CHANGES[what](it)
    it.close()
    rotated = [SECRETS[2], SECRETS[0]] if what == "another secret" else SECRETS[:1]
    allowed: dict[str, list[list[str]]] = {A["url"]: [SECRETS[:1], rotated], left: [[]], B["url"]: [[]]}
    allowed[D["url"]] = [SECRETS[2:] if "with" in what else []]
    assert seen and all(secrets in allowed[url] for found in seen for url, secrets in found.items())


def test_two_failures_leave_no_entry_without_its_secret(tmp_path: Path, disk: Disk) -> None:
    """The second one keeps the store from putting back the old files; then it is killed."""
    maybe = 0
    for pair in itertools.combinations(range(1, 11), 2):
        (tmp_path / "webhooks.json").write_text(text_of(A))
        (tmp_path / "webhooks.secrets.json").write_text(json.dumps({A["url"]: SECRETS[0]}))
        it = WebhookStore(tmp_path / "webhooks.json", fsync=disk)
        disk.fail(pair.__contains__)
        with contextlib.suppress(StoreError):
            register(it, D, secret=SECRETS[2])
            it.close()
            continue
        found = stored_in(tmp_path)[1]
        maybe += D["url"] in found
        assert found.get(D["url"], SECRETS[2:]) == SECRETS[2:] and found[A["url"]] == SECRETS[:1], pair
        disk.mend()
        it.close()
        assert stored_in(tmp_path)[1] == {A["url"]: SECRETS[:1]}, pair
    assert maybe


# --- paths, modes and links -----------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")
def test_a_file_keeps_its_mode_and_a_new_one_honours_the_umask(tmp_path: Path) -> None:
    file, secrets = tmp_path / "webhooks.json", tmp_path / "webhooks.secrets.json"

    def modes() -> tuple[int, int]:
        return file.stat().st_mode & 0o777, secrets.stat().st_mode & 0o777

    before = os.umask(0o027)
    try:
        it = WebhookStore(file, fsync=no_sync)
        register(it, A, secret=SECRETS[0])
        assert modes() == (0o640, 0o600)
        file.chmod(0o604)
        secrets.chmod(0o640)
        Path(f"{secrets}.tmp").touch(0o666)  # left by a crash
        register(it, B, secret=SECRETS[1])
        assert modes() == (0o604, 0o640)
        secrets.unlink()
        register(it, D, secret=SECRETS[2])
        assert modes() == (0o604, 0o600)
        it.close()
    finally:
        os.umask(before)


def test_git_ignores_what_lies_beside_a_store_of_any_name_and_not_the_store() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    parts = ".secrets.json .secrets.json.tmp .json.tmp .edited-1.json .lock .deliveries.jsonl .deliveries.jsonl.tmp"
    for store in ("webhooks", "my.hooks", "deliveries"):
        for part in parts.split():
            assert any(fnmatch(store + part, pattern) for pattern in ignored), store + part
        assert not any(fnmatch(f"{store}.json", pattern) for pattern in ignored)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links of POSIX")
def test_a_link_stays_a_link_and_its_target_has_one_owner(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "one.json").symlink_to(real / "hooks.json")
    (tmp_path / "two.json").symlink_to("one.json")
    it = WebhookStore(tmp_path / "one.json", fsync=no_sync)
    assert it.path == real / "hooks.json"
    for other in (tmp_path / "two.json", real / "hooks.json"):
        with pytest.raises(StoreError, match="another exposee has it"):
            WebhookStore(other)
    register(it, A, secret=SECRETS[0])
    it.close()
    assert (tmp_path / "one.json").is_symlink() and (real / "hooks.json").read_text() == text_of(A)
    assert {path.name for path in real.iterdir()} == {"hooks.json", "hooks.secrets.json", "hooks.lock"}
    again = WebhookStore(tmp_path / "two.json", fsync=no_sync)
    assert again.secrets(A["url"]) == [SECRETS[0]]
    again.close()


def test_a_ring_of_links_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "one.json").symlink_to(tmp_path / "two.json")
    (tmp_path / "two.json").symlink_to(tmp_path / "one.json")
    with pytest.raises(StoreError, match="json"):
        WebhookStore(tmp_path / "one.json")


# --- limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["MAX_WEBHOOKS", "MAX_BYTES"])
def test_beyond_a_limit_a_registration_is_refused_in_words(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[], WebhookStore], disk: Disk
) -> None:
    it = opened()
    register(it, A, B)
    monkeypatch.setattr(store_module, limit, 3 if limit == "MAX_WEBHOOKS" else len(text_of(A, B, C)))
    for events in (["e", "f"], ["x" * 100, "y" * 100]):
        with pytest.raises(StoreError, match="are the limit: unregister some"):
            it.register("http://new.example/", events, SECRETS[0], anyone)
    register(it, C)  # exactly the limit
    register(it, A, B, C, secret=SECRETS[0])  # needs no room
    it.unregister(B["url"], B["event"], anyone)
    calls = [lambda n=n: it.register(f"http://{n}.ex/", ["e"], None, anyone) for n in range(8)]
    results = [future.exception() for future in together(disk, *calls)]
    assert results.count(None) == 1 and len([it for it in results if "are the limit" in str(it)]) == 7
    size = (tmp_path / "webhooks.json").stat().st_size
    assert it.count() == 3 and size <= len(text_of(A, B, C))
    assert opened().count() == 3


def test_the_size_is_the_size_of_the_file(tmp_path: Path, opened: Callable[[], WebhookStore]) -> None:
    """Else MAX_BYTES would let a file grow that then stops the next start."""
    it, file = opened(), tmp_path / "webhooks.json"
    for entry in (*ENTRIES, {"url": 'http://\\".example/', "event": "\u00fc"}):
        register(it, entry)
        assert it._snapshot.size() == file.stat().st_size
    for entry in it.webhooks():
        it.unregister(entry["url"], entry["event"], anyone)
        assert it._snapshot.size() == file.stat().st_size


def test_a_file_that_would_be_beyond_the_limit_when_it_is_written_again_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "webhooks.json").write_text(json.dumps(ENTRIES, separators=(",", ":")))
    monkeypatch.setattr(store_module, "MAX_BYTES", len(text_of(*ENTRIES)) - 1)
    with pytest.raises(StoreError, match="the limit"):
        WebhookStore(tmp_path / "webhooks.json")
    monkeypatch.setattr(store_module, "MAX_BYTES", len(text_of(*ENTRIES)))
    WebhookStore(tmp_path / "webhooks.json").close()


# --- many at once, again --------------------------------------------------------------------------------------


def test_many_urls_that_are_gone_are_one_replacement(opened: Callable[[], WebhookStore], disk: Disk) -> None:
    it = opened()
    calls = [functools.partial(it.register, f"http://h{n}/", ["e", "f"], SECRETS[0], anyone) for n in range(100)]
    for future in together(disk, *calls):
        future.result()
    before = disk.count
    assert it.unregister_urls(f"http://h{n}/" for n in range(1, 99)) == 196
    assert disk.count - before == 4  # webhooks.json and the secrets, each with its directory
    again = opened()
    assert again.urls() == ["http://h0/", "http://h99/"] and again.count() == 4
    assert [again.secrets(url) for url in ("http://h0/", "http://h1/")] == [[SECRETS[0]], []]


def are_waiting(it: WebhookStore, count: int) -> bool:
    return len(it._changes._items) == count


def test_a_url_that_comes_back_in_the_same_group_has_no_old_secret(
    opened: Callable[[], WebhookStore], disk: Disk
) -> None:
    it = opened()
    register(it, A, C, secret=SECRETS[0])
    disk.hold()
    calls = [
        lambda: register(it, B),
        lambda: it.unregister_urls([A["url"]]),
        lambda: register(it, A),
    ]
    with ThreadPoolExecutor(len(calls)) as pool, held(disk.gate):
        for waiting, call in enumerate(calls):
            pool.submit(call)
            assert disk.asked.wait(SECONDS)
            eventually(functools.partial(are_waiting, it, waiting), "waiting")
    assert it.urls_for(A["event"]) == [B["url"], A["url"]] and it.secrets(A["url"]) == []
    assert opened().secrets(A["url"]) == []


# --- one owner, and what it costs -----------------------------------------------------------------------------


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
        for number in range(10):
            it.register(f"http://new{number:02}.example/", ["e"], None, anyone)
            it.unregister(f"http://h{size // 2 + number:05}.example/", "e", anyone)
        spent = time.thread_time() - began
        it.close()
        assert len(json.loads(file.read_text())) == size
        return formatted[0], spent

    monkeypatch.setattr(json, "dumps", count)
    small, large = cost(100), cost(10_000)
    assert small[0] == large[0] < 10_000
    assert large[1] < 20 * 0.01  # seconds of CPU: formatting 10,000 entries takes more


# --- a removal that the disk has not agreed to --------------------------------------------------------------------


def test_a_webhook_counts_until_the_disk_has_agreed_to_its_end(tmp_path: Path) -> None:
    """Else deliveries that wait would be cancelled for an unregistration that is then refused."""
    url, seen, refuse = "http://a.example/", list[tuple[bool, bool]](), [True]

    def fsync(descriptor: int) -> None:
        seen.append((store.registered(url, "e"), store.has(url)))
        if refuse[0]:
            full()

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
    file.write_text(json.dumps({"http://typo.example/": SECRETS[0]}))
    store = WebhookStore(tmp_path / "webhooks.json", fsync=disk)
    disk.fail()
    with pytest.raises(StoreError):
        store.register("http://typo.example/", ["e"], None, anyone)
    disk.mend()
    store.register("http://b.example/", ["e"], SECRETS[1], anyone)
    store.close()
    assert json.loads(file.read_text()) == {"http://typo.example/": SECRETS[0], "http://b.example/": SECRETS[1]}
