"""What strangers may try: to take all places, to hang up, to write what others print, to read what is not theirs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import JOURNAL, NO_CONTENT, ROOT, SECONDS, Client, Listener, Pair, Program, eventually, held, request

import rules
import server as server_module
import store
import terminal
from addresses import Guard
from ondemand import OnDemand
from receiver import PATH
from server import Server
from wire import Answer, Request

A, B = "payment_received", "invoice_completed"
REGISTER, UNREGISTER = "/webhooks/register", "/webhooks/unregister"
TUNNEL = {"X_Forwarded_For": "203.0.113.9"}
HEALTH = request("GET", "/health")


def post(path: str, value: Any, method: str = "POST", **fields: str) -> bytes:
    return request(method, path, json.dumps(value).encode(), **fields)


def ask(port: int, data: bytes) -> Any:
    with Client(port) as client:
        return client.ask(data)


def exposee_program(folder: Path, *options: str, **more: Any) -> Program:
    return Program("exposee.py", "--port", "0", *options, cwd=folder, **more)


# --- places -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_five_hundred_slow_clients_keep_nobody_out(tmp_path: Path) -> None:
    """Each sends a byte now and then. A newcomer takes the place of who has waited longest; none outlives 30 s."""
    with exposee_program(tmp_path) as program, contextlib.ExitStack() as stack:
        port, began = program.port, time.monotonic()
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS)) for _ in range(500)]
        for sock in slow:
            sock.sendall(post(REGISTER, {})[:40])
        for _ in range(5):
            asked = time.monotonic()
            assert ask(port, HEALTH).status == 200
            assert time.monotonic() - asked < 1
        selector = stack.enter_context(selectors.DefaultSelector())
        for sock in slow:
            selector.register(sock, selectors.EVENT_READ)
        places = server_module.MAX_CONNECTIONS
        eventually(lambda: len(selector.select(0)) >= 500 - places, "room being made")
        gone = {key.fileobj for key, _ in selector.select(0)}
        wrong = [sock not in gone for sock in slow[: 500 - places]] + [sock in gone for sock in slow[-places // 2 :]]
        assert sum(wrong) <= 8  # threads that begin together start to wait in any order
        while selector.get_map():
            for key, _ in selector.select(2):
                selector.unregister(key.fileobj)
            for held_open in list(selector.get_map().values()):
                with contextlib.suppress(OSError):
                    held_open.fileobj.send(b"x")  # type: ignore[union-attr]
            assert time.monotonic() - began < 30
        assert ask(port, HEALTH).status == 200
        assert program.stop() == 0
        assert [line for line in program.lines[2:-1] if ": 408, the whole request took over " not in line] == []


def test_clients_who_take_no_answers_keep_nobody_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """They send requests and read nothing, until neither side's buffers have room."""
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            sock.connect(("127.0.0.1", pair.port))
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.sendall(HEALTH * 300_000)
        assert ask(pair.port, HEALTH).status == 200


