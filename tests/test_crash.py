"""What a crash, a full disk or a second exposee may do to the files: real processes on a real disk."""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from support import (
    EVENT,
    JOURNAL,
    NO_CONTENT,
    SECONDS,
    Client,
    Listener,
    Program,
    Response,
    eventually,
    fields,
    mostly_slow,
    request,
)

from journal import MARK


def write_store(folder: Path, *urls: str) -> None:
    """The webhooks, as somebody edits them by hand."""
    (folder / "webhooks.json").write_text(json.dumps([{"url": url, "event": EVENT} for url in urls]), "utf-8")


def trigger(data: object) -> bytes:
    return request("POST", "/trigger", json.dumps({"event": EVENT, "data": data}).encode())


def port_of(exposee: Program) -> int:
    """The port it says that it has; lines about deliveries have other ports."""
    found = re.search(r"Exposee on http://127\.0\.0\.1:(\d+)", exposee.wait_for("Exposee on "))
    assert found
    return int(found[1])


def received(listener: Listener) -> Iterator[str]:
    """The webhook-ids that have come so far."""
    while not listener.requests.empty():
        yield fields(listener.requests.get())["webhook-id"]


# --- kill -9 ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_was_answered_with_202_arrives_whenever_it_is_killed(tmp_path: Path, listener: Listener) -> None:
    """50 kills at random moments under a stream of triggers: at least once, under the id that the 202 had."""
    write_store(tmp_path, listener.url())
    moments, accepted = random.Random(50), list[str]()
    arrived: Counter[str] = Counter()

    def stream(port: int) -> None:
        with suppress(OSError, EOFError, ValueError), Client(port) as client:
            while True:
                answer = client.ask(trigger(len(accepted)))
                assert answer.status == 202, answer
                accepted.append(answer.json()["id"])

    options = ("exposee.py", "--port", "0", "--retry-schedule", "0.1,0.1,0.1")
    for _ in range(50):
        with Program(*options, cwd=tmp_path) as exposee:
            threads = [threading.Thread(target=stream, args=(port_of(exposee),)) for _ in range(3)]
            for thread in threads:
                thread.start()
            threading.Event().wait(moments.uniform(0.05, 0.3))
            exposee.process.kill()
            for thread in threads:
                thread.join(SECONDS)
    with Program(*options, cwd=tmp_path) as exposee:

        def complete() -> bool:
            arrived.update(received(listener))
            return set(accepted) <= arrived.keys()

        assert port_of(exposee)
        eventually(complete, "the arrival of all that was accepted")
        assert exposee.stop() == 0
        arrived.update(received(listener))
    assert len(accepted) > 500
    more = sum(arrived.values()) - len(arrived)
    print(f"50 kills, {len(accepted):,} accepted, {len(arrived):,} arrived, {more / len(arrived):.1%} of them again")


def test_a_client_that_was_not_answered_repeats_its_key_and_makes_no_second_message(tmp_path: Path) -> None:
    """Killed when the message was on the disk and its 202 perhaps on the way."""
    with Listener() as receiver:
        write_store(tmp_path, receiver.url())
        body = json.dumps({"event": EVENT, "data": 1}).encode()
        asked, ids = request("POST", "/trigger", body, Idempotency_Key='"once"'), set()
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee, Client(port_of(exposee)) as client:
            client.send(asked)
            eventually(lambda: b'"once"' in (tmp_path / JOURNAL).read_bytes(), "the record of the message")
            exposee.process.kill()
        for _ in range(2):
            with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee, Client(port_of(exposee)) as client:
                for _ in range(2):
                    answer = client.ask(asked)
                    assert answer.status == 202
                    ids.add(answer.json()["id"])
                eventually(lambda: b'"waiting": 0' in client.ask(request("GET", "/health")).body)
                exposee.process.kill()
        assert set(received(receiver)) == ids and len(ids) == 1


def test_the_first_line_is_the_url_whatever_waits(tmp_path: Path, listener: Listener) -> None:
    """A start with a backlog delivers at once, and says so, but not before it has said where it is."""
    write_store(tmp_path, *(listener.url(f"/{number}") for number in range(50)))
    (tmp_path / JOURNAL).write_bytes(b"".join(record(number, listener.url("/1")) for number in range(500)))
    for _ in range(3):
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
            exposee.wait_for(", delivered")
            assert exposee.lines[0].startswith("Exposee on http://127.0.0.1:")
            exposee.process.kill()


