"""The lesson: its chapters, in the order in which they are taught. `python3 -i lesson.py` is the prompt for exercises.

     1. A request is text                        7. Several requests on one connection
     2. Registering a webhook                    8. A receiver that fails
     3. Ping and ping-back                       9. Signatures
     4. Triggering an event                     10. The exposee is killed
     5. A receiver of your own                  11. The tunnel and the roles
     6. Mistakes, and how to read the answers   12. Unregistering

A chapter is a few functions that use the methods of `Lesson` (walkthrough.py), and an exercise with its solution, a
function too. It gets a fresh pair of programs and depends on no other chapter. The lesson shows the source of its
client and of the solutions, so their lines have 74 columns at most, which fit on a terminal of 80.
"""

from __future__ import annotations

import base64
import hmac
import json
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from walkthrough import Lesson

INTRODUCTION = """
Two programs talk to each other here. The *exposee* belongs to a service that has news: a payment has arrived, an
invoice is completed. The *receiver* belongs to an *integrator*, a person or a company that wants this news. A
*webhook* is the agreement between the two: "when this happens, send it to this address".

They speak HTTP, as browsers and websites do. HTTP is text on a network connection, so a person can read it. Lines that
begin with `> ` were sent, and lines that begin with `< ` came back. They are the bytes that went through the sockets of
the two programs. A line that is too long goes on in the next ones, which begin with `+ `. A line that begins with
`... ` says how much was left out.

Both programs run on this machine. Each chapter has a fresh pair of them.
"""

EXERCISES = """
Every chapter ends with an exercise. To do it, open a second terminal in this directory and type `python3 -i lesson.py`
(on Windows `py -i lesson.py`). This gives a Python prompt with the functions of the lesson: `request` writes a request,
`talk` sends it to a port and returns the answer, `receiver_url` makes the receiver's URL of its port.
"""

PROMPT = """
exposee, receiver = {}, {}
print(talk(exposee, request("GET", "/health")).decode())
print(receiver_url(receiver))
event = {{"event": "payment_received", "data": 1}}
answer = talk(exposee, request("POST", "/trigger", event))
print(answer.decode())
"""

SOLUTIONS = """
Each solution is a function of `lesson.py` too. It takes the two ports, and its `assert` lines check the answer. Here it
runs with a fresh pair of programs, on other ports, whose receiver is registered for `payment_received`. So what you
have sent does not affect it. If you call one yourself, do so before your own tries.
"""

LIVE = "\nWhile this walkthrough waits for Enter, both programs run. Their ports stay the same to the end."

ON_THIS_PAGE = """
`python3 walkthrough.py --markdown` prints this page. `python3 walkthrough.py` shows the same, one step at a time. While
it waits for Enter, both programs run and answer your own requests. For this page, start them yourself:
`python3 exposee.py` listens on port 3000, `python3 receiver.py` on port 8080.

Ids, times, ports, signatures and durations differ in every run. This page has fixed values in their place, and each
`Content-Length` fits them.
"""

# --- the client: a few functions on a socket, so that a reader sees every byte ----------------------------------------


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


def registration(url: str, **more: str) -> bytes:
    """The request that registers a URL for payment_received. `more` are header fields."""
    return request("POST", "/webhooks/register", {"url": url, "event_types": ["payment_received"]}, **more)


class Chapter(NamedTuple):
    """`solution` takes the ports of the exposee and the receiver, and returns the answer that shows the solution.

    It gets a pair of its own, with the receiver registered for payment_received.
    """

    title: str
    parts: Sequence[Callable[[Lesson], None]]
    exercise: str
    solution: Callable[[int, int], bytes]
    receiver_options: tuple[str, ...] = ()
    exposee_options: tuple[str, ...] = ()


CHAPTERS: list[Chapter] = []
EVENT = {"event": "payment_received", "data": 1}
PAYMENT = {"event": "payment_received", "data": {"amount": 100}}

# --- 1. A request is text ---------------------------------------------------------------------------------------------

START = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


def connected(lesson: Lesson) -> socket.socket:
    """A new connection, on which the three lines are sent."""
    connection = lesson.open.enter_context(socket.create_connection(("127.0.0.1", lesson.exposee)))
    connection.sendall(START)
    return connection


def came(connection: socket.socket, seconds: float) -> bytes:
    """What comes within these seconds, b"" when nothing does."""
    connection.settimeout(seconds)
    try:
        return connection.recv(65_536)
    except TimeoutError:
        return b""


def first_request(lesson: Lesson) -> None:
    connection = three_lines(lesson)
    answer = empty_line(lesson, connection)
    their_parts(lesson)
    as_python_prints_them(lesson, answer)
    two_functions(lesson)


def three_lines(lesson: Lesson) -> socket.socket:
    lesson.step("Typing a request", """
        A *server* is a program that waits for connections. A *client* is a program that opens one. A *port* is a
        number: it tells the system which server a connection is for. Each program has a *socket*, which is its end of
        the connection. What one program writes into its socket, the other reads from its own.

        We connect to the exposee and write three lines:
    """)
    lesson.show("To the exposee", ("> ", START[:-2]))
    lesson.pause()
    connection = connected(lesson)
    early = came(connection, 0.33).decode() or "nothing"
    lesson.step("Silence", f"""
        The three lines are sent, and we have waited for a third of a second. What came back: {early}.

        A server reads the beginning of a request line by line, and an empty line ends it. We have sent no empty line,
        so the exposee waits for more. It does not wait for ever, because silent clients would use up its connections.
        Now we send the empty line.
    """)
    return connection


def empty_line(lesson: Lesson, connection: socket.socket) -> bytes:
    """Send the empty line and return the answer."""
    lesson.pause()
    if given_up := came(connection, 0.01):
        lesson.show("We took too long: the exposee has closed the connection", ("< ", given_up))
        lesson.say("So we send the three lines on a new connection, and the empty line at once.")
        lesson.pause()
        connection = connected(lesson)
    connection.sendall(b"\r\n")
    connection.settimeout(15)
    with connection.makefile("rb") as stream:
        answer = stream.read()
    lesson.step("The answer", "The empty line ended the request, and the exposee answered at once.")
    lesson.show("The empty line, and the answer to it", ("> ", b""), ("< ", answer))
    return answer


