"""What the benchmark measures the exposee against and with, each as a process of its own.

    python tests/tools/peers.py sink PORT             a receiver that only counts, as fast as plain Python can be
    python tests/tools/peers.py naive PORT STORE      a sender as it is written in an afternoon
    python tests/tools/peers.py limit PORT COUNT      what is left of sending when HTTP costs nothing: prints requests/s

None of them shares code with the exposee.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)
LIMIT_THREADS = 4


class Sink:
    """Answers 204 to each request, and counts them. `GET /N` is answered once N have come, with their number.

    So the benchmark waits without polling, which would cost some of the time that is measured.
    """

    def __init__(self, port: int) -> None:
        self.count = 0
        self._rest: dict[socket.socket, bytes] = {}  # the beginning of a request whose end is still to come
        self._askers: list[tuple[int, socket.socket]] = []
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._open()
                else:
                    try:
                        self._serve(sock)
                    except OSError:
                        self._close(sock)
            if self._askers:
                self._tell()

    def _open(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ)

    def _close(self, sock: socket.socket) -> None:
        self._rest.pop(sock, None)
        self._askers = [asker for asker in self._askers if asker[1] is not sock]
        self._selector.unregister(sock)
        sock.close()

    def _serve(self, sock: socket.socket) -> None:
        data = sock.recv(65_536)
        if not data:
            return self._close(sock)
        if sock in self._rest:
            data = self._rest.pop(sock) + data
        if data.startswith(b"GET "):
            self._askers.append((int(data[5 : data.index(b" ", 5)]), sock))
            return
        start = requests = 0
        while (head := data.find(b"\r\n\r\n", start)) >= 0:
            length = LENGTH.search(data, start, head + 2)
            end = head + 4 + (int(length[1]) if length else 0)
            if end > len(data):
                break
            start, requests = end, requests + 1
        if start < len(data):
            self._rest[sock] = data[start:]
        if requests:
            self.count += requests
            sock.sendall(NO_CONTENT * requests)

    def _tell(self) -> None:
        for target, sock in self._askers.copy():
            if self.count >= target:
                self._askers.remove((target, sock))
                text = b"%d" % self.count
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


class Naive(BaseHTTPRequestHandler):
    """A sender without a journal, retries, signatures or isolation: http.server, a thread pool, urlopen."""

    path_of_store: Path
    webhooks: list[dict[str, str]]
    lock = threading.Lock()
    pool = ThreadPoolExecutor()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/webhooks/register":
            with self.lock:
                self.webhooks.extend({"url": body["url"], "event": event} for event in body["event_types"])
                self.path_of_store.write_text(json.dumps(self.webhooks))
            self.answer(200, "registered")
        else:
            data = json.dumps(body).encode()
            for webhook in self.webhooks:
                if webhook["event"] == body["event"]:
                    self.pool.submit(self.deliver, webhook["url"], data)
            self.answer(202, "queued")

    @staticmethod
    def deliver(url: str, data: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10).close()

    def answer(self, status: int, message: str) -> None:
        body = json.dumps({"message": message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class NaiveServer(ThreadingHTTPServer):
    request_queue_size = 128  # with the 5 of the library a second client may wait for a second


def naive(port: int, store: Path) -> None:
    Naive.path_of_store = store
    Naive.webhooks = json.loads(store.read_text()) if store.exists() else []
    NaiveServer(("127.0.0.1", port), Naive).serve_forever()


def limit(port: int, count: int) -> float:
    """Requests a second of LIMIT_THREADS that write prepared bytes and look at no more than the status line."""
    body = b'{"event": "payment_received", "data": {"amount": 100, "currency": "USD"}}'
    head = b"POST /r/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    prepared = head % len(body) + body

    def send(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 60) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(number):
                sock.sendall(prepared)
                if not sock.recv(65_536).startswith(b"HTTP/1.1 204 "):
                    raise OSError("the sink did not answer with 204")

    began = time.perf_counter()
    with ThreadPoolExecutor(LIMIT_THREADS) as pool:
        list(pool.map(send, [count // LIMIT_THREADS] * LIMIT_THREADS))
    return count / (time.perf_counter() - began)


def main(role: str, port: str, *more: str) -> None:
    if role == "sink":
        Sink(int(port)).run()
    elif role == "naive":
        naive(int(port), Path(more[0]))
    else:
        print(limit(int(port), int(more[0])))


if __name__ == "__main__":
    main(*sys.argv[1:])
