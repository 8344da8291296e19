"""The chapters on HTTP itself: a request and its answer, mistakes, several requests on one connection."""

from __future__ import annotations

import json
import socket
import time

from lesson_client import read_answer, receiver_url, request, talk
from walkthrough_lesson import Lesson

# --- a request is text --------------------------------------------------------------------------------------

START = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
PATIENCE = 10  # seconds: soon after these the exposee gives a silent client up


def three_lines(lesson: Lesson) -> None:
    lesson.step(
        "Typing a request",
        """
        A *server* is a program that waits for connections. A *client* is a program that opens one. A *port* is a
        number: it tells the system which server a connection is for. Each program has a *socket*, which is its end of
        the connection. What one program writes into its socket, the other reads from its own.

        We connect to the exposee and write three lines:
        """,
    )
    lesson.show("To the exposee", ("> ", START[:-2]))


def connected(lesson: Lesson) -> None:
    """Send the three lines on a new connection."""
    lesson.kept.connection = lesson.open.enter_context(socket.create_connection(("127.0.0.1", lesson.exposee)))
    lesson.kept.connection.sendall(START)


def silence(lesson: Lesson) -> None:
    connected(lesson)
    lesson.kept.sent = time.monotonic()
    lesson.kept.connection.settimeout(0.3)
    try:
        early = repr(lesson.kept.connection.recv(65_536))
    except TimeoutError:
        early = "nothing"
    lesson.kept.connection.settimeout(15)
    lesson.step(
        "Silence",
        f"""
        The three lines are sent, and we have waited for a third of a second. What came back: {early}.

        A server reads the beginning of a request line by line, and an empty line ends it. We have sent no empty line,
        so the exposee waits for more. It does not wait for ever, because silent clients would use up its connections.
        Now we send the empty line.
        """,
    )


def answer(lesson: Lesson) -> None:
    if time.monotonic() - lesson.kept.sent > PATIENCE:
        given_up = b"".join(iter(lambda: lesson.kept.connection.recv(65_536), b""))
        lesson.show("We took too long: the exposee has closed the connection", ("< ", given_up))
        lesson.say("So we send the three lines on a new connection, and the empty line at once.")
        lesson.page.pause()
        connected(lesson)
    lesson.kept.connection.sendall(b"\r\n")
    lesson.kept.answer = b"".join(iter(lambda: lesson.kept.connection.recv(65_536), b""))
    lesson.step("The answer", "The empty line ended the request, and the exposee answered at once.")
    lesson.show("The empty line, and the answer to it", ("> ", b""), ("< ", lesson.kept.answer))


def request_parts(lesson: Lesson) -> None:
    lesson.step("The parts of a request", "What we sent is called a *request*.")
    lesson.notice(
        "Its first line has a *method* (`GET` asks for something), a *target* (`/health` is the thing asked for) and "
        "the version of HTTP.",
        "The lines after it are *header fields*. Each has a name and a value. Upper and lower case are the same in a "
        "name.",
        "`Host` is the server's name, as the client knows it. `localhost` is every machine's name for itself, and "
        "`127.0.0.1` is the address of that name.",
        "`Connection: close` asks the server to close the connection after its answer. Without it the connection stays "
        "open for the next request.",
    )


def answer_parts(lesson: Lesson) -> None:
    lesson.step("The parts of an answer", "What the exposee sent is called a *response*, or an answer.")
    lesson.notice(
        "Its first line has a *status*: 200 means success. The `OK` after it is for people; programs read the number.",
        "Its header fields end with an empty line too. After that line comes its *body*.",
        "`Content-Type` is the body's format: JSON, a notation for values that every programming language can read.",
        "`Content-Length` is the number of its bytes.",
    )


def real_bytes(lesson: Lesson) -> None:
    lesson.step(
        "As Python prints it",
        """
        Each line ends with two characters that no terminal shows: carriage return and line feed. Python writes them as
        `\\r\\n`. These are the same bytes once more, as Python prints them:
        """,
    )
    lesson.show_lines("The request", [repr(START + b"\r\n")])
    lesson.show_lines("The answer", [repr(lesson.kept.answer)])
    lesson.notice(
        "The empty line is the second of the two `\\r\\n` that follow each other.",
        "This JSON ends with a line feed. `Content-Length` counts it.",
    )


def talk_function(lesson: Lesson) -> None:
    lesson.step(
        "The same with a function",
        "From here on two small functions do the typing. `talk` sends the bytes and returns those of the answer.",
    )
    lesson.source(talk)


def request_function(lesson: Lesson) -> None:
    lesson.step("Writing a request", "`request` writes the bytes. This lesson has no other client.")
    lesson.source(request)


def both_functions(lesson: Lesson) -> None:
    lesson.step(
        "Both together",
        """
        We ask for the types of events that the exposee knows. An *event* is one thing that happened, and its *type* is
        the kind of thing. In Python: `talk(exposee, request("GET", "/event-types"))`.
        """,
    )
    lesson.send(request("GET", "/event-types"))
    lesson.notice("A browser and `curl` do the same: they write a request and read the answer.")


FIRST_REQUEST = [three_lines, silence, answer, request_parts, answer_parts]
FIRST_REQUEST += [real_bytes, talk_function, request_function, both_functions]