def their_parts(lesson: Lesson) -> None:
    lesson.step("The parts of a request", """
        What we sent is called a *request*.

        - Its first line has a *method* (`GET` asks for something), a *target* (`/health` is the thing asked for) and
          the version of HTTP.
        - The lines after it are *header fields*. Each has a name and a value. Upper and lower case are the same in a
          name.
        - `Host` is the server's name, as the client knows it. `localhost` is every machine's name for itself, and
          `127.0.0.1` is the address of that name.
        - `Connection: close` asks the server to close the connection after its answer. Without it the connection stays
          open for the next request.
    """)
    lesson.step("The parts of an answer", """
        What the exposee sent is called a *response*, or an answer.

        - Its first line has a *status*: 200 means success. The `OK` after it is for people; programs read the number.
        - Its header fields end with an empty line too. After that line comes its *body*.
        - `Content-Type` is the body's format: JSON, a notation for values that every programming language can read.
        - `Content-Length` is the number of its bytes.
    """)


def as_python_prints_them(lesson: Lesson, answer: bytes) -> None:
    lesson.step("As Python prints it", r"""
        Each line ends with two characters that no terminal shows: carriage return and line feed. Python writes them as
        `\r\n`. These are the same bytes once more, as Python prints them:
    """)
    lesson.show_lines("The request", [repr(START + b"\r\n")])
    lesson.show_lines("The answer", [repr(answer)])
    lesson.say(r"""
        - The empty line is the second of the two `\r\n` that follow each other.
        - This JSON ends with a line feed. `Content-Length` counts it.
    """)


def two_functions(lesson: Lesson) -> None:
    lesson.step("The same with a function", """
        From here on two small functions do the typing. `talk` sends the bytes and returns those of the answer.
    """)
    lesson.source(talk)
    lesson.step("Writing a request", "`request` writes the bytes. This lesson has no other client.")
    lesson.source(request)
    lesson.step("Both together", """
        We ask for the types of events that the exposee knows. An *event* is one thing that happened, and its *type* is
        the kind of thing. In Python: `talk(exposee, request("GET", "/event-types"))`.
    """)
    lesson.send(request("GET", "/event-types"))
    lesson.say("- A browser and `curl` do the same: they write a request and read the answer.")


