"""What the walkthrough runs: ports that stay the same, and a socket that receives."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from lesson_client import request, talk
from walkthrough_programs import LessonFailed, Listener, Programs, free_ports

SECONDS = 10.0


@pytest.fixture
def programs() -> Iterator[Programs]:
    programs = Programs()
    yield programs
    programs.close()


def test_the_ports_are_free_and_different() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_fresh_pair_has_the_ports_of_the_last_and_none_of_its_files(programs: Programs) -> None:
    body = {"url": "http://127.0.0.1:9/", "event_types": ["payment_received"]}
    for name in ("one", "two"):
        programs.start(name)
        assert b'"webhooks": 0' in talk(programs.ports[0], request("GET", "/health"))
        assert talk(programs.ports[1], request("POST", "/webhook-receiver", {})).startswith(b"HTTP/1.1 204 ")
        assert talk(programs.ports[0], request("POST", "/webhooks/register", body)).startswith(b"HTTP/1.1 200 ")
    programs.exposee.kill()
    programs.start_exposee()
    assert b'"webhooks": 1' in talk(programs.ports[0], request("GET", "/health"))


def test_a_port_that_somebody_else_has_taken_is_one_line(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", programs.ports[0])):
        with pytest.raises(LessonFailed, match=f"exposee.py has not printed.*port {programs.ports[0]}"):
            programs.start("chapter")


def test_the_listener_reads_what_was_sent() -> None:
    sent = request("POST", "/hook", "ü" * 40_000, webhook_id="msg_1")
    listener = Listener()
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(talk(listener.port, sent)))
    thread.start()
    assert listener.receive("msg_1") == sent
    listener.answer(b"HTTP/1.1 204 No Content\r\n\r\n")
    listener.close()
    thread.join(SECONDS)
    assert answers == [b"HTTP/1.1 204 No Content\r\n\r\n"]


def test_a_request_that_ends_early_fails_the_lesson() -> None:
    listener = Listener()
    with socket.create_connection(("127.0.0.1", listener.port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nfour")
    with pytest.raises(LessonFailed, match="ended early"):
        listener.receive("msg_1")
    listener.close()


def test_the_listener_waits_for_the_message_that_is_meant() -> None:
    first, second = (request("POST", "/hook", webhook_id=name) for name in ("msg_1", "msg_2"))
    listener = Listener()
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.extend([talk(listener.port, first), talk(listener.port, second)]))
    thread.start()
    assert listener.receive("msg_2") == second
    listener.close()
    thread.join(SECONDS)
    assert answers[0].startswith(b"HTTP/1.1 204 ")