def test_what_was_cancelled_is_not_sent_after_a_kill_when_it_is_registered_again(tmp_path: Path) -> None:
    with Listener(b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n") as receiver:
        write_store(tmp_path, receiver.url())
        body = json.dumps({"url": receiver.url(), "event": EVENT}).encode()
        options = ("exposee.py", "--port", "0", "--retry-schedule", "0.5")
        with Program(*options, cwd=tmp_path) as exposee, Client(port_of(exposee)) as client:
            assert client.ask(trigger("cancelled")).status == 202
            exposee.wait_for("retrying")
            receiver.next()
            assert client.ask(request("DELETE", "/webhooks/unregister", body)).status == 200
            exposee.process.kill()
        receiver.answer = NO_CONTENT
        with Program(*options, cwd=tmp_path) as exposee, Client(port_of(exposee)) as client:
            again = json.dumps({"url": receiver.url(), "event_types": [EVENT]}).encode()
            assert client.ask(request("POST", "/webhooks/register", again)).status == 200
            threading.Event().wait(0.55)  # the retry would have been due
            assert client.ask(trigger("another")).status == 202
            assert b"another" in receiver.next()
            assert exposee.stop() == 0
            assert " 0 deliveries wait in " in exposee.lines[-1]


# --- anything in any order -------------------------------------------------------------------------------------------

EVENTS = (EVENT, "invoice_completed")
STEPS = 30  # of a schedule
UNDER_WAY = 0.05  # seconds after a kill in which requests of the killed process may still be read


class Schedule:
    """Random requests and kills, and what the answers promise: deliveries that are owed, and those that are cancelled.

    `registered` leaves out the URLs that answer 410, because they are unregistered at any time.
    """

    def __init__(self, folder: Path, seed: int, well: Listener, failing: Listener, gone: Listener) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.listeners = {"well": well, "failing": failing, "gone": gone}
        self.urls = [well.url("/well/1"), well.url("/well/2"), well.url("/well/3")]
        self.urls += [failing.url("/failing/1"), failing.url("/failing/2"), gone.url("/gone/1")]
        self.last = self.urls[0], EVENT
        self.registered: set[tuple[str, str]] = set()
        self.events: dict[str, str] = {}  # of each message
        self.owed: set[tuple[str, str]] = set()  # (message, url)
        self.cancelled: dict[tuple[str, str], tuple[int, float]] = {}  # when DELETE was answered: process, Unix time
        self.arrived: list[tuple[int, str, str, int]] = []  # process, message, url, webhook-timestamp
        self.process = 0  # how many were started before this one
        self.start()

    def start(self) -> None:
        options = ("--port", "0", "--retry-schedule", ",".join(["0.1"] * 20))
        self.exposee = Program("exposee.py", *options, cwd=self.folder)
        self.client = Client(port_of(self.exposee))

    def end(self) -> None:
        """Note the requests of the process that has ended."""
        self.client.close()
        self.exposee.__exit__()
        threading.Event().wait(UNDER_WAY)
        for listener in self.listeners.values():
            while not listener.requests.empty():
                sent = listener.requests.get()
                values = fields(sent)
                url = listener.url(sent.split(b" ")[1].decode())
                self.arrived.append((self.process, values["webhook-id"], url, int(values["webhook-timestamp"])))
        self.process += 1

    # What is asked, and what each answer promises

    def step(self) -> None:
        steps: list[tuple[Callable[[], object], int]] = [(self.register, 4), (self.trigger, 6), (self.unregister, 3)]
        steps += [(self.ping, 2), (self.redeliver, 2), (self.kill, 1)]
        (step,) = self.random.choices([step for step, _ in steps], [weight for _, weight in steps])
        step()

    def pair(self) -> tuple[str, str]:
        """Often the last one again: to unregister and register the same in a row is what resurrects deliveries."""
        if self.random.random() < 0.4:
            self.last = self.random.choice(self.urls), self.random.choice(EVENTS)
        return self.last

    def register(self, killed: bool = False) -> bool:
        url, event = self.pair()
        answer = self.ask("POST", "/webhooks/register", {"url": url, "event_types": [event]}, killed)
        assert answer is None or answer.status == 200, answer
        if answer and "/gone/" not in url:
            self.registered.add((url, event))
        return answer is not None

    def trigger(self, killed: bool = False) -> bool:
        event = self.pair()[1]
        answer = self.ask("POST", "/trigger", {"event": event, "data": len(self.events)}, killed)
        assert answer is None or answer.status == 202, answer
        if answer:
            message = answer.json()["id"]
            self.events[message] = event
            self.owed |= {(message, url) for url, known in self.registered if known == event and "/well/" in url}
        return answer is not None

    def unregister(self, killed: bool = False) -> bool:
        url, event = self.pair()
        answer = self.ask("DELETE", "/webhooks/unregister", {"url": url, "event": event}, killed)
        of_it = {(message, url) for message, known in self.events.items() if known == event}
        self.owed -= of_it
        if answer:
            expected = 200 if (url, event) in self.registered else 404
            assert answer.status == expected or "/gone/" in url, answer
            self.registered.discard((url, event))
            if answer.status == 200:
                self.cancelled |= dict.fromkeys(of_it, (self.process, time.time()))
        return answer is not None

    def ping(self) -> None:
        answer = self.ask("GET", "/ping")
        assert answer and answer.status == 200, answer

    def redeliver(self) -> None:
        if deliveries := self.deliveries():
            delivery = self.random.choice(deliveries)
            answer = self.ask("POST", f"/deliveries/{delivery['id']}/attempts")
            assert answer and answer.status in (202, 409), answer
            if answer.status == 202:
                self.cancelled.pop((delivery["message"], delivery["url"]), None)

    def kill(self) -> None:
        """In the middle of a request, which is answered or not; what was answered holds afterwards."""
        answered = self.random.choice([self.register, self.trigger, self.unregister])(killed=True)
        self.end()
        self.start()
        webhooks = self.webhooks()
        assert webhooks ^ self.registered <= (set() if answered else {self.last})
        self.registered = webhooks

    def ask(self, method: str, target: str, value: object = None, killed: bool = False) -> Response | None:
        """The answer; None if the process was killed before it had answered."""
        self.client.send(request(method, target, b"" if value is None else json.dumps(value).encode()))
        if not killed:
            return self.client.receive()
        threading.Event().wait(self.random.uniform(0, 0.003))
        self.exposee.process.kill()
        try:
            answer = self.client.receive()
            answer.json()
        except (OSError, EOFError, ValueError, IndexError):
            return None
        return answer

    # What there is

    def webhooks(self, gone: bool = False) -> set[tuple[str, str]]:
        """What is registered, with or without the URLs that answer 410."""
        answer = self.ask("GET", "/webhooks")
        assert answer
        entries = {(entry["url"], entry["event"]) for entry in answer.json()["webhooks"]}
        return {(url, event) for url, event in entries if gone or "/gone/" not in url}

    def deliveries(self) -> list[dict[str, str]]:
        answer = self.ask("GET", "/deliveries?limit=1000")
        assert answer
        deliveries: list[dict[str, str]] = answer.json()["deliveries"]
        return deliveries

    def settle(self) -> None:
        """Nothing waits but deliveries to URLs that fail, or that are not registered; the process stops in order."""

        def settled() -> bool:
            registered = self.webhooks(gone=True)
            waiting = [it for it in self.deliveries() if it["state"] not in ("delivered", "failed", "cancelled")]
            return all("/failing/" in it["url"] or (it["url"], it["event"]) not in registered for it in waiting)

        eventually(settled, "the end of all deliveries that can end")
        assert self.webhooks() == self.registered
        assert self.exposee.stop() == 0
        self.end()


def slowly(connection: socket.socket) -> None:
    """An answer that lets deliveries wait for those before them."""
    threading.Event().wait(0.02)
    connection.sendall(NO_CONTENT)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_promises_are_kept(tmp_path: Path, seed: int) -> None:
    """Accepted for a URL that is still registered: it arrives. Cancelled: it is not sent. Settled: nothing is sent.

    An attempt under way when DELETE is answered may still arrive, but no further one, from a later process either.
    """
    unwell, gone = (b"HTTP/1.1 %d -\r\nContent-Length: 0\r\n\r\n" % status for status in (503, 410))
    (tmp_path / "webhooks.json").write_text("[]")
    with Listener(slowly) as well, Listener(unwell) as failing, Listener(gone) as leaving:
        schedule = Schedule(tmp_path, seed, well, failing, leaving)
        try:
            for _ in range(STEPS):
                schedule.step()
            schedule.kill()
            schedule.settle()
            schedule.start()
            schedule.settle()
        finally:
            schedule.client.close()
            schedule.exposee.__exit__()
    arrived = {(message, url) for _, message, url, _ in schedule.arrived}
    assert schedule.owed <= arrived, "an accepted delivery is lost"
    for process, message, url, timestamp in schedule.arrived:
        latest = schedule.cancelled.get((message, url), (process, timestamp))
        assert (process, timestamp) <= latest, f"{message} was cancelled and sent to {url}"
        assert process < schedule.process - 1 or "/failing/" in url, (
            f"{message} had settled and was sent to {url} again"
        )


# --- stopping with a backlog -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["hang", "503"])
def test_a_backlog_of_10_000_outlives_sigterm(tmp_path: Path, behaviour: str) -> None:
    with Listener() as ill:
        ill.answer = ill.hang if behaviour == "hang" else b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"
        urls = [ill.url(f"/{number}") for number in range(20)]
        write_store(tmp_path, *urls)
        options = ("exposee.py", "--port", "0", "--timeout", "60", "--retry-schedule", "4,4,4,4,4")
        with Program(*options, cwd=tmp_path) as exposee, Client(port_of(exposee)) as client:
            accepted = [client.ask(trigger(number)).json()["id"] for number in range(500)]
            began = time.monotonic()
            assert exposee.stop(signal.SIGTERM) == 0
            assert time.monotonic() - began < 6
            assert "10000 deliveries wait in " in exposee.lines[-1]
        list(received(ill))
        ill.answer = NO_CONTENT
        arrived: Counter[tuple[str, str]] = Counter()
        with Program(*options, cwd=tmp_path) as exposee:

            def complete() -> bool:
                while not ill.requests.empty():
                    sent = ill.requests.get()
                    arrived[sent.split(b" ")[1].decode(), fields(sent)["webhook-id"]] += 1
                return len(arrived) >= 10_000

            for _ in range(3):  # eventually() waits for 10 s, and the schedule alone may take half of that
                with suppress(AssertionError):
                    eventually(complete)
                    break
            assert len(arrived) == 10_000
            assert {name for _, name in arrived} == set(accepted)
            assert exposee.stop() == 0
            assert " 0 deliveries wait in " in exposee.lines[-1]


# --- a full disk -----------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 128 KiB where we may mount one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(folder: Path, pid: int) -> Iterator[Callable[[], None]]:
    """A disk that takes no byte more; what it gives makes room again."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x")
    yield filler.unlink


@contextmanager
def limited(folder: Path, pid: int) -> Iterator[Callable[[], None]]:
    """No file may grow beyond what the journal has: the same to a process, for those who may not mount."""
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, ((folder / JOURNAL).stat().st_size, hard))
    yield lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard)) and None


def can_mount(folder: Path) -> bool:
    try:
        with small_disk(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def test_a_full_disk_is_503_and_leaves_no_torn_line(tmp_path: Path, listener: Listener) -> None:
    mounted = can_mount(tmp_path)
    with small_disk(tmp_path) if mounted else nullcontext():
        fill = filled if mounted else limited
        write_store(tmp_path, listener.url())
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee, Client(port_of(exposee)) as client:
            assert client.ask(trigger("before")).status == 202
            listener.next()
            with fill(tmp_path, exposee.process.pid) as make_room:
                register = json.dumps({"url": listener.url("/" + "x" * 2_000), "event_types": [EVENT]}).encode()
                for asked in (
                    *[trigger("x" * 5_000)] * 3,
                    *[request("POST", "/webhooks/register", register)] * 2,
                ):
                    answer = client.ask(asked)
                    if answer.status != 503 and not mounted:  # a snapshot is smaller than the limit
                        assert b"register" in asked
                        continue
                    assert answer.status == 503, answer
                    assert answer.headers["retry-after"]
                    reason = "No space left on device" if mounted else "File too large"
                    assert reason in answer.json()["detail"]
                assert listener.requests.empty()
                make_room()
            assert client.ask(trigger("after")).status == 202
            assert client.ask(request("POST", "/webhooks/register", register)).status == 200
            assert b"after" in listener.next()
            eventually(lambda: b'"waiting": 0' in client.ask(request("GET", "/health")).body)
            assert exposee.stop() == 0
        lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
        bodies = [json.loads(line).get("body") for line in lines if line.endswith(b"\n")]
        assert len(bodies) == len(lines)
        assert [json.loads(body)["data"] for body in bodies if body] == ["before", "after"]
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
            assert port_of(exposee) and exposee.stop() == 0
            assert " 0 deliveries wait" in exposee.lines[-1]
            assert not any("warning" in line for line in exposee.lines)


# --- what a start finds ----------------------------------------------------------------------------------------------


def record(number: int, url: str) -> bytes:
    body = json.dumps({"event": EVENT, "data": number})
    message = {"message": f"msg_{number:024}", "event": EVENT, "time": 1.5, "urls": [url], "body": body}
    return json.dumps(message).encode() + b"\n"


@pytest.mark.parametrize(
    "torn", mostly_slow([b'{"message": "msg_', b"\x00" * 512, b"{", b'{"a": 1}', b"\xff\n", b"[1]\n"], 2), ids=ascii
)
def test_a_torn_last_line_is_one_warning_and_dropped(tmp_path: Path, listener: Listener, torn: bytes) -> None:
    write_store(tmp_path, listener.url())
    whole = record(1, listener.url()) + record(2, listener.url())
    (tmp_path / JOURNAL).write_bytes(whole + torn)
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
        listener.next()
        listener.next()
        assert exposee.stop() == 0
        warnings = [line for line in exposee.lines if "warning" in line]
        assert len(warnings) == 1
        assert f"{JOURNAL}, line 3: torn by a crash" in warnings[0] and "dropped" in warnings[0]
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
        assert port_of(exposee) and exposee.stop() == 0
        assert not any("warning" in line for line in exposee.lines), "it was not dropped for good"
    assert (tmp_path / JOURNAL).read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "broken",
    mostly_slow([
        b"not json\n",
        b"\n",
        b"[]\n",
        b"\xff\xfe\n",
        b'{"message": "msg_1"}\n',
        b'{"delivery": 7}\n',
        b'{"message": "msg_1", "event": "e", "time": "now", "body": "3", "urls": []}\n',
        b'{"message": "msg_1", "event": "e", "time": 1, "body": 3, "urls": []}\n',
        b'{"message": "msg_1", "event": "e", "time": 1, "body": "3", "urls": null}\n',
        b"{}\n",
    ], 2),
    ids=ascii,
)  # fmt: skip
def test_a_broken_line_in_the_middle_stops_the_start(tmp_path: Path, broken: bytes) -> None:
    """It is one line on the terminal that names file and line, and the file is left to whoever mends it."""
    url = "http://127.0.0.1:1/"
    write_store(tmp_path, url)
    content = record(1, url) + broken + record(2, url) + MARK
    (tmp_path / JOURNAL).write_bytes(content)
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
        assert exposee.wait() == 2
        assert len(exposee.lines) == 1, exposee.lines
        assert exposee.lines[0].startswith("error: ") and f"{JOURNAL}, " in exposee.lines[0]
        assert " 2: not " in exposee.lines[0]
    assert (tmp_path / JOURNAL).read_bytes() == content


def test_a_second_exposee_on_one_store_does_not_start(tmp_path: Path, listener: Listener) -> None:
    write_store(tmp_path, listener.url())
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as first, Client(port_of(first)) as client:
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as second:
            assert second.wait() == 2
            assert len(second.lines) == 1 and "another exposee has it" in second.lines[0]
        assert client.ask(trigger("the first one works on")).status == 202
        listener.next()
        first.process.kill()
        first.wait()
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as third:
        assert port_of(third) and third.stop() == 0