def solution_1(exposee: int, receiver: int) -> bytes:
    answer = talk(exposee, request("GET", "/coffee"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    return answer


CHAPTERS.append(Chapter("A request is text", [first_request], """
    Ask the exposee for a target that it does not have, such as `/coffee`. Which status is the answer?
""", solution_1))

# --- 2. Registering a webhook -----------------------------------------------------------------------------------------


def registering(lesson: Lesson) -> None:
    register = registration(receiver_url(lesson.receiver))
    lesson.step("Registering", """
        The integrator tells the exposee the receiver's address and the types of events to send there. The address is a
        *URL*: it has the protocol, the machine, the port and the path. Both go into the body of a request. Its method
        is `POST`, which hands something over.
    """)
    lesson.send(register)
    lesson.say("""
        - A request can have a body too, with the same two fields. Without `Content-Length` the exposee could not know
          where the body ends.
        - The exposee has stored the URL. It has sent nothing to the receiver yet.
        - `register_webhook.py` sends the same body to the same target.
    """)
    lesson.step("What the exposee remembers", """
        The exposee answered only after the webhook was on the disk, so a power cut cannot lose it. The file is text.
    """)
    lesson.file("webhooks.json")
    lesson.say("- One entry is one URL for one type of event.")
    lesson.step("Registering again", """
        A network can lose an answer. An integrator that has not received the 200 sends the request once more. This must
        do no harm, so we try it.
    """)
    lesson.send(register, only=("POST", "url"))
    lesson.file("webhooks.json")
    lesson.say("""
        - The answer is the same, and there is still one entry. A request is *idempotent* if sending it twice has the
          same effect as sending it once.
    """)


def solution_2(exposee: int, receiver: int) -> bytes:
    url = receiver_url(receiver)
    types = ["invoice_processing", "invoice_completed"]
    body = {"url": url, "event_types": types}
    answer = talk(exposee, request("POST", "/webhooks/register", body))
    assert answer.startswith(b"HTTP/1.1 200 ")
    answer = talk(exposee, request("GET", "/webhooks"))
    assert answer.count(url.encode()) == 3
    return answer


CHAPTERS.append(Chapter("Registering a webhook", [registering], """
    Register the same URL for two further types of events with one request. Then ask for the list of webhooks:
    `GET /webhooks`.
""", solution_2))

# --- 3. Ping and ping-back --------------------------------------------------------------------------------------------


def ping(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.register(url)
    lesson.step("A ping", """
        The receiver is registered, as in chapter 2. A *ping* is a test: a request that only shows whether the receiver
        can be reached. We ask the exposee to ping every registered URL. It answers with the outcomes.
    """)
    message = lesson.send(request("GET", "/ping"), most=400)["id"]
    lesson.say("""
        - The ping is a *message*, and `msg_…` is its id. One message for one URL is a *delivery*, and its id begins
          with `dlv_`.
        - The delivery's `state` is `delivered`, because the receiver had answered 204 by then.
    """)
    lesson.step("One end of the connection", """
        For the ping, the exposee was the client. It keeps the bytes that it sent and received. We ask it for them.
    """)
    lesson.show_attempt(lesson.delivery(message, url), 1, title="At the exposee's end (`>` was sent, `<` came back)")
    lesson.step("The other end", """
        The receiver was the server. It runs with `--raw`, so it prints the bytes that it received and sent: the same
        lines, with the other marks.
    """)
    lesson.show_arrived(message)
    lesson.step("What a delivery has", "Below the dump, the receiver has printed what counts for its owner:")
    lesson.show_printed('"ping"')
    lesson.say("""
        - The body of this request is also called its *payload*. It names the event and has its data. Facts about the
          delivery, such as `webhook-id`, are in header fields.
        - 204 means: received, and the response has no body. Any status from 200 to 299 counts as success.
        - `User-Agent` is the name of the program that sends the request.
        - `Bypass-Tunnel-Reminder` is for tunnels (chapter 11). Some answer with a page of their own without it.
    """)


def ping_back(lesson: Lesson) -> None:
    lesson.step("The ping-back", """
        A 204 shows that some program answers at that address. With a *ping-back* the integrator claims that the ping
        has arrived. The exposee records the claim and answers with the payload of the ping. It proves nothing: the
        payload is always the same, and anybody can send a ping-back.
    """)
    lesson.send(request("POST", "/webhooks/ping-back", {"url": receiver_url(lesson.receiver)}))
    lesson.say("- A receiver that is started with `--ping-back` and the two URLs sends one after each ping.")
    lesson.step("Confirmed", "Now we ask the exposee for its newest delivery, which is the ping.")
    lesson.send(request("GET", "/deliveries?limit=1"))
    lesson.say("""
        - `confirmed` has become `true`.
        - The part of a target after the `?` is the *query*. Here it limits the answer to one delivery.
    """)


def solution_3(exposee: int, receiver: int) -> bytes:
    url = "http://127.0.0.1:9/nobody"
    body = {"url": url, "event_types": ["payment_received"]}
    talk(exposee, request("POST", "/webhooks/register", body))
    answer = talk(exposee, request("GET", "/ping"))
    assert b"delivered to 1 of 2 webhook(s)" in answer
    return answer


CHAPTERS.append(Chapter("Ping and ping-back", [ping, ping_back], """
    Register a second URL, on a port on which no program listens, and ping again. How many pings are delivered?
""", solution_3))

# --- 4. Triggering an event -------------------------------------------------------------------------------------------


def triggering(lesson: Lesson) -> None:
    other = lesson.programs.run("receiver.py", "--port", str(lesson.second), "--raw")
    other.wait_until_it_listens()
    urls = [receiver_url(port) for port in (lesson.receiver, lesson.second)]
    for url in urls:
        lesson.register(url)
    lesson.step("Something happens", """
        Two integrators have registered for `payment_received`. Each has its own receiver, on its own port. Now a
        payment arrives, and the service tells the exposee. This is called to *trigger* the event.
    """)
    message = lesson.send(request("POST", "/trigger", PAYMENT))["id"]
    lesson.say("""
        - 202 means: accepted, and not done yet. The event is on the exposee's disk, so it will be delivered even after
          a crash. We do not wait for the receivers, which may be slow.
        - `Location` is the target that shows the outcome.
    """)
    lesson.step("Fan-out", """
        The exposee sends the event to every URL that is registered for it. This is called *fan-out*.
    """)
    lesson.show_arrived(message, end="the first receiver's end")
    lesson.step("One message, two deliveries", "The second receiver has the same payload.")
    some = ("POST", "Host", "webhook-id", "event", "204")
    lesson.show_arrived(message, other, "the second receiver's end", only=some)
    lesson.say("""
        - Both requests have the same `webhook-id`, because they carry one message.
        - `Host` differs: it has the machine and the port of each URL.
        - Neither delivery waits for the other.
    """)
    lesson.step("Following the Location", "We ask for the outcome, at the target that `Location` has named.")
    for url in urls:
        lesson.delivery(message, url)
    lesson.send(request("GET", f"/deliveries?message={message}"), most=600)
    lesson.say("- The list has two deliveries, the last one first. Each has its own state and status.")


def waiting(lesson: Lesson) -> None:
    lesson.step("Waiting after all", """
        Some callers want to wait for the outcome, a script for example. With the field `Prefer` a client asks for
        something that the server may ignore. Here it asks the exposee to wait for the first attempts, five seconds at
        most.
    """)
    lesson.send(request("POST", "/trigger", PAYMENT, Prefer="wait=5"))
    lesson.say("""
        - The status is 200, and the answer has the outcomes of the deliveries. `Preference-Applied` means that the
          exposee did what `Prefer` asked for.
    """)


def solution_4(exposee: int, receiver: int) -> bytes:
    body = {"event": "invoice_processing", "data": "nobody has asked"}
    answer = talk(exposee, request("POST", "/trigger", body))
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert b"nobody is registered for invoice_processing" in answer
    return answer


CHAPTERS.append(Chapter("Triggering an event", [triggering, waiting], """
    Trigger an event for which no URL is registered. Is that an error?
""", solution_4))

# --- 5. A receiver of your own ----------------------------------------------------------------------------------------

OWN_RECEIVER = '''
"""A receiver: python3 own_receiver.py 8090"""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        print("Received:", body.decode(), flush=True)
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    address = ("127.0.0.1", int(sys.argv[1]))
    server = HTTPServer(address, Receiver)
    print("Receiver on http://%s:%d" % address, flush=True)
    server.serve_forever()
'''


def fifteen_lines(lesson: Lesson) -> None:
    lesson.step("A receiver in fifteen lines", """
        A receiver is any program that takes a `POST` and answers it. Python's `http.server` reads the request line and
        the header fields. The rest is in these lines. They are a whole program: saved as `own_receiver.py`, they run.
    """)
    lesson.page.prompt("", OWN_RECEIVER.strip().split("\n"))
    lesson.step("Line by line", """
        `http.server` calls `do_POST` for each request with that method.

        - `self.headers` has the header fields, and `self.rfile` is what the client sends after them. The body has as
          many bytes as `Content-Length` says. `read()` without a number would wait until the client closes.
        - `send_response` and `end_headers` write the first line, the fields and the empty line. 204 has no body.
        - `serve_forever` waits for the next connection, for ever.
    """)


def own_receiver(lesson: Lesson) -> None:
    url = f"http://127.0.0.1:{lesson.plain}/"
    lesson.step("It runs", f"We have started `own_receiver.py` with a port, and register it: {url}")
    script = lesson.programs.folder / "own_receiver.py"
    script.write_text(OWN_RECEIVER, "utf-8")
    own = lesson.programs.run(str(script), str(lesson.plain))
    own.wait_until_it_listens()
    lesson.send(registration(url))
    lesson.step("Its first event", "Now a payment arrives at the exposee.")
    delivery = lesson.deliver(url, {"amount": 100})
    lesson.show_attempt(delivery, 1, only=("Content-Length", "webhook-id", "event", "Server"))
    printed = own.wait_until(lambda lines: lines[1:] if len(lines) > 2 else [], "two lines")
    lesson.show_lines("On its terminal", printed)
    lesson.say("""
        - The second line on the terminal is from `http.server` itself.
        - It answers in HTTP/1.0, the older version, in which every connection ends with the answer.
    """)
    lesson.step("What it lacks", """
        It is enough to try an exposee. `receiver.py` does more. The next chapters say why.

        - It believes everybody. A signature shows who has sent a request (chapter 9).
        - It does not notice that it receives a message twice (chapter 10).
        - It serves one client at a time. A silent one keeps all others out.
        - It reads as many bytes as the client claims to send, and a request without `Content-Length` is a traceback.
        - It closes each connection after one answer (chapter 7).
    """)


def solution_5(exposee: int, receiver: int) -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        body = {"url": url, "event_types": ["payment_received"]}
        talk(exposee, request("POST", "/webhooks/register", body))
        event = {"event": "payment_received", "data": "hello"}
        answer = talk(exposee, request("POST", "/trigger", event))
        connection, _ = server.accept()
        with connection:
            received = connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert received.startswith(b"POST / HTTP/1.1\r\n")
    assert received.endswith(b'"data": "hello"}')
    return answer


CHAPTERS.append(Chapter("A receiver of your own", [fifteen_lines, own_receiver], """
    Write a receiver with nothing but a socket: accept one connection, read the request, answer 204. Register it and
    trigger an event. (`socket.create_server` makes a server's socket, its `accept` waits for a client.)
""", solution_5))

# --- 6. Mistakes, and how to read the answers -------------------------------------------------------------------------


def mistakes(lesson: Lesson) -> None:
    lesson.step("The wrong type", """
        Now we make mistakes on purpose and read the answers. First mistake: the body is JSON, but `Content-Type` names
        the format of web forms. `curl -d` sends this type unless `-H` names another.
    """)
    lesson.send(request("POST", "/trigger", EVENT, Content_Type="application/x-www-form-urlencoded"))
    lesson.say("""
        - A status from 400 to 499 means that the request is wrong: the same request will fail again. From 500 to 599
          the server failed: the request may be right.
        - The body of an error is JSON too, a *problem*. Its `detail` says what was wrong and what was expected.
    """)
    lesson.step("Not quite JSON", "Second mistake: the last brace is missing.")
    lesson.send(request("POST", "/trigger", json.dumps(EVENT)[:-1]))
    lesson.say("- 400 means that the body cannot be read. `detail` names the place: the body ends at column 40.")
    lesson.step("An unknown event", "Third mistake: the JSON is right, but no event has this name.")
    lesson.send(request("POST", "/trigger", {**EVENT, "event": "payment_recieved"}))
    lesson.say("- 422 means that a value is not acceptable. `detail` lists the acceptable ones.")
    lesson.step("The wrong method", "Fourth mistake: the target is right, but the method is `GET`, as in a browser.")
    lesson.send(request("GET", "/trigger"))
    lesson.say("- 405 means that this target does not take this method. `Allow` lists the methods that it takes.")


def solution_6(exposee: int, receiver: int) -> bytes:
    body = {"url": receiver_url(receiver)}
    answer = talk(exposee, request("POST", "/webhooks/ping-back", body))
    assert answer.startswith(b"HTTP/1.1 409 ")
    return answer


CHAPTERS.append(Chapter("Mistakes, and how to read the answers", [mistakes], """
    409 means that the request is right, but not possible in the present state. Make the exposee answer 409. (A
    ping-back confirms a ping. Send one before there has been a ping.)
""", solution_6))

# --- 7. Several requests on one connection ----------------------------------------------------------------------------

SHOWN = ("HTTP/1.1", "Connection", "Content-Length", "{")


def keep_alive(lesson: Lesson) -> None:
    lesson.step("The connection stays open", """
        So far each request had a connection of its own, and the answer ended when the exposee closed it. Opening a
        connection costs time: the two machines have to agree on it first. So HTTP keeps connections open unless one
        side says `close`. This is called *keep-alive*.

        How does a client then know where an answer ends? The connection does not tell any more.
    """)
    lesson.step("Where an answer ends", "The answer itself tells it. This function reads one answer and no byte more:")
    lesson.source(read_answer)
    lesson.step("Two requests, one after the other", """
        We open one connection, send a request and read its answer. Then we send the next one on the same connection.
    """)
    both, answers = (request("GET", "/health", Connection="keep-alive"), request("GET", "/event-types")), list[bytes]()
    with socket.create_connection(("127.0.0.1", lesson.exposee), timeout=10) as connection:
        with connection.makefile("rb") as stream:
            for data in both:
                connection.sendall(data)
                answers.append(read_answer(stream))
    for data, answer in zip(both, answers, strict=True):  # now, as a reader takes longer than the exposee waits
        lesson.show("On this connection", ("> ", data), ("< ", answer), only=SHOWN)
    lesson.say("""
        - The first answer has no `Connection: close`, so the exposee waits for the next request.
        - 62 bytes after the first empty line the first answer was over, although nothing was closed.
    """)


def pipelining(lesson: Lesson) -> None:
    both = request("GET", "/health", Connection="keep-alive"), request("GET", "/coffee")
    lesson.step("Both at once", """
        A client need not wait for the first answer before it sends the second request. This is called *pipelining*. We
        write both requests with one `sendall`.
    """)
    lesson.show("To the exposee", *(("> ", one) for one in both), only=SHOWN)
    lesson.page.pause("send it")
    with socket.create_connection(("127.0.0.1", lesson.exposee), timeout=10) as connection:
        connection.sendall(b"".join(both))
        with connection.makefile("rb") as stream:
            answers = [("< ", read_answer(stream)) for _ in both]
    lesson.show("The answers", *answers, only=SHOWN, most=120)
    lesson.say("""
        - The answers come in the order of the requests. Only so can the client tell them apart: an answer does not
          name its request.
    """)


def kept_open_by_the_exposee(lesson: Lesson) -> None:
    lesson.step("The exposee does the same", """
        When the exposee delivers events, it is the client, and it keeps its connections open too. We have triggered two
        events. The receiver prints who called: an address, and the port of the caller's end of the connection.
    """)
    url = receiver_url(lesson.receiver)
    messages = [lesson.deliver(url, {"amount": amount})["message"] for amount in (100, 200)]
    calls = [lesson.arrived(message)[0] for message in messages]
    lesson.show_lines("The first line of each dump on the receiver's terminal", calls)
    lesson.say("- It is the same port twice: both deliveries came on one connection.")


def solution_7(exposee: int, receiver: int) -> bytes:
    body = json.dumps({"event": "payment_received", "data": 1})
    fields = {"Connection": "keep-alive", "Content_Length": str(len(body))}
    sent = request("POST", "/trigger", body + "hello\r\n\r\n", **fields)
    first, second = talk(exposee, sent).split(b"\nHTTP/1.1 ")
    assert first.startswith(b"HTTP/1.1 202 ")
    assert second.startswith(b"400 ")
    return b"HTTP/1.1 " + second


CHAPTERS.append(Chapter("Several requests on one connection", [keep_alive, pipelining, kept_open_by_the_exposee], """
    Send a body that is longer than its `Content-Length` says, on a connection that stays open. What does the exposee do
    with the rest? (`request` takes `Content_Length` and `Connection` as fields.)
""", solution_7))

# --- 8. A receiver that fails -----------------------------------------------------------------------------------------

ATTEMPT = ("webhook-", "Retry-After", "Content-Length: 100", "only half")  # the lines of an attempt that matter here


def failing_once(lesson: Lesson, query: str, amount: int) -> dict[str, Any]:
    """A delivery to a receiver that fails as the query says, after its second attempt."""
    url = receiver_url(lesson.receiver, query + "&times=1")
    delivery = lesson.deliver(url, {"amount": amount}, attempts=2)
    lesson.unregister(url)
    return delivery


def failures(lesson: Lesson) -> None:
    lesson.step("The connection breaks", """
        Our receiver fails when the query of its URL asks for it. With `respond=reset` it resets the connection, and
        with `times=1` it does so only once.

        An *attempt* is one request of a delivery. When one fails, the exposee makes another: here after 0.5 s, and the
        next one after 1 s (each ±20 %). Its usual schedule has ten attempts in three days, with pauses that grow.
    """)
    delivery = failing_once(lesson, "?respond=reset", 100)
    lesson.show_attempt(delivery, 1)
    lesson.say("- The exposee sent the whole request. After a reset it cannot know whether the receiver has read it.")
    lesson.step("The next attempt", "After the pause, the exposee sends the message again.")
    lesson.show_attempt(delivery, 2, pause=0.5, only=ATTEMPT)
    lesson.say("""
        - The second attempt has the same `webhook-id`. With it, a receiver recognises a message that it has read
          before.
        - `webhook-timestamp` is the time of the attempt, in seconds since 1970.
    """)
    lesson.step("No answer", """
        A receiver can also take the request and never answer. The exposee stops waiting after a time that is called
        its *timeout*. Our exposee was started with 1 s; the default is 10 s.
    """)
    delivery = failing_once(lesson, "?respond=hang", 200)
    lesson.show_attempt(delivery, 1, only=ATTEMPT)
    lesson.show_attempt(delivery, 2, pause=0.5, only=ATTEMPT)


def come_back_later(lesson: Lesson) -> None:
    lesson.step("Please come back later", """
        A receiver that cannot work now answers 503. Its field `Retry-After` is the number of seconds after which it
        expects to work again.
    """)
    delivery = failing_once(lesson, "?respond=503&retry_after=1", 300)
    lesson.show_attempt(delivery, 1, only=ATTEMPT)
    lesson.show_attempt(delivery, 2, pause=1.0, only=ATTEMPT)
    lesson.say("- The exposee waited for the 1 s that `Retry-After` asked for, not for the 0.5 s of its schedule.")


def given_up(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver, "?respond=half&times=3")
    lesson.step("Half an answer", """
        This receiver answers 200 with `Content-Length: 100` and closes the connection after 12 bytes of the body. It
        does so three times. Our exposee's schedule has two pauses, so it makes three attempts.
    """)
    delivery = lesson.deliver(url, {"amount": 400}, attempts=3)
    lesson.show_attempt(delivery, 1, only=ATTEMPT)
    lesson.step("Given up", "The other two attempts fail in the same way.")
    outcomes = [f"Attempt {number}: {one['error']}" for number, one in enumerate(delivery["attempts"], 1)]
    lesson.show_lines("The outcomes", outcomes)
    lesson.say("""
        - A status of 200 is not enough for a success: the answer must be whole. The receiver may have failed while it
          processed the message.
        - The state of the delivery is now `failed`: the exposee makes no further attempts.
    """)
    lesson.step("One more time, by hand", """
        After three failures the receiver works normally. The integrator wants the message that it missed. A further
        attempt that a person asks for is called a *redelivery*.
    """)
    lesson.send(request("POST", f"/deliveries/{delivery['id']}/attempts"))
    lesson.step("The fourth attempt", "202 meant that the exposee would make the attempt. It has done so:")
    lesson.show_attempt(lesson.delivery(delivery["message"], url, attempts=4), 4, only=(*ATTEMPT, "event"))
    lesson.unregister(url)
    lesson.say("- The fourth attempt has the `webhook-id` of the first.")


def gone(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver, "?respond=410")
    lesson.step("Gone", """
        410 means: send nothing to this URL again. The exposee makes no further attempt and unregisters the URL.
    """)
    lesson.show_attempt(lesson.deliver(url, {"amount": 500}), 1, only=ATTEMPT)
    lesson.wait_until_unregistered(url)
    lesson.file("webhooks.json")


def solution_8(exposee: int, receiver: int) -> bytes:
    url = receiver_url(receiver, "?respond=redirect")
    body = {"url": url, "event_types": ["invoice_completed"]}
    talk(exposee, request("POST", "/webhooks/register", body))
    event = {"event": "invoice_completed", "data": "where do you go?"}
    sent = request("POST", "/trigger", event, Prefer="wait=5")
    answer = talk(exposee, sent)
    assert b'"state": "retrying"' in answer
    assert b'"status": 302' in answer
    return answer


CHAPTERS.append(Chapter("A receiver that fails", [failures, come_back_later, given_up, gone], """
    With `respond=redirect` the receiver answers 302, which names another URL. Does the exposee send the request there?
    Find out with one trigger that waits.
""", solution_8))

# --- 9. Signatures ----------------------------------------------------------------------------------------------------

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # published with the specification: for lessons only
DELIVERED = ("POST", "Content-Length", "webhook-", "Connection", "event")  # the lines that matter in what we send


def standard_signature(
    secret: str, message_id: str, timestamp: str, body: bytes
) -> str:
    """Standard Webhooks: sign the id, the time and the body.

    The key is the base64 after whsec_, decoded.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.digest(key, signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def github_signature(secret: str, body: bytes) -> str:
    """GitHub: sign the body only. The key is the secret as text."""
    digest = hmac.digest(secret.encode(), body, "sha256")
    return "sha256=" + digest.hex()


def field(message: str, name: str) -> str:
    """The value of a header field."""
    return message.partition(f"\r\n{name}: ")[2].partition("\r\n")[0]


def content(message: str) -> bytes:
    """The body."""
    return message.partition("\r\n\r\n")[2].encode("latin-1")


def signatures(lesson: Lesson) -> None:
    sent = signed_delivery(lesson)
    by_hand(lesson, sent)
    changed(lesson, sent)
    replayed(lesson)


def signed_delivery(lesson: Lesson) -> str:
    """Returns the request that was delivered."""
    url = receiver_url(lesson.receiver)
    lesson.step("A shared secret", """
        Anybody can send a request like ours to the receiver. So the integrator registers a *secret* with the URL, and
        starts the receiver with the same secret. Only the two programs know it.
    """)
    body = {"url": url, "event_types": ["payment_received"], "secret": SECRET}
    lesson.send(request("POST", "/webhooks/register", body))
    lesson.say("""
        - This request did contain the secret. It is shown as `***`, so the body looks shorter than its
          `Content-Length`.
    """)
    lesson.step("A signed delivery", """
        Now a payment arrives. The delivery does not contain the secret. It contains a *signature*: a number that is
        calculated from the secret and the request, and that nobody can calculate without the secret.
    """)
    sent = str(lesson.deliver(url, {"amount": 100})["attempts"][0]["request"])
    message_id, timestamp, signed = field(sent, "webhook-id"), field(sent, "webhook-timestamp"), content(sent)
    for version in (signed, signed.replace(b"100", b"900"), signed.replace(b" ", b"")):
        lesson.sign_on_page(standard_signature, SECRET, message_id, timestamp, version)
    lesson.show_arrived(message_id)
    lesson.step("Two dialects", "The receiver has calculated the signature too, and its own is the same:")
    lesson.show_printed("signature verified")
    lesson.say("""
        - There are two signatures. `webhook-signature` is that of Standard Webhooks, which many services use.
          `X-Hub-Signature-256` is GitHub's.
        - A receiver needs to verify only one of them. Ours requires the first: GitHub's covers only the body, so an
          old request would pass as a new one.
    """)
    return sent


def by_hand(lesson: Lesson, sent: str) -> None:
    lesson.step("Signing by hand", """
        Both dialects use HMAC-SHA256. This function makes 32 bytes from a key and a text. When one bit of either
        changes, the 32 bytes are completely different. First Standard Webhooks:
    """)
    lesson.source(standard_signature)
    lesson.step("The other dialect", "GitHub's is shorter:")
    lesson.source(github_signature)
    lesson.say("""
        - The dialects sign different texts. Their keys differ: the decoded secret, or the secret as text. They write
          the 32 bytes differently: as base64, or as hexadecimal digits.
    """)
    lesson.step("Compared", "We calculate both signatures of the request above.")
    message_id, timestamp = field(sent, "webhook-id"), field(sent, "webhook-timestamp")
    standard, github = field(sent, "webhook-signature"), field(sent, "X-Hub-Signature-256")
    for name, ours, theirs in (
        ("Standard Webhooks", standard_signature(SECRET, message_id, timestamp, content(sent)), standard),
        ("GitHub", github_signature(SECRET, content(sent)), github),
    ):
        verdict = "the same" if ours == theirs else "different"
        lesson.show_lines(f"{name}: calculated here, and in the request ({verdict})", [ours, theirs])


def changed(lesson: Lesson, sent: str) -> None:
    sent = sent.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
    lesson.step("A byte is changed", """
        Suppose that somebody between the two programs changes 100 to 900 and nothing else. We do this ourselves and
        send the changed request to the receiver. We add `Connection: close`; only the id, the time and the body are
        signed.
    """)
    lesson.send(sent.replace("100}", "900}").encode("latin-1"), lesson.receiver, only=DELIVERED)
    lesson.say("""
        - 401 means that the request does not prove its sender. The answer gives no reason, because a forger could
          learn from it.
    """)
    lesson.step("Why it was refused", "The receiver's terminal shows the reason to its owner.")
    lesson.show_printed('"amount": 900', most=6)
    lesson.say("- The receiver shows which bytes it signed, with which key, and what came out.")
    lesson.step("A well-meaning change", """
        Suppose that a program between the two parses the JSON and writes it again without spaces. The values are the
        same and the bytes are not. A signature is calculated from bytes.
    """)
    again = json.dumps(json.loads(content(sent)), separators=(",", ":"))
    head = sent.partition("\r\n\r\n")[0]
    head = head.replace(f"Content-Length: {len(content(sent))}", f"Content-Length: {len(again)}")
    lesson.send(f"{head}\r\n\r\n{again}".encode(), lesson.receiver, only=DELIVERED)
    lesson.step("The known mistake", "The receiver tries the usual mistakes and names the one that explains it.")
    lesson.show_printed("parsed and written again", most=6)
    lesson.say("- The remedy is to verify the bytes as they came, before they are parsed.")


def replayed(lesson: Lesson) -> None:
    lesson.step("An old request", """
        Somebody may record a signed request and send it again. This is called a *replay*. The signature of the body
        would still be right, so Standard Webhooks signs the time too. Its specification has a signed request as an
        example, and our secret is the one of that example. We send that request.
    """)
    fields = {"webhook_id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook_timestamp": "1614265330"}
    fields["webhook_signature"] = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    lesson.send(request("POST", "/webhook-receiver", '{"test": 2432232314}', **fields), lesson.receiver)
    lesson.step("Too old", "The answer does not say why. The terminal does:")
    lesson.show_printed("a replay?")
    lesson.say("""
        - The signature is right, but the request is refused: 1614265330 was in February 2021.
        - The receiver accepts times up to five minutes off. Within these, it recognises a replay by its `webhook-id`.
    """)


def solution_9(exposee: int, receiver: int) -> bytes:
    event = {"event": "payment_received", "data": "signed by hand"}
    body, now = json.dumps(event), str(int(time.time()))
    sign = standard_signature(SECRET, "msg_mine", now, body.encode())
    fields = {"webhook_id": "msg_mine", "webhook_timestamp": now}
    fields["webhook_signature"] = sign
    sent = request("POST", "/webhook-receiver", body, **fields)
    answer = talk(receiver, sent)
    assert answer.startswith(b"HTTP/1.1 204 ")
    return answer


CHAPTERS.append(Chapter("Signatures", [signatures], """
    Sign a request of your own so that the receiver accepts it. At the prompt, `SECRET` is the receiver's secret.
""", solution_9, receiver_options=("--secret", SECRET)))

# --- 10. The exposee is killed ----------------------------------------------------------------------------------------


def killed(lesson: Lesson) -> None:
    url, slow = f"http://127.0.0.1:{lesson.plain}/slow", lesson.listener()
    lesson.register(url)
    lesson.step("A slow receiver", """
        A 202 means that the exposee will deliver the event. Here we kill the exposee before it has done so, in the
        middle of an attempt. For this we need a slow receiver: a plain socket of the lesson. It reads the request and
        does not answer.
    """)
    message = lesson.send(request("POST", "/trigger", PAYMENT))["id"]
    lesson.step("The attempt", "The request has arrived at our socket, which does not answer.")
    lesson.show("Received by our socket", ("< ", slow.receive(message)))
    lesson.pause()
    lesson.programs.exposee.kill()
    lesson.step("The exposee is killed", """
        We have killed the exposee with `kill -9`. The process was not told and could not save anything. Its *journal*
        is on the disk: a file to which the exposee appends what it has accepted and what it has done.
    """)
    lesson.file("webhooks.deliveries.jsonl")
    lesson.say("""
        - The second line is the message and its URLs. It was on the disk before the 202 was sent.
        - The first line marks the beginning of a write: all that comes before it is on the disk.
        - There is no line with the state of the delivery. So the exposee will take it as not delivered.
    """)
    lesson.step("Started again", "We start the same command in the same folder. Nobody triggers anything.")
    lesson.programs.start_exposee()
    arrived, answer = slow.receive(message), b"HTTP/1.1 204 No Content\r\n\r\n"
    slow.answer(answer)
    lesson.show("Received by our socket, which answers this time", ("< ", arrived), ("> ", answer))
    state = lesson.delivery(message, url)["state"]
    lesson.unregister(url)
    lesson.step("At least once", f"""
        The exposee lists the delivery with the state `{state}`.

        - The `webhook-id` is the same as before. The event was delivered after the crash.
        - Our socket received the message twice. A program that books payments would perhaps have booked this one twice.
        - This guarantee is called *at least once*. A sender that never repeats a message would lose some.
    """)


def duplicates(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.step("Duplicates", """
        So the receiver must recognise a *duplicate*. It compares the `webhook-id` with those that it has answered
        before. We deliver a message to `receiver.py`, and then ask for a redelivery of it.
    """)
    delivery = lesson.deliver(url, {"amount": 200})
    first = lesson.printed('"amount": 200')
    lesson.ask("POST", f"/deliveries/{delivery['id']}/attempts")
    lesson.delivery(delivery["message"], url, attempts=2)
    lesson.show_lines("On the receiver's terminal", [*first, *lesson.printed("duplicate")])
    lesson.say("""
        - The receiver answers the duplicate with 204 too, so that the exposee makes no further attempt. It does not
          process the message a second time. So the receiver is idempotent (chapter 2).
    """)


def solution_10(exposee: int, receiver: int) -> bytes:
    event = {"event": "payment_received", "data": "once, or twice?"}
    fields = {"webhook_id": "msg_by_hand"}
    sent = request("POST", "/webhook-receiver", event, **fields)
    for _ in range(2):
        answer = talk(receiver, sent)
        assert answer.startswith(b"HTTP/1.1 204 ")
    return answer


# With this timeout, the reader may take an hour between the request and the kill.
CHAPTERS.append(Chapter("The exposee is killed", [killed, duplicates], """
    Send the receiver the same `webhook-id` twice, without the exposee. Which status does the second one get?
""", solution_10, exposee_options=("--timeout", "3600")))

# --- 11. The tunnel and the roles -------------------------------------------------------------------------------------

NAME = "calm-owls-sing.loca.lt"  # the public name of our exposee, made up
PUBLIC_URL = "https://red-cats-jump.loca.lt/webhook-receiver"  # the receiver's URL on another machine, made up
TUNNELLED = {"Host": NAME, "X_Forwarded_For": "203.0.113.9"}  # the fields of a request that a tunnel passes on


def roles(lesson: Lesson) -> None:
    lesson.step("The roles", """
        Until now both programs ran on one machine. In a course there are two people, each with a machine, and each
        has a role.

        - The one that has the events runs `exposee.py`. This person triggers events, sees all deliveries, and need
          not know who receives them.
        - The one that wants the events is the integrator. This person runs `receiver.py` and registers its URL at the
          exposee, with `register_webhook.py`.
        - Each of the two servers is called by the other side: the exposee to register, the receiver to deliver. So
          both need an address that the other machine can reach.
    """)
    lesson.step("The tunnel", """
        `127.0.0.1` is a machine's address for itself: no other machine can use it. A *tunnel* gives a program on your
        machine a public URL. It is a connection from your machine to a server on the internet. What comes to the public
        URL there, the tunnel's program on your machine passes on to your port.
    """)
    lesson.show_lines("The way of a request", [
        f"integrator --> https://{NAME}",
        "                      |",
        "                      v      (the tunnel)",
        f"               http://127.0.0.1:{lesson.exposee}, the exposee",
    ])


def strangers(lesson: Lesson) -> None:
    lesson.step("A request from this machine", """
        First we ask for the list of webhooks as before. The exposee's owner may do so.
    """)
    lesson.register(receiver_url(lesson.receiver))
    lesson.send(request("GET", "/webhooks"))
    lesson.step("The same through a tunnel", """
        The tunnel's program runs on the exposee's machine, so its connection comes from there. But its requests look
        different, and we can write such a request ourselves:
    """)
    lesson.send(request("GET", "/webhooks", **TUNNELLED))
    lesson.say("""
        - `Host` is the public name: the client has written there whom it wanted to reach.
        - `X-Forwarded-For` has the address of the real client. The tunnel adds it.
    """)
    lesson.step("A stranger", """
        From these fields the exposee knows that this caller is a *stranger*, somebody from another machine. Anybody who
        knows a public URL can use it, so the exposee does not do everything for everybody.

        - A stranger may do what an integrator needs: register, unregister, ping, send a ping-back, trigger an event.
        - A stranger may not see the lists: the URLs and the payloads belong to others.
        - A stranger may not register every URL. We try that next.
    """)


def public_url(lesson: Lesson) -> None:
    lesson.step("A private URL", """
        An integrator on another machine registers the URL that its receiver has printed at the start:
    """)
    lesson.send(registration(receiver_url(lesson.receiver), **TUNNELLED))
    lesson.say("""
        - At the exposee, `127.0.0.1` is the exposee's own machine, not the integrator's. The delivery would go to the
          wrong program.
        - Without this rule, strangers could have the exposee call programs that only its own machine can reach.
    """)
    lesson.step("The public URL", """
        So the integrator starts a tunnel to its receiver and registers that tunnel's URL.
    """)
    lesson.send(registration(PUBLIC_URL, **TUNNELLED))
    lesson.unregister(PUBLIC_URL)
    lesson.say("""
        - A tunnel has a new URL after each start. Then the integrator unregisters the old one and registers the new
          one.
        - That tunnel does not exist, so we have unregistered its URL again.
    """)
    lesson.step("What a stranger sees", "A ping tests the way back, from the exposee to all receivers.")
    lesson.send(request("GET", "/ping", **TUNNELLED))
    lesson.say("- The answer has the counts only. In chapter 3 it listed each delivery with its URL.")


def switching(lesson: Lesson) -> None:
    lesson.step("Switching the roles", """
        The role is in the program, not in the machine. To switch midway, each side starts the other program, and a
        tunnel to its port. The first program may go on running, as the two have different ports.
    """)
    lesson.show_lines("On the new exposee's machine", ["python3 exposee.py", "npx localtunnel --port 3000"])
    lesson.show_lines(
        "On the new integrator's machine (README.md has the variables, with which it then registers its URL)",
        ["npx localtunnel --port 8080", "python3 receiver.py --ping-back"],
    )
    lesson.step("What stays", """
        Nothing moves from one machine to the other.

        - The webhooks stay with the old exposee, in its `webhooks.json`. The new one has its own file.
        - A delivery that waited when the old exposee was stopped is in its journal. It is sent when that exposee is
          started again.
        - One machine can also run both programs, as this lesson does. They use different ports and share nothing.
    """)


def solution_11(exposee: int, receiver: int) -> bytes:
    name = "calm-owls-sing.loca.lt"
    answer = talk(exposee, request("GET", "/webhooks", Host=name))
    assert answer.startswith(b"HTTP/1.1 403 ")
    added = {"X_Forwarded_For": "203.0.113.9"}
    answer = talk(exposee, request("GET", "/webhooks", **added))
    assert answer.startswith(b"HTTP/1.1 403 ")
    return answer


CHAPTERS.append(Chapter("The tunnel and the roles", [roles, strangers, public_url, switching], """
    A request with the public name as `Host` and with `X-Forwarded-For` comes from a stranger. Is one of the two enough?
    Ask for the list of webhooks with each of them alone.
""", solution_11))

# --- 12. Unregistering ------------------------------------------------------------------------------------------------


def unregistering(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.register(url)
    unregister = request("DELETE", "/webhooks/unregister", {"url": url, "event": "payment_received"})
    lesson.step("The way out", """
        One receiver is registered. Its integrator does not want the events any more and unregisters it. The method is
        `DELETE`.
    """)
    lesson.send(unregister)
    lesson.file("webhooks.json")
    lesson.step("No receiver", "Now an event is triggered, and no URL is registered for it.")
    lesson.send(request("POST", "/trigger", PAYMENT))
    lesson.say("- This is no error: the service that triggers an event need not know the receivers.")
    lesson.step("Twice", "We unregister the same webhook once more.")
    lesson.send(unregister, only=("DELETE", "url"))
    lesson.say("""
        - 404 means that this webhook is not registered: `0 webhook(s) unregistered`. The request does no harm. After a
          typing error in the URL, the answer is the same.
    """)
    lesson.step("What you have seen", """
        You have seen a whole webhook system: requests, statuses, ids, signatures and retries. Both programs are Python
        files in this directory. `README.md` has the order in which to read them, under *How to read it*.
    """)


def solution_12(exposee: int, receiver: int) -> bytes:
    url = receiver_url(receiver)
    types = ["payment_received", "invoice_completed"]
    both = {"url": url, "event_types": types}
    one = {"url": url, "event": "payment_received"}
    talk(exposee, request("POST", "/webhooks/register", both))
    talk(exposee, request("DELETE", "/webhooks/unregister", one))
    answer = talk(exposee, request("GET", "/webhooks"))
    assert b"invoice_completed" in answer
    assert b"payment_received" not in answer
    return answer


CHAPTERS.append(Chapter("Unregistering", [unregistering], """
    Register a URL for two types of events, and unregister one of them. Which webhook is left?
""", solution_12))
