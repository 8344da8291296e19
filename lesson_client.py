"""The lesson's only HTTP client: a few functions on a socket, so that a reader sees every byte.

The chapters show their source. So their lines have 74 columns at most, which fit on a terminal of 80.
"""

from __future__ import annotations

import json
import socket
from typing import Any, BinaryIO


def talk(port: int, data: bytes) -> bytes:
    """Send `data` to a server on this machine.

    Returns what it sends until it closes the connection.
    """
    address = ("127.0.0.1", port)
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65_536):
            answer += more
        return answer


def request(method: str, target: str, body: Any = "", **more: str) -> bytes:
    """A request as bytes. A `body` that is no text is written as JSON.

    `more` are header fields, with _ in place of - in their names.
    """
    text = body if isinstance(body, str) else json.dumps(body)
    fields = {"Host": "localhost", "Connection": "close"}
    if text:
        fields["Content-Type"] = "application/json"
        fields["Content-Length"] = str(len(text.encode()))
    for name, value in more.items():
        fields[name.replace("_", "-")] = value
    head = [f"{method} {target} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(head) + "\r\n\r\n" + text).encode()


def read_answer(stream: BinaryIO) -> bytes:
    """One answer: its head, and as many bytes as Content-Length says."""
    answer, length = b"", 0
    while not answer.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            raise ConnectionError("the answer ended early")
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
        answer += line
    return answer + stream.read(length)


def receiver_url(port: int, query: str = "") -> str:
    """The URL to which the exposee sends its requests."""
    return f"http://127.0.0.1:{port}/webhook-receiver{query}"
