"""A receiver that does what the URL says and notes when each request came: one process, one thread, one event loop.

    python tests/tools/recorder.py PORTS [CERTIFICATE KEY]

It listens on that many free ports, and with a certificate on one more for https, and prints them as a JSON list.

    POST /GROUP/AFTER/STATUS/MANNER/NAME    answered with STATUS after AFTER seconds, or not at all when that is `never`;
                                            MANNER is keep, or close to close the connection after the answer
    GET  /GROUP/N                           once N requests of the group have come: when each of them was read
                                            (time.monotonic, in seconds) and its webhook-id, in order of arrival;
                                            pings are a group of their own, pinged

Shares no code with the exposee.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import time
from collections import defaultdict

LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)
ID = re.compile(rb"\r\nwebhook-id: (\S+)\r\n", re.IGNORECASE)
BACKLOG = 4_096


class Recorder:
    """What has come, by group, and the callers that wait for more of it."""

    def __init__(self) -> None:
        self.arrivals: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
        self.askers: list[tuple[str, int, asyncio.Transport]] = []

    def note(self, group: str, webhook_id: str) -> None:
        self.arrivals[group].append((time.monotonic(), webhook_id))
        if self.askers:
            self.tell()

    def ask(self, group: str, count: int, transport: asyncio.Transport) -> None:
        self.askers.append((group, count, transport))
        self.tell()

    def tell(self) -> None:
        for asker in self.askers.copy():
            group, count, transport = asker
            if len(self.arrivals[group]) >= count:
                self.askers.remove(asker)
                body = json.dumps(self.arrivals[group]).encode()
                transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


class Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.data = recorder, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[: end + 2]
            length = LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.data) < whole:
                return
            body, self.data = self.data[end + 4 : whole], self.data[whole:]
            self.handle(head, body)

    def handle(self, head: bytes, body: bytes) -> None:
        method, target, _ = head.decode("latin-1").split(" ", 2)
        _, group, *more = target.split("/")
        if method == "GET":
            return self.recorder.ask(group, int(more[0]), self.transport)
        webhook_id = ID.search(head)
        pinged = json.loads(body)["event"] == "ping"
        self.recorder.note("pinged" if pinged else group, webhook_id[1].decode() if webhook_id else "")
        after, status, manner = more[:3]
        if after != "never":
            asyncio.get_running_loop().call_later(float(after), self.answer, status, manner == "close")

    def answer(self, status: str, close: bool) -> None:
        fields = "" if status == "204" else "Content-Length: 0\r\n"
        self.transport.write(f"HTTP/1.1 {status} -\r\n{fields}\r\n".encode())
        if close:
            self.transport.close()


async def serve(count: int, *certificate: str) -> None:
    loop, recorder = asyncio.get_running_loop(), Recorder()
    contexts: list[ssl.SSLContext | None] = [None] * count
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        contexts.append(context)
    servers = [
        await loop.create_server(lambda: Connection(recorder), "127.0.0.1", 0, ssl=context, backlog=BACKLOG)
        for context in contexts
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


def allow_many_files() -> None:
    """As many open files as the hard limit allows."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536, hard))


if __name__ == "__main__":
    allow_many_files()
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