def test_webhooks_are_limited_in_number(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_WEBHOOKS", 3)

    def register(path: str, *events: str) -> Any:
        body = {"url": f"http://hooks.example/{path}", "event_types": events}
        return pair.call("POST", REGISTER, body, **TUNNEL)

    assert [register("a", A, B).status, register("b", A).status] == [200, 200]
    for more in (register("c", A), register("b", B)):
        assert more.status == 503 and int(more.headers["retry-after"]) > 0 and "3 webhooks" in more.json()["detail"]
    assert pair.store.count() == 3
    assert register("a", A, B).status == 200  # changes nothing: it needs no room
    assert pair.call("DELETE", UNREGISTER, {"url": "http://hooks.example/b", "event": A}, **TUNNEL).status == 200
    assert register("c", A).status == 200


def test_pings_of_many_strangers_are_one_for_each_receiver(
    pair: Pair, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, pinged, ping = threading.Event(), threading.Semaphore(0), OnDemand.ping

    def answer(connection: socket.socket) -> None:
        assert gate.wait(SECONDS)
        connection.sendall(NO_CONTENT)

    def counted(it: OnDemand) -> Any:
        result = ping(it)
        pinged.release()
        return result

    listener.answer = answer
    pair.register(listener.url(), A)
    monkeypatch.setattr(OnDemand, "ping", counted)
    with ThreadPoolExecutor(12) as pool, held(gate):
        asked = [pool.submit(pair.call, "GET", "/ping", None, **TUNNEL) for _ in range(12)]
        listener.next()
        assert all(pinged.acquire(timeout=SECONDS) for _ in asked)
        gate.set()
        answers = [it.result(SECONDS) for it in asked]
    assert {answer.status for answer in answers} == {200}
    assert {answer.json()["message"] for answer in answers} == {"Ping delivered to 1 of 1 webhook(s)"}
    assert len({answer.json()["id"] for answer in answers}) == 1 and "deliveries" not in answers[0].json()
    assert listener.requests.empty()


@pytest.mark.parametrize("digits", ["00000100000", "000001" + "0" * 5_000], ids=len)
def test_a_limit_with_leading_zeros_is_no_way_past_it(pair: Pair, digits: str) -> None:
    answer = pair.call("GET", f"/deliveries?limit={digits}")
    assert answer.status == 422, answer


# --- load -------------------------------------------------------------------------------------------------------

KEEPS = [  # wrong, and the connection goes on
    request("GET", "/no/such/path%0a%1b[31m"),
    request("BREW", "/health"),
    request("POST", "/trigger", b'{"event": NaN}'),
    request("POST", "/trigger", b"{}", Content_Type="text/plain"),
    post("/trigger", {"event": "nonsense", "data": 1}),
    post(REGISTER, {"url": "ftp://h/", "event_types": [A]}),
    post(REGISTER, {"url": "http://10.0.0.1/", "event_types": [A]}, **TUNNEL),
    post(UNREGISTER, {"url": "http://h.example/none", "event": A}, "DELETE"),
    request("GET", "/deliveries", None, **TUNNEL),
]
ENDS = [  # wrong, and nothing after it can be trusted
    b"nonsense\r\n",
    b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
    request("POST", "/trigger", b"{}", Transfer_Encoding="chunked"),
    request("POST", "/trigger", None, Content_Length="99999999"),
    request("POST", "/trigger"),
    request("DELETE", "/health", None, Content_Type="application/json"),
]
GOOD = [HEALTH, request("GET", "/event-types"), request("GET", "/webhooks"), request("GET", "/deliveries?limit=3")]
EACH = 100  # requests in a batch


def batch(number: int, hooks: int) -> tuple[bytes, bool]:
    """A third of it bad; a few messages for everybody who has registered. Whether its last one ends the connection."""
    wrong = list(itertools.islice(itertools.cycle(KEEPS), EACH // 3))
    right = list(itertools.islice(itertools.cycle(GOOD), EACH - len(wrong) - 5))
    right += [post("/trigger", {"event": A, "data": {"number": number, "of": hooks}})] * 3
    right += [post(REGISTER, {"url": f"http://h.example/{number % 7}", "event_types": [B]})]
    right += [post(UNREGISTER, {"url": f"http://h.example/{number % 7}", "event": B}, "DELETE")]
    mixed = [item for pair in itertools.zip_longest(right, wrong) for item in pair if item]
    ends = number % 10 == 0
    if ends:
        mixed[-1] = ENDS[number // 10 % len(ENDS)]
    return b"".join(mixed), ends


def load(port: int, batches: int, start: int) -> None:
    """Send them one after the other, each as a whole."""
    client: Client | None = None
    for number in range(start, start + batches):
        client = client or Client(port)
        data, ends = batch(number, 4)
        client.send(data)
        statuses = [client.receive().status for _ in range(EACH)]
        assert 500 not in statuses and 503 not in statuses, statuses
        assert sum(status >= 400 for status in statuses) in range(EACH // 3, EACH // 3 + 3)  # h.example may be gone
        if ends or number % 50 == 49:
            assert not ends or client.closed()
            client.close()
            client = None
    if client:
        client.close()


def resources(program: Program, receiver: int) -> tuple[int, int]:
    """KiB in memory, and open files, without the connections that are kept open to the receiver.

    Of those there may be as many as attempts were under way at once, and they are bounded otherwise (KEPT_OPEN).
    """
    folder = Path(f"/proc/{program.process.pid}")
    memory = (folder / "status").read_text().partition("VmRSS:")[2].split()[0]
    connections = [line.split() for line in (folder / "net/tcp").read_text().splitlines()[1:]]
    kept = sum(fields[2].endswith(f":{receiver:04X}") and fields[3] in ("01", "08") for fields in connections)
    return int(memory), len(os.listdir(folder / "fd")) - kept


@pytest.mark.slow
def test_a_hundred_thousand_requests_leave_nothing_behind(tmp_path: Path, listener: Listener) -> None:
    """When the history is full, nothing grows any more."""
    clients, filling, rest = 4, 220, 780  # batches: 4 webhooks, 3 messages in a batch, 10,000 deliveries remembered

    def idle() -> bool:
        counts = ask(port, HEALTH).json()
        while not listener.requests.empty():
            listener.requests.get()
        return bool(counts["waiting"] == counts["under_way"] == 0)

    with exposee_program(tmp_path) as program, ThreadPoolExecutor(clients) as pool:
        port = program.port
        for number in range(4):
            hook = {"url": listener.url(f"/{number}"), "event_types": [A]}
            assert ask(port, post(REGISTER, hook)).status == 200
        seen = []
        for batches, start in ((filling, 0), (filling, filling * clients), (rest, filling * clients * 2)):
            each = batches // clients if batches == rest else batches
            list(pool.map(lambda it, n=each, s=start: load(port, n, s + it * n), range(clients)))
            eventually(idle, "the end of all deliveries")
            seen.append(resources(program, listener.port))
        assert len(ask(port, request("GET", "/deliveries?limit=1000")).json()["deliveries"]) == 1_000
        (memory, files), (later, files_later) = seen[0], seen[-1]
        assert program.stop(signal.SIGTERM) == 0
    assert later <= memory * 1.1, seen
    assert files_later <= files * 1.1 + 2, seen  # a kept-open connection more or less


# --- hanging up ---------------------------------------------------------------------------------------------------


def hang_up(port: int, data: bytes, take: int, reset: bool) -> None:
    """Send this, read so many bytes of the answer (all that is there, if that is less), and go."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.settimeout(SECONDS)
        sock.connect(("127.0.0.1", port))
        sock.sendall(data)
        while take > 0 and (got := sock.recv(min(take, 65_536))):
            take -= len(got)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


SCRIPTS = {
    "exposee.py": [
        post(REGISTER, {"url": "http://h.example/", "event_types": [A]}),
        post("/trigger", {"event": A, "data": 1}, **TUNNEL),
        request("GET", "/"),
        request("GET", "/ping", None, Connection="close"),
        request("GET", "/deliveries/stream"),
        request("POST", "/trigger", b"nonsense"),
        b"nonsense\r\n\r\n",
    ],
    "receiver.py": [
        post(PATH, {"event": A, "data": 1}),
        post(PATH + "?respond=endless", {"event": A, "data": 1}),
        post(PATH + "?respond=half", {"event": A, "data": 1}),
        post("/nowhere", {}),
    ],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_client_that_hangs_up_at_any_byte_is_a_line_at_most(tmp_path: Path, script: str) -> None:
    with Program(script, "--port", "0", cwd=tmp_path) as program:
        port, (first, *others) = program.port, SCRIPTS[script]
        for length, reset in itertools.product(range(len(first)), (False, True)):
            hang_up(port, first[:length], 0, reset)
        assert ask(port, request("GET", "/nothing")).status == 404
        assert program.wait_for(" GET /nothing: 404, ") == program.lines[-1]
        assert len(program.lines) == 3, program.lines  # nobody has asked for anything else yet
        count = 1
        for data, take, reset in itertools.product([first, *others], (0, 1, 15, 40, 5_000), (False, True)):
            if take == 5_000 and data not in (request("GET", "/"), SCRIPTS["receiver.py"][1]):
                continue
            hang_up(port, data, take, reset)
            count += 1
        assert ask(port, request("GET", "/nothing")).status == 404
        assert program.stop() == 0
        lines = program.lines[3:-1]
    assert not [line for line in lines if "Traceback" in line or "rror" in line]
    assert len(lines) <= count


def test_every_program_is_silent_on_stderr_when_python_warns_of_everything(tmp_path: Path) -> None:
    """No resource that is forgotten, and no exception that is swallowed."""

    @contextlib.contextmanager
    def python(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        with open(tmp_path / f"{command[0]}.err", "a+") as errors:
            with subprocess.Popen(
                [sys.executable, "-W", "error", "-X", "dev", str(ROOT / command[0]), *command[1:]],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                text=True,
            ) as process:
                try:
                    assert process.stdout
                    yield process, process.stdout.readline()
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(SECONDS) in (0, -signal.SIGTERM)
                finally:
                    process.kill()
            errors.seek(0)
            assert errors.read() == ""

    def port_of(line: str) -> int:
        return int(line.split("http://")[1].split(":")[1].split("/")[0].split(",")[0])

    def script(*arguments: str) -> str:
        command = ("register_webhook.py", "--exposee", theirs, "--url", mine, "--secret", secret, *arguments)
        with python(*command) as (process, line):
            process.wait(SECONDS)
        return line

    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    with python("exposee.py", "--port", "0") as (_, line):
        port = port_of(line)
        theirs = f"http://127.0.0.1:{port}"
        mine = "http://127.0.0.1:{}" + PATH
        back = ("--ping-back", theirs, "--url", mine.format(1))
        with python("receiver.py", "--port", "0", "--secret", secret, *back) as (_, line):
            its_port = port_of(line)
            mine = mine.format(its_port)
            assert "200" in script() and "1 of 1" in script("--ping") and "200" in script("--ping-back")
            assert ask(port, post("/trigger", {"event": A, "data": 1}, Prefer="wait=5")).status == 200
            for bad in (*ENDS, *KEEPS):
                for number in (port, its_port):
                    assert ask(number, bad).status >= 400
                    hang_up(number, bad, 1, reset=True)
                    hang_up(number, bad[:-3], 0, reset=True)
            hang_up(port, request("GET", "/deliveries/stream"), 20, reset=True)
            assert "200" in script("--unregister")
            assert ask(port, HEALTH).json()["webhooks"] == 0


# --- writing what others print ------------------------------------------------------------------------------------

MARK = "FORGED"
NASTY = f"\r\n{MARK}\x1b[2J\x1b]0;{MARK}\x07\x00\x08\x7f\x85\x9b31m\u2028\u2029\u202e\u2066\ufeff\u200b{MARK}"
QUOTED = "".join(f"%{byte:02x}" for byte in NASTY.encode())
RAW = b"\x0b\x1b[2J\x7f\x85\x9b31m" + MARK.encode()  # what can be tried in a field or a line without ending it


def is_plain(line: str) -> bool:
    """Has nothing that a terminal obeys, and did not begin where a stranger wanted it to."""
    return line.isprintable() and not line.startswith(MARK)


def forgeries(path: str) -> list[bytes]:
    """Requests with something nasty wherever there is room for it."""
    data = {"event": A, "data": {NASTY: [NASTY]}, "url": f"http://h/{NASTY}", "event_types": [NASTY]}
    plain = json.dumps(data, ensure_ascii=False).replace("\x7f", NASTY[-1]).encode()
    return [
        request("GET", f"/{QUOTED}"),
        request("GET", f"/deliveries/{QUOTED}"),
        request("GET", f"/deliveries?state={QUOTED}&limit={QUOTED}"),
        request("POST", f"{path}?respond={QUOTED}", b"{}"),
        request("GET", "/").replace(b"/ ", b"/" + RAW + b" ", 1),
        request("GET", "/health").replace(b"Host", b"X-Nasty: " + RAW + b"\r\nHost"),
        request("GET", "/health").replace(b"Host", b"X-Nasty: a\n" + RAW + b"\r\nHost"),
        request("POST", path, b"1", Content_Type=f"a/b\x85\x9b31m{MARK}"),
        request("GET", "/health", None, Transfer_Encoding="\x85\x9b31m" + MARK),
        request("GET", "/health", None, Host=f"h\u0085{MARK}"),
        request("POST", path, plain),
        request("POST", path, json.dumps(data).encode()),
        request("DELETE", path, json.dumps(data).encode()),
        post(path, NASTY),
        request("POST", path, b"{" + NASTY.encode()),
        request("POST", path, json.dumps(data).encode(), webhook_id=f"msg\x85\x9b31m{MARK}"),
        request("POST", path, json.dumps(data).encode(), webhook_id=f"msg\x85\x9b31m{MARK}"),
        request("POST", path, b"1", webhook_signature=f"v1,\x9b31m{MARK}", webhook_id="\x85", webhook_timestamp="1"),
        request("POST", path, b"1", X_Hub_Signature_256=f"sha256=\x9b31m{MARK}"),
    ]


@pytest.mark.parametrize("raw", [[], ["--raw"]], ids=["", "raw"])
def test_nothing_a_stranger_sends_forges_a_line_of_the_exposee(tmp_path: Path, raw: list[str]) -> None:
    forged = f"HTTP/1.1 200 {MARK}\x1b[2J\x9b31m\r\nX-Nasty: a\n{MARK}\x1b[2J\x85\r\nContent-Length: 40\r\n\r\n"
    broken = b"HTTP/1.1 2" + RAW + b"\n" + RAW + b"\r\n\r\n" + NASTY.encode()
    whole = forged.encode("latin-1") + NASTY.encode()[:40]
    with Listener(whole) as good, Listener(broken) as bad, exposee_program(tmp_path, *raw) as program:
        port = program.port
        for listener in (good, bad):
            assert ask(port, post(REGISTER, {"url": listener.url(), "event_types": [A]})).status == 200
        for path in (REGISTER, UNREGISTER, "/trigger", "/webhooks/ping-back"):
            for data in forgeries(path):
                ask(port, data)
        answer = ask(port, post("/trigger", {"event": A, "data": {NASTY: NASTY}}, Prefer="wait=5", **TUNNEL))
        assert answer.status == 200
        shown = ask(port, request("GET", f"/deliveries?message={answer.json()['id']}")).json()["deliveries"]
        assert sorted(it["url"] for it in shown) == sorted([good.url(), bad.url()])
        assert all(it.get("error", "").isprintable() for it in shown)
        assert program.stop() == 0
    assert not [line for line in program.lines if not is_plain(line)]
    assert any(MARK in line for line in program.lines)
    records = (tmp_path / JOURNAL).read_bytes().split(b"\n")
    assert records.pop() == b"" and all(isinstance(json.loads(record), dict) for record in records)
    assert not [record for record in records if record.startswith(MARK.encode())]
    webhooks = (tmp_path / "webhooks.json").read_bytes()
    assert {entry["url"] for entry in json.loads(webhooks)} == {good.url(), bad.url()} and MARK.encode() not in webhooks


@pytest.mark.parametrize("options", [[], ["--raw"], ["--secret", "s3cret"]], ids=["", "raw", "secret"])
def test_nothing_a_stranger_sends_forges_a_line_of_the_receiver(tmp_path: Path, options: list[str]) -> None:
    with Program("receiver.py", "--port", "0", *options, cwd=tmp_path) as program:
        for data in forgeries(PATH):
            ask(program.port, data)
        assert program.stop() == 0
    assert not [line for line in program.lines if not is_plain(line)]
    assert any(MARK in line for line in program.lines)


def test_the_line_of_a_bug_is_not_the_strangers(capsys: pytest.CaptureFixture[str]) -> None:
    def bug(asked: Request) -> Answer:
        raise KeyError(asked.parameters[0])

    server = Server(("127.0.0.1", 0), {"/items/{id}": {"GET": bug}}, log=terminal.say)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ask(server.server_port, request("GET", f"/items/{QUOTED}")).status == 500
    finally:
        server.stop()
        thread.join(SECONDS)
    lines = capsys.readouterr().out.splitlines()
    assert all(map(is_plain, lines)) and MARK in lines[1] and len(lines) == 2


# --- reading what is not theirs -----------------------------------------------------------------------------------

KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY"  # what nobody may find, nor a part of it
SECRET, TOKEN = f"whsec_{KEY}=", "the-0wner-only"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return request("POST", REGISTER, None, Transfer_Encoding="chunked", Content_Type="application/json") + coded


def secret_body(url: str) -> bytes:
    return json.dumps({"url": url, "event_types": [A], "secret": SECRET}).encode()


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda body: request("POST", REGISTER, body),
    "wide": lambda body: request("POST", REGISTER, body.replace(b'"secret": ', b'"secret"\n\t :\r\n ')),
    "twice": lambda body: request("POST", REGISTER, body.replace(b"{", b'{"secret": "x", ', 1)),
    "cut": lambda body: request("POST", REGISTER, body[:-8]),
    "in a list": lambda body: request("POST", REGISTER, body.replace(b'"secret": ', b'"secret": [')[:-1] + b"]}"),
    "as an escape": lambda body: request("POST", REGISTER, body.replace(b'"secret"', b'"\\u0073ecret"')),
    "another name": lambda body: request("POST", REGISTER, body.replace(b'"secret"', b'"Secret"')),
    "as plain text": lambda body: request("POST", REGISTER, b"secret=" + SECRET.encode(), Content_Type="text/plain"),
}  # fmt: skip
PARTS = [KEY[at : at + 6] for at in range(len(KEY) - 5)]


def found(text: str) -> list[str]:
    """Parts of the secret or of the token, and the bytes that the secret stands for."""
    return [part for part in [*PARTS, TOKEN, "ABCDEFGHIJKL"] if part in text]


def test_no_transcript_shows_a_secret_however_it_was_sent(tmp_path: Path, listener: Listener) -> None:
    with exposee_program(tmp_path, "--raw") as program:
        for spelling, spell in SPELLINGS.items():
            answer = ask(program.port, spell(secret_body(listener.url())))
            assert not found(answer.body.decode()), spelling
        assert program.stop() == 0
    assert sum(line.endswith(" asks") for line in program.lines) == len(SPELLINGS)
    assert [line for line in program.lines if found(line)] == []


def test_no_transcript_shows_a_secret_in_chunks_of_whatever_size(tmp_path: Path, listener: Listener) -> None:
    body = secret_body(listener.url())
    with exposee_program(tmp_path, "--raw") as program:
        with Client(program.port) as client:
            assert {client.ask(chunked(body, size)).status for size in range(1, len(body) + 1)} == {200}
        assert program.stop() == 0
    assert sum("--- 127.0.0.1 port " in line for line in program.lines) == 2 * len(body)
    assert not found("\n".join(program.lines))


TOKEN_FIELDS = (
    f"Authorization: Bearer {TOKEN}",
    f"authorization:\t{TOKEN}",
    f"AUTHORIZATION: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}",
    f"Proxy-Authorization: Basic {TOKEN}",
    f"Authorization : Bearer {TOKEN}",
    f"Authorization:\r\n Bearer {TOKEN}",
    f"Authorization: Bearer\x0b{TOKEN}",
)


def test_no_transcript_shows_a_token_however_it_was_sent(tmp_path: Path) -> None:
    with exposee_program(tmp_path, "--raw", "--token", TOKEN) as program:
        for field in TOKEN_FIELDS:
            answer = ask(program.port, HEALTH.replace(b"Host:", field.encode() + b"\r\nHost:"))
            assert not found(answer.body.decode()), field
        assert program.stop() == 0
    assert sum("< GET /health" in line for line in program.lines) == len(TOKEN_FIELDS)
    assert not found("\n".join(program.lines)), program.lines


@pytest.mark.parametrize("way", ["option", "environment"])
def test_secrets_and_tokens_are_shown_nowhere(tmp_path: Path, listener: Listener, way: str) -> None:
    options = ["--token", TOKEN] if way == "option" else []
    env = {"EXPOSEE_TOKEN": TOKEN} if way == "environment" else {}
    with exposee_program(tmp_path, "--raw", *options, env=env) as program:
        port = program.port

        def call(method: str, path: str, value: Any = None, **fields: str) -> Any:
            body = None if value is None else json.dumps(value).encode()
            return ask(port, request(method, path, body, **fields))

        seen = [ask(port, request("POST", REGISTER, secret_body(listener.url())))]
        seen += [call("POST", "/trigger", {"event": A, "data": 1}, Prefer="wait=5", **TUNNEL, **BEARER)]
        assert [answer.status for answer in seen] == [200, 200]
        delivery = seen[-1].json()["deliveries"][0]["id"]
        lists = ("/ping", "/webhooks", "/deliveries", f"/deliveries/{delivery}", "/health", "/event-types")
        seen += [call("GET", path, None, **TUNNEL, **BEARER) for path in lists]
        wrong: list[dict[str, str]] = [{"Authorization": f"Basic {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}x"}, {}]
        seen += [call("GET", "/webhooks", None, **TUNNEL, **fields) for fields in wrong]
        assert [answer.status for answer in seen[-3:]] == [401] * 3
        for odd in (SECRET[:-9], {"secret": SECRET}):
            seen += [call("POST", REGISTER, {"url": listener.url(), "event_types": [A], "secret": odd})]
            seen += [call("DELETE", UNREGISTER, {"url": listener.url(), "event": A, "secret": odd}, **TUNNEL)]
        assert [answer.status for answer in seen[-4:]] == [422] * 4
        answers = "".join(str(answer) + answer.body.decode() for answer in seen)
        assert "webhook-signature" in answers and not found(answers)
        with Client(port) as client:
            client.send(request("GET", "/deliveries/stream"))
            assert call("POST", f"/deliveries/{delivery}/attempts").status == 202
            stream = b""
            while b"data:" not in stream:
                stream += client.sock.recv(65_536)
            assert not found(stream.decode())
        assert program.stop() == 0
        assert not found("\n".join(program.lines))
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock" and path.name != "webhooks.secrets.json"]
    assert {"webhooks.json", JOURNAL} <= {path.name for path in files}
    assert not [path for path in files if found(path.read_text())]
    if os.name == "posix":
        assert (tmp_path / "webhooks.secrets.json").stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("script", ["exposee.py", "receiver.py", "register_webhook.py"])
def test_help_shows_no_secret_from_the_environment(tmp_path: Path, script: str) -> None:
    env = {"EXPOSEE_TOKEN": TOKEN, "WEBHOOK_SECRET": SECRET}
    with Program(script, "--help", cwd=tmp_path, env=env) as program:
        assert program.wait() == 0
    assert program.lines and not found("\n".join(program.lines))


# --- destinations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, addresses",
    [
        ("loopback", ["127.0.0.1"]),
        ("private", ["10.0.0.1"]),
        ("link-local", ["169.254.169.254"]),
        ("loopback", ["93.184.215.14", "127.0.0.1"]),
        ("loopback", ["::ffff:127.0.0.1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_name_that_leads_elsewhere_since_it_was_registered_is_not_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener, kind: str, addresses: list[str]
) -> None:
    real, asked = socket.getaddrinfo, threading.Event()
    now = ["93.184.215.14"]

    def resolve(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host != "turns.example":
            return real(host, port, *more, **options)
        asked.set()
        return [(socket.AF_INET6 if ":" in it else socket.AF_INET, socket.SOCK_STREAM, 6, "", (it, port)) for it in now]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = f"http://turns.example:{listener.port}/hook"
    with Pair(tmp_path, schedule=()) as pair:
        assert pair.call("POST", REGISTER, {"url": url, "event_types": [A]}, **TUNNEL).status == 200
        now[:] = addresses
        (delivery,) = pair.trigger(A, 1, Prefer="wait=5").json()["deliveries"]
        asked_for = asked.is_set()
    assert asked_for and delivery["state"] == "failed"
    assert "not connected" in delivery["error"] and f"the {kind} address" in delivery["error"]
    assert addresses[-1] in delivery["error"] and listener.connections == 0


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(
    "host",
    [
        "[::ffff:0:127.0.0.1]",
        "168.63.129.16",
        "[64:ff9b::a83f:8110]",
        "100.100.100.200",
        "192.0.0.192",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[2001:0:7f00:1::1]",
        "[64:ff9b:1::7f00:1]",
        "[::ffff:0:169.254.169.254]",
    ],
)
def test_a_stranger_never_registers_metadata_or_loopback(tmp_path: Path, host: str, private: bool) -> None:
    hook = {"url": f"http://{host}/hook", "event_types": [A]}
    with Pair(tmp_path, guard=Guard(allow_private=private)) as pair:
        assert pair.call("POST", REGISTER, hook, **TUNNEL).status == 403
        assert pair.store.count() == 0


@pytest.mark.parametrize(
    "host", ["good.example[::ffff:127.0.0.1]", "[::1]x", "a..b", "1.2.3.256", "[zz]", "a" * 64, "[::1.]"]
)
def test_nobody_registers_a_host_that_is_none(pair: Pair, host: str) -> None:
    for fields in ({}, TUNNEL):
        answer = pair.call("POST", REGISTER, {"url": f"http://{host}/hook", "event_types": [A]}, **fields)
        assert answer.status == 422 and "expected a valid host" in answer.json()["detail"]


def test_what_nginx_forwards_by_default_is_a_strangers(pair: Pair) -> None:
    with pair.client() as client:
        client.send(b"GET /webhooks HTTP/1.0\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % pair.port)
        assert client.receive().status == 403


# --- pages of other sites -------------------------------------------------------------------------------------------

IMAGE = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}
LINK = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}


@pytest.mark.parametrize("fields", [IMAGE, LINK, {"Sec_Fetch_Site": "same-site"}], ids=["image", "link", "same site"])
def test_another_site_can_make_the_owners_browser_do_no_more_than_a_stranger(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    monkeypatch.setattr(rules, "STRANGER_BURST", 2.0)
    monkeypatch.setattr(rules, "STRANGER_RATE", 0.001)
    with Pair(tmp_path) as pair:
        pair.register(listener.url(), A)
        for path in ("/deliveries/stream", "/deliveries", "/webhooks"):
            assert pair.call("GET", path, **fields).status == 403
        pings = [pair.call("GET", "/ping", **fields) for _ in range(3)]
        assert [ping.status for ping in pings] == [200, 200, 429]
        assert "deliveries" not in pings[0].json()  # the counts only
        assert pair.call("GET", "/ping", Sec_Fetch_Site="same-origin").status == 200
        assert pair.call("GET", "/", **fields).status == (200 if fields is LINK else 403)


def test_head_sends_no_pings(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), A)
    for fields in ({}, TUNNEL):
        with pair.client() as client:
            client.send(request("HEAD", "/ping", None, **fields))
            answer = client.receive(head=True)
        assert (answer.status, answer.headers["allow"]) == (405, "GET")
    assert pair.call("GET", "/deliveries").json()["deliveries"] == [] and listener.requests.empty()


def test_head_takes_no_stream_away(pair: Pair) -> None:
    for _ in range(20):
        with pair.client() as client:
            client.send(request("HEAD", "/deliveries/stream"))
            assert client.receive(head=True).status == 200
            assert client.closed()


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"\xff\xfe", b"t0ken\xe2\x82", b"\xe9", b"?"])
def test_a_token_of_odd_bytes_is_wrong_and_no_error_of_ours(tmp_path: Path, sent: bytes) -> None:
    with Pair(tmp_path, token="t0ken") as pair:
        for target in ("/webhooks", "/deliveries/stream"):
            answer = pair.call("GET", target, **TUNNEL, Authorization="Bearer " + sent.decode("latin-1"))
            assert answer.status == 401
        assert pair.call("GET", "/webhooks", **TUNNEL, Authorization="Bearer t0ken").status == 200