def solution_1(exposee: int, receiver: int) -> bytes:
    answer = talk(exposee, request("GET", "/coffee"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    return answer


# --- mistakes -----------------------------------------------------------------------------------------------

EVENT = {"event": "payment_received", "data": 1}


def wrong_type(lesson: Lesson) -> None:
    lesson.step(
        "The wrong type",
        """
        Now we make mistakes on purpose and read the answers. First mistake: the body is JSON, but `Content-Type` names
        the format of web forms. `curl -d` sends this type unless `-H` names another.
        """,
    )
    lesson.send(request("POST", "/trigger", EVENT, Content_Type="application/x-www-form-urlencoded"))
    lesson.notice(
        "A status from 400 to 499 means that the request is wrong: the same request will fail again. From 500 to 599 "
        "the server failed: the request may be right.",
        "The body of an error is JSON too, a *problem*. Its `detail` says what was wrong and what was expected.",
    )


def not_json(lesson: Lesson) -> None:
    lesson.step("Not quite JSON", "Second mistake: the last brace is missing.")
    lesson.send(request("POST", "/trigger", json.dumps(EVENT)[:-1]))
    lesson.notice("400 means that the body cannot be read. `detail` names the place: the body ends at column 40.")


def unknown_event(lesson: Lesson) -> None:
    lesson.step("An unknown event", "Third mistake: the JSON is right, but no event has this name.")
    lesson.send(request("POST", "/trigger", {**EVENT, "event": "payment_recieved"}))
    lesson.notice("422 means that a value is not acceptable. `detail` lists the acceptable ones.")


def wrong_method(lesson: Lesson) -> None:
    lesson.step("The wrong method", "Fourth mistake: the target is right, but the method is `GET`, as in a browser.")
    lesson.send(request("GET", "/trigger"))
    lesson.notice("405 means that this target does not take this method. `Allow` lists the methods that it takes.")


MISTAKES = [wrong_type, not_json, unknown_event, wrong_method]


def solution_6(exposee: int, receiver: int) -> bytes:
    body = {"url": receiver_url(receiver)}
    answer = talk(exposee, request("POST", "/webhooks/ping-back", body))
    assert answer.startswith(b"HTTP/1.1 409 ")
    return answer


# --- several requests on one connection ---------------------------------------------------------------------


def connection_stays_open(lesson: Lesson) -> None:
    lesson.step(
        "The connection stays open",
        """
        So far each request had a connection of its own, and the answer ended when the exposee closed it. Opening a
        connection costs time: the two machines have to agree on it first. So HTTP keeps connections open unless one
        side says `close`. This is called *keep-alive*.

        How does a client then know where an answer ends? The connection does not tell any more.
        """,
    )


def where_it_ends(lesson: Lesson) -> None:
    lesson.step("Where an answer ends", "The answer itself tells it. This function reads one answer and no byte more:")
    lesson.source(read_answer)


def two_requests(lesson: Lesson) -> None:
    lesson.step(
        "Two requests, one after the other",
        "We open one connection, send a request and read its answer. Then we send the next one on the same connection.",
    )
    both, answers = (request("GET", "/health", Connection="keep-alive"), request("GET", "/event-types")), list[bytes]()
    with socket.create_connection(("127.0.0.1", lesson.exposee), timeout=10) as connection:
        with connection.makefile("rb") as stream:
            for data in both:
                connection.sendall(data)
                answers.append(read_answer(stream))
    for data, answer in zip(both, answers, strict=True):  # now, as a reader takes longer than the exposee waits
        lesson.show("On this connection", ("> ", data), ("< ", answer), only=SHOWN)
    lesson.notice(
        "The first answer has no `Connection: close`, so the exposee waits for the next request.",
        "62 bytes after the first empty line the first answer was over, although nothing was closed.",
    )


SHOWN = ("HTTP/1.1", "Connection", "Content-Length", "{")


def pipelining(lesson: Lesson) -> None:
    first, second = request("GET", "/health", Connection="keep-alive"), request("GET", "/coffee")
    lesson.step(
        "Both at once",
        """
        A client need not wait for the first answer before it sends the second request. This is called *pipelining*. We
        write both requests with one `sendall`.
        """,
    )
    lesson.show("To the exposee", ("> ", first), ("> ", second), only=SHOWN)
    lesson.page.pause("send it")
    with socket.create_connection(("127.0.0.1", lesson.exposee), timeout=10) as connection:
        connection.sendall(first + second)
        with connection.makefile("rb") as stream:
            answers = [("< ", read_answer(stream)), ("< ", read_answer(stream))]
    lesson.show("The answers", *answers, only=SHOWN, most=120)
    lesson.notice(
        "The answers come in the order of the requests. Only so can the client tell them apart: an answer does not "
        "name its request.",
    )


def kept_open_by_the_exposee(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.register(url)
    calls = []
    for amount in (100, 200):
        message = lesson.trigger({"amount": amount})
        lesson.delivery(message, url)
        calls.append(lesson.arrived(message)[0])
    lesson.step(
        "The exposee does the same",
        """
        When the exposee delivers events, it is the client, and it keeps its connections open too. We have triggered two
        events. The receiver prints who called: an address, and the port of the caller's end of the connection.
        """,
    )
    lesson.show_lines("The first line of each dump on the receiver's terminal", calls)
    lesson.notice("It is the same port twice: both deliveries came on one connection.")


ONE_CONNECTION = [connection_stays_open, where_it_ends, two_requests, pipelining, kept_open_by_the_exposee]


def solution_7(exposee: int, receiver: int) -> bytes:
    body = json.dumps({"event": "payment_received", "data": 1})
    fields = {"Connection": "keep-alive", "Content_Length": str(len(body))}
    sent = request("POST", "/trigger", body + "hello\r\n\r\n", **fields)
    first, second = talk(exposee, sent).split(b"\nHTTP/1.1 ")
    assert first.startswith(b"HTTP/1.1 202 ")
    assert second.startswith(b"400 ")
    return b"HTTP/1.1 " + second
