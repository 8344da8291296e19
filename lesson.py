"""The lesson: nine chapters about webhooks. walkthrough.py runs the programs and prints the pages.

Each chapter is a function that uses the methods of `Lesson`: `step` says what comes next and why, `send` sends bytes
and shows the answer, `show_...` shows what the other program received, `notice` lists what to look at. Each chapter
gets a fresh pair of programs and depends on no other chapter. Every exercise has its solution beside it, a function
that runs.

`talk` and `request` are the only HTTP client of the lesson, so that a reader sees every byte.
"""

from __future__ import annotations

import base64
import hmac
import json
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from walkthrough import Lesson

INTRODUCTION = """
Two programs talk to each other here. The *exposee* belongs to a service that has news: a payment has arrived, an
invoice is completed. The *receiver* belongs to an *integrator*, a person or a company that wants this news. A
*webhook* is the agreement between the two: "when this happens, send it to this address".

They speak HTTP, as browsers and websites do. HTTP is text on a network connection, so a person can read it. Below,
lines that begin with `> ` were sent, and lines that begin with `< ` came back. Both programs run on this machine, and
the lines are the bytes that went through their sockets.

Every chapter ends with an exercise. To do it, open a second terminal in this directory and type
`python3 -i lesson.py` (on Windows `py -i lesson.py`). This gives a Python prompt with the two functions of chapter 1.
`print(talk(3000, request("GET", "/health")).decode())` asks the program that listens on port 3000. A body must be
text: `json.dumps({"url": receiver_url(8080)})` makes text of a value, and `receiver_url` makes the receiver's URL of
its port. Each solution is a function too. It takes the ports of the two programs, and its `assert` lines check the
answer.
"""

LIVE = """
While this walkthrough waits for Enter, both programs run. Each chapter names their ports at its beginning and again at
its exercise. These are the ports to type.
"""

ON_THIS_PAGE = """
`python3 walkthrough.py --markdown` prints this page. `python3 walkthrough.py` shows the same, one step at a time. While
it waits for Enter, both programs run and answer your own requests. You can also start them yourself:
`python3 exposee.py` listens on port 3000, `python3 receiver.py` on port 8080.

Ids, times, ports, signatures and durations differ in every run. This page has fixed values of the same length in their
place.
"""

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # published with the specification: for lessons only


def talk(port: int, data: bytes) -> bytes:
    """Connect to a server on this machine, send `data`, and return what it sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65_536):
            answer += more
        return answer


def request(method: str, target: str, body: str = "", **fields: str) -> bytes:
    """A request as bytes. `fields` are further header fields, with _ in place of - in their names."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def receiver_url(port: int, query: str = "") -> str:
    """The URL to which the exposee sends its requests."""
    return f"http://127.0.0.1:{port}/webhook-receiver{query}"


# --- 1 ------------------------------------------------------------------------------------------------------


def first_request(lesson: Lesson) -> None:
    lesson.step(
        "Typing a request",
        """
        A *server* is a program that waits for connections. A *client* is a program that opens one. A *port* is a
        number: it tells the system which server a connection is for. Each program has a *socket*, which is its end of
        the connection. What one program writes into its socket, the other reads from its own.

        We connect to the exposee and write three lines. We leave out the empty line that ends a request, to see how
        the exposee reacts.
        """,
    )
    start = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", lesson.exposee), timeout=10) as connection:
        connection.sendall(start)
        lesson.show("Sent so far", ("> ", start[:-2]))
        connection.settimeout(0.3)
        try:
            early = connection.recv(65_536)
        except TimeoutError:
            early = b""
        lesson.say("We wait a third of a second. The exposee sends " + (repr(early) if early else "nothing."))
        lesson.say(
            """
            A server reads the head of a request line by line, and an empty line ends it. Until that line comes, the
            exposee waits. It does not wait for ever: silent clients would use up its connections. We send the line.
            """
        )
        connection.settimeout(10)
        connection.sendall(b"\r\n")
        answer = b""
        while more := connection.recv(65_536):
            answer += more
    lesson.show("The empty line, and the answer to it", ("> ", b""), ("< ", answer))
    lesson.notice(
        "We sent a *request*. Its first line has a *method* (`GET` asks for something), a *target* (`/health` is the "
        "thing asked for) and the version of HTTP. The lines after it are *header fields*. Each has a name and a "
        "value. Upper and lower case are the same in a name.",
        "`Host` is the server's name, as the client knows it. `localhost` is every machine's name for itself, and "
        "`127.0.0.1` is the address of that name.",
        "The exposee sent a *response*. Its first line has a *status*: 200 means success. The `OK` after it is for "
        "people; programs read the number.",
        "A response has an empty line too. Its *body* comes after that line. `Content-Length` is the number of its "
        "bytes. `Content-Type` is its format: JSON, a notation for values that every programming language can read.",
        "Each line ends with two invisible characters, carriage return and line feed, `\\r\\n` in Python. "
        "`Content-Length` counts the bytes after the empty line, and that includes the line feed at the end of this "
        "JSON.",
        "`Connection: close` asks the server to close the connection after its answer. Without it the connection stays "
        "open for the next request.",
    )
    lesson.step(
        "The same with a function",
        """
        From here on two small functions do the typing. `request` writes a request, and `talk` sends it and returns the
        answer. This lesson has no other client. Here they ask for the types of events that the exposee knows. An
        *event* is one thing that happened, and its *type* is the kind of thing.
        """,
    )
    lesson.source(talk, request)
    lesson.send("Sent and answered", request("GET", "/event-types"))
    lesson.notice("A browser and `curl` do the same: they write a request and read the response.")


def solution_1(exposee: int, receiver: int) -> bytes:
    answer = talk(exposee, request("GET", "/coffee"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    return answer


# --- 2 ------------------------------------------------------------------------------------------------------


def register(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    body = json.dumps({"url": url, "event_types": ["payment_received"]})
    lesson.step(
        "Registering",
        """
        The integrator tells the exposee two things: the receiver's address and the types of events to send there. The
        address is a *URL*: it has the protocol, the machine, the port and the path. Both things go into the body of a
        request. Its method is `POST`, which hands something over.
        """,
    )
    lesson.send("Sent to the exposee, and answered", request("POST", "/webhooks/register", body))
    lesson.notice(
        "A request can have a body too, with the same two fields: `Content-Type` is its format, `Content-Length` its "
        "length. Without a length the exposee could not know where the body ends.",
        "The exposee has stored the URL. It has sent nothing to the receiver yet.",
        "`register_webhook.py` sends the same body to the same target.",
    )
    lesson.step(
        "What the exposee remembers",
        """
        The exposee answered only after the webhook was on the disk, so a power cut cannot lose it. The file is text:
        """,
    )
    lesson.file("webhooks.json")
    lesson.notice("One entry is one URL for one type of event.")
    lesson.step(
        "Registering again",
        """
        A network can lose an answer. An integrator that has not received the 200 sends the request once more. This must
        do no harm, so we try it.
        """,
    )
    lesson.send("The same again", request("POST", "/webhooks/register", body))
    lesson.file("webhooks.json")
    lesson.notice(
        "The answer is the same, and there is still one entry. A request is *idempotent* if sending it twice has the "
        "same effect as sending it once."
    )


def solution_2(exposee: int, receiver: int) -> bytes:
    url = receiver_url(receiver)
    body = json.dumps({"url": url, "event_types": ["invoice_processing", "invoice_completed"]})
    assert talk(exposee, request("POST", "/webhooks/register", body)).startswith(b"HTTP/1.1 200 ")
    answer = talk(exposee, request("GET", "/webhooks"))
    assert answer.count(url.encode()) == 3
    return answer


# --- 3 ------------------------------------------------------------------------------------------------------


def ping(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.register(url)
    lesson.step(
        "A ping",
        """
        The receiver is registered, as in chapter 2. A *ping* is a test: a request that only shows whether the receiver
        can be reached. We ask the exposee to ping every registered URL. It answers with the outcomes.
        """,
    )
    answer = lesson.send("Sent to the exposee, and answered", request("GET", "/ping"))
    lesson.notice(
        "The exposee sent its answer to us after it had received the receiver's answer.",
        "The ping is a *message*, and `msg_…` is its id. One message for one URL is a *delivery*, and its id begins "
        "with `dlv_`. The delivery's `state` is `delivered`, because the receiver answered 204.",
    )
    lesson.step(
        "Both ends of one connection",
        """
        For the ping, the exposee was the client and the receiver was the server. The exposee keeps the bytes that it
        sent and received, and we ask it for them. The receiver runs with `--raw`, so it prints the bytes that it
        received and sent. Compare the two.
        """,
    )
    delivery = lesson.delivery(answer["id"], url)
    attempt = delivery["attempts"][0]
    lesson.show(
        "At the exposee's end (`>` was sent, `<` came back)",
        ("> ", attempt["request"].encode("latin-1")),
        ("< ", attempt["response"].encode("latin-1")),
    )
    lesson.show_arrived(answer["id"])
    lesson.show_printed('"ping"')
    lesson.notice(
        "The lines are the same, and their marks are reversed: what one program sends, the other receives.",
        "The body of this request is also called its *payload*. It names the event and has its data. Facts about the "
        "delivery, such as `webhook-id`, are in header fields.",
        "`User-Agent` is the name of the program that sends the request.",
        "204 means: received, and the response has no body. Any status from 200 to 299 counts as success.",
        "`Bypass-Tunnel-Reminder` is for tunnels. A tunnel is a service that forwards requests from the internet to "
        "your machine. Some tunnels answer with a page of their own unless this field is present.",
    )
    lesson.step(
        "The ping-back",
        """
        A 204 shows that some program answers at that address. With a *ping-back* the integrator claims that the ping
        has arrived. The exposee records the claim and answers with the payload of the ping. It proves nothing: the
        payload is always the same, and anybody can send a ping-back.
        """,
    )
    lesson.send("Sent to the exposee, and answered", request("POST", "/webhooks/ping-back", json.dumps({"url": url})))
    lesson.say("Now we ask the exposee for its newest delivery, which is the ping:")
    lesson.send("Sent and answered", request("GET", "/deliveries?limit=1"))
    lesson.notice(
        "`confirmed` has become `true`.",
        "The part of a target after the `?` is the *query*. Here it limits the answer to one delivery.",
        "A receiver that is started with `--ping-back` and `--url` sends a ping-back after each ping.",
    )


def solution_3(exposee: int, receiver: int) -> bytes:
    body = json.dumps({"url": "http://127.0.0.1:9/nobody", "event_types": ["payment_received"]})
    talk(exposee, request("POST", "/webhooks/register", body))
    answer = talk(exposee, request("GET", "/ping"))
    assert b"delivered to 1 of 2 webhook(s)" in answer
    return answer


# --- 4 ------------------------------------------------------------------------------------------------------


def trigger(lesson: Lesson) -> None:
    other = lesson.programs.start_receiver()
    urls = receiver_url(lesson.receiver), receiver_url(other.port)
    for url in urls:
        lesson.register(url)
    body = json.dumps({"event": "payment_received", "data": {"amount": 100}})
    lesson.step(
        "Something happens",
        """
        Two integrators have registered for `payment_received`. Each has its own receiver, on its own port. Now a
        payment arrives, and the service tells the exposee. This is called to *trigger* the event.
        """,
    )
    answer = lesson.send("Sent to the exposee, and answered", request("POST", "/trigger", body))
    lesson.notice(
        "202 means: accepted, and not done yet. The event is on the exposee's disk, so it will be delivered even after "
        "a crash. We do not wait for the receivers, which may be slow.",
        "`Location` is the target that shows the outcome.",
    )
    lesson.step(
        "Fan-out", "The exposee sends the event to every URL that is registered for it. This is called *fan-out*."
    )
    lesson.show_arrived(answer["id"], where="At the first receiver's end")
    lesson.show_arrived(answer["id"], other, "At the second receiver's end")
    lesson.notice(
        "Both requests have the same `webhook-id`, because they carry one message. `Host` differs: it has the machine "
        "and the port of each URL.",
        "Neither delivery waits for the other.",
    )
    lesson.step("Following the Location", "We ask for the outcome, at the target that `Location` has named.")
    for url in urls:
        lesson.delivery(answer["id"], url)
    lesson.send("Sent and answered", request("GET", f"/deliveries?message={answer['id']}"))
    lesson.notice("One message has two deliveries, the last one first. Each has its own state and status.")
    lesson.step(
        "Waiting after all",
        """
        Some callers want to wait for the outcome, a script for example. With the field `Prefer` a client asks for
        something that the server may ignore. Here it asks the exposee to wait for the first attempts, five seconds at
        most.
        """,
    )
    lesson.send("Sent and answered", request("POST", "/trigger", body, Prefer="wait=5"))
    lesson.notice(
        "The status is 200, and the answer has the outcomes of the deliveries. `Preference-Applied` means that the "
        "exposee did what `Prefer` asked for."
    )


def solution_4(exposee: int, receiver: int) -> bytes:
    body = json.dumps({"event": "invoice_processing", "data": "nobody has asked for this"})
    answer = talk(exposee, request("POST", "/trigger", body))
    assert answer.startswith(b"HTTP/1.1 202 ") and b"nobody is registered for invoice_processing" in answer
    return answer


# --- 5 ------------------------------------------------------------------------------------------------------


def mistakes(lesson: Lesson) -> None:
    body = json.dumps({"event": "payment_received", "data": 1})
    lesson.step(
        "The wrong type",
        """
        Now we make mistakes on purpose and read the answers. First mistake: the body is JSON, but `Content-Type` names
        the format of web forms. `curl -d` sends this type unless `-H` names another.
        """,
    )
    form = request("POST", "/trigger", body).replace(b"application/json", b"application/x-www-form-urlencoded")
    lesson.send("Sent and answered", form)
    lesson.notice(
        "A status from 400 to 499 means that the request is wrong: the same request will fail again. A status from 500 "
        "to 599 means that the server failed: the request may be right.",
        "The body of an error is JSON too, of the type `application/problem+json`. `detail` says what was wrong, what "
        "was expected and often what to do.",
    )
    lesson.step("Not quite JSON", "Second mistake: the last brace is missing.")
    lesson.send("Sent and answered", request("POST", "/trigger", body[:-1]))
    lesson.notice("400 means that the body cannot be read. `detail` names the place: the body ends at column 40.")
    lesson.step("An unknown event", "Third mistake: the JSON is right, but no event has this name.")
    lesson.send("Sent and answered", request("POST", "/trigger", body.replace("received", "recieved")))
    lesson.notice("422 means that a value is not acceptable. `detail` lists the acceptable ones.")
    lesson.step("The wrong method", "Fourth mistake: the target is right, but the method is `GET`, as in a browser.")
    lesson.send("Sent and answered", request("GET", "/trigger"))
    lesson.notice("405 means that this target does not take this method. `Allow` lists the methods that it takes.")


def solution_5(exposee: int, receiver: int) -> bytes:
    url = receiver_url(receiver)
    body = json.dumps({"url": url, "event_types": ["payment_received"]})
    talk(exposee, request("POST", "/webhooks/register", body))
    answer = talk(exposee, request("POST", "/webhooks/ping-back", json.dumps({"url": url})))
    assert answer.startswith(b"HTTP/1.1 409 ")
    return answer


# --- 6 ------------------------------------------------------------------------------------------------------


def failures(lesson: Lesson) -> None:
    lesson.step(
        "The connection breaks",
        """
        Our receiver fails when the query of its URL asks for it. With `respond=reset` it resets the connection, and
        with `times=1` it does so only once. An *attempt* is one request of a delivery. When an attempt fails, the
        exposee makes another: here after 0.5 s, and the next one after 1 s (each ±20 %). Its usual schedule has ten
        attempts in three days, with pauses that grow.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=reset&times=1")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 100}), url, attempts=2)
    lesson.unregister(url)
    lesson.show_attempts(delivery, pauses=(0.5,))
    lesson.notice(
        "The exposee sent the whole request of the first attempt. After a reset it cannot know whether the receiver "
        "has read it.",
        "So the second attempt has the same `webhook-id`. With it, a receiver recognises a message that it has read "
        "before.",
        "`webhook-timestamp` is the time of the attempt, in seconds since 1970.",
    )
    lesson.step(
        "Silence",
        """
        A receiver can also take the request and never answer. The exposee stops waiting after a time that is called
        its *timeout*. Our exposee was started with 1 s; the default is 10 s.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=hang&times=1")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 200}), url, attempts=2)
    lesson.unregister(url)
    lesson.show_attempts(delivery, pauses=(0.5,), requests=False)
    lesson.step(
        "Please come back later",
        """
        A receiver that cannot work now answers 503. Its field `Retry-After` is the number of seconds after which it
        expects to work again.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=503&retry_after=1&times=1")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 300}), url, attempts=2)
    lesson.unregister(url)
    lesson.show_attempts(delivery, pauses=(1.0,), requests=False)
    lesson.notice("The exposee waited for the 1 s that `Retry-After` asked for, not for the 0.5 s of its schedule.")
    lesson.step(
        "Half an answer",
        """
        This receiver answers 200 with `Content-Length: 100` and closes the connection after 12 bytes of the body. It
        does so three times. Our exposee's schedule has two pauses, so it makes three attempts.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=half&times=3")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 400}), url, attempts=3)
    lesson.show_attempts(delivery, pauses=(0.5, 1.0), requests=False)
    lesson.notice(
        "A status of 200 is not enough for a success: the answer must be whole. The receiver may have failed while it "
        "processed the message.",
        "The state of the delivery is now `failed`: the exposee makes no further attempts.",
    )
    lesson.step(
        "One more time, by hand",
        """
        After three failures the receiver works normally. The integrator wants the message that it missed. A further
        attempt that a person asks for is called a *redelivery*.
        """,
    )
    lesson.send("Sent and answered", request("POST", f"/deliveries/{delivery['id']}/attempts"))
    delivery = lesson.delivery(delivery["message"], url, attempts=4)
    lesson.unregister(url)
    lesson.show_attempts(delivery, first=4)
    lesson.notice("The fourth attempt has the `webhook-id` of the first.")
    lesson.step(
        "Gone",
        """
        410 means: send nothing to this URL again. The exposee makes no further attempt and unregisters the URL.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=410")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 500}), url)
    lesson.show_attempts(delivery, requests=False)
    lesson.wait_until_unregistered(url)
    lesson.file("webhooks.json")


def solution_6(exposee: int, receiver: int) -> bytes:
    url = receiver_url(receiver, "?respond=redirect")
    body = json.dumps({"url": url, "event_types": ["invoice_completed"]})
    talk(exposee, request("POST", "/webhooks/register", body))
    body = json.dumps({"event": "invoice_completed", "data": "where do you go?"})
    answer = talk(exposee, request("POST", "/trigger", body, Prefer="wait=5"))
    assert b'"state": "retrying"' in answer and b'"status": 302' in answer
    return answer


# --- 7 ------------------------------------------------------------------------------------------------------


def standard_signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """Standard Webhooks: sign the id, the time and the body. The key is the base64 after whsec_, decoded."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def github_signature(secret: str, body: bytes) -> str:
    """GitHub: sign the body only. The key is the whole secret as text."""
    return "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()


def field(message: str, name: str) -> str:
    """The value of a header field."""
    return message.partition(f"\r\n{name}: ")[2].partition("\r\n")[0]


def signatures(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.step(
        "A shared secret",
        """
        Anybody can send a request like ours to the receiver. So the integrator registers a *secret* with the URL, and
        starts the receiver with the same secret. Only the two programs know it. A delivery does not contain the secret.
        It contains a *signature*: a number that is calculated from the secret and the request, and that nobody can
        calculate without the secret.
        """,
    )
    body = json.dumps({"url": url, "event_types": ["payment_received"], "secret": SECRET})
    lesson.send("Sent to the exposee, and answered", request("POST", "/webhooks/register", body))
    sent = lesson.delivery(lesson.trigger({"amount": 100}), url)["attempts"][0]["request"]
    content = sent.partition("\r\n\r\n")[2].encode("latin-1")
    message_id, timestamp = field(sent, "webhook-id"), field(sent, "webhook-timestamp")
    for version in (content, content.replace(b"100", b"900"), content.replace(b" ", b"")):
        lesson.sign_on_page(standard_signature, SECRET, message_id, timestamp, version)
    lesson.say(
        """
        This request did contain the secret. It is shown as `***`, so the body looks shorter than its `Content-Length`.
        Now a payment arrives:
        """
    )
    lesson.show_arrived(message_id)
    lesson.show_printed("signature verified")
    lesson.notice(
        "There are two signatures, in two dialects. `webhook-signature` is that of Standard Webhooks, which many "
        "services use. `X-Hub-Signature-256` is GitHub's. A receiver needs to verify only one of them. Ours requires "
        "the first: GitHub's covers only the body, so an old request would pass as a new one."
    )
    lesson.step(
        "Signing by hand",
        """
        Both dialects use HMAC-SHA256. This function makes 32 bytes from a key and a text. When one bit of either
        changes, the 32 bytes are completely different. We calculate both signatures of the request above.
        """,
    )
    lesson.source(standard_signature, github_signature)
    ours = (standard_signature(SECRET, message_id, timestamp, content), github_signature(SECRET, content))
    theirs = (field(sent, "webhook-signature"), field(sent, "X-Hub-Signature-256"))
    for name, mine, came in zip(("Standard Webhooks", "GitHub"), ours, theirs, strict=True):
        verdict = "the same" if mine == came else "different"
        lesson.show_lines(f"{name}: calculated here, and in the request ({verdict})", [mine, came])
    lesson.notice(
        "The dialects sign different texts. Their keys differ: the decoded secret, or the secret as text. They write "
        "the 32 bytes differently: as base64, or as hexadecimal digits.",
        "In the next steps we send such requests ourselves and add `Connection: close`. The signatures stay right: of "
        "the header fields, only the id and the time are signed.",
    )
    lesson.step(
        "A byte is changed",
        """
        Suppose that somebody between the two programs changes 100 to 900 and nothing else. We do this ourselves and
        send the changed request to the receiver.
        """,
    )
    closing = sent.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
    changed = closing.replace("100}", "900}").encode("latin-1")
    lesson.send("Sent to the receiver, and answered", changed, lesson.receiver)
    lesson.show_printed('"amount": 900')
    lesson.notice(
        "401 means that the request does not prove its sender. The answer gives no reason, because a forger could "
        "learn from it. The receiver's terminal shows the reason to its owner.",
    )
    lesson.step(
        "A well-meaning change",
        """
        Suppose that a program between the two parses the JSON and writes it again without spaces. The values are the
        same and the bytes are not. A signature is calculated from bytes.
        """,
    )
    again = json.dumps(json.loads(content), separators=(",", ":"))
    head = closing.partition("\r\n\r\n")[0].replace(f"Content-Length: {len(content)}", f"Content-Length: {len(again)}")
    lesson.send("Sent to the receiver, and answered", f"{head}\r\n\r\n{again}".encode(), lesson.receiver)
    lesson.show_printed("parsed and written again")
    lesson.notice(
        "The receiver tries the usual mistakes and names the one that explains the signature. The remedy is to verify "
        "the bytes as they came, before they are parsed."
    )
    lesson.step(
        "An old request",
        """
        Somebody may record a signed request and send it again. This is called a *replay*. The signature of the body
        would still be right, so Standard Webhooks signs the time too. Its specification contains a signed request as
        an example, and our secret is the one of that example. We send that request.
        """,
    )
    old = request(
        "POST",
        "/webhook-receiver",
        '{"test": 2432232314}',
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        webhook_timestamp="1614265330",
        webhook_signature="v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    )
    lesson.send("Sent to the receiver, and answered", old, lesson.receiver)
    lesson.show_printed('"test": 2432232314')
    lesson.notice(
        "The signature is right, but the request is refused: 1614265330 was in February 2021. The receiver accepts "
        "times up to five minutes off. Within these, it recognises a replay by its `webhook-id`."
    )


def solution_7(exposee: int, receiver: int) -> bytes:
    body = json.dumps({"event": "payment_received", "data": "signed by hand"})
    now = str(int(time.time()))
    signature = standard_signature(SECRET, "msg_mine", now, body.encode())
    fields = {"webhook_id": "msg_mine", "webhook_timestamp": now, "webhook_signature": signature}
    answer = talk(receiver, request("POST", "/webhook-receiver", body, **fields))
    assert answer.startswith(b"HTTP/1.1 204 ")
    return answer


# --- 8 ------------------------------------------------------------------------------------------------------


def crash(lesson: Lesson) -> None:
    lesson.step(
        "A slow receiver",
        """
        A 202 means that the exposee will deliver the event. Here we kill the exposee before it has done so, in the
        middle of an attempt. For this we need a slow receiver. This one is a plain socket of the lesson. It reads the
        request and does not answer.
        """,
    )
    with lesson.listener() as slow:
        url = f"http://127.0.0.1:{slow.port}/slow"
        lesson.register(url)
        body = json.dumps({"event": "payment_received", "data": {"amount": 100}})
        message_id = lesson.send("Sent to the exposee, and answered", request("POST", "/trigger", body))["id"]
        lesson.show("Received by our socket", ("< ", slow.receive(message_id)))
        lesson.step(
            "The exposee is killed",
            """
            Now we kill the exposee with `kill -9`. The process is not told and cannot save anything. Its *journal* is
            on the disk: a file to which the exposee appends what it has accepted and what it has done.
            """,
        )
        lesson.programs.exposee.kill()
        lesson.file("webhooks.deliveries.jsonl")
        lesson.notice(
            "There is one line: the message and its URLs. It was on the disk before the 202 was sent.",
            "There is no line with the state of the delivery. So the exposee takes it as not delivered.",
        )
        lesson.step("Started again", "We start the same command in the same folder. Nobody triggers anything.")
        lesson.programs.start_exposee()
        lesson.show("Received by our socket", ("< ", slow.receive(message_id)))
        slow.answer(b"HTTP/1.1 204 No Content\r\n\r\n")
        lesson.show("This time our socket answers", ("> ", b"HTTP/1.1 204 No Content\r\n"))
        delivery = lesson.delivery(message_id, url)
        lesson.say(f"The exposee lists the delivery with the state `{delivery['state']}`.")
        lesson.notice(
            "The `webhook-id` is the same as before. The event was delivered after the crash.",
            "Our socket received the message twice. A program that books payments would perhaps have booked this one "
            "twice. This guarantee is called *at least once*. A sender that never repeats a message would lose some.",
        )
    lesson.step(
        "Duplicates",
        """
        So the receiver must recognise a *duplicate*. It compares the `webhook-id` with those that it has answered
        before. We deliver a message to `receiver.py`, and then ask for a redelivery of it.
        """,
    )
    lesson.unregister(url)
    url = receiver_url(lesson.receiver)
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 200}), url)
    lesson.show_printed('"amount": 200')
    lesson.ask("POST", f"/deliveries/{delivery['id']}/attempts")
    lesson.delivery(delivery["message"], url, attempts=2)
    lesson.show_printed("duplicate")
    lesson.notice(
        "The receiver answers the duplicate with 204 too, so that the exposee makes no further attempt. It does not "
        "process the message a second time. So the receiver is idempotent (chapter 2)."
    )


def solution_8(exposee: int, receiver: int) -> bytes:
    body = json.dumps({"event": "payment_received", "data": "once, or twice?"})
    for _ in range(2):
        answer = talk(receiver, request("POST", "/webhook-receiver", body, webhook_id="msg_by_hand"))
        assert answer.startswith(b"HTTP/1.1 204 ")
    return answer


# --- 9 ------------------------------------------------------------------------------------------------------


def unregister(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.register(url)
    body = json.dumps({"url": url, "event": "payment_received"})
    lesson.step(
        "The way out",
        """
        One receiver is registered. Its integrator does not want the events any more and unregisters it. The method is
        `DELETE`.
        """,
    )
    lesson.send("Sent to the exposee, and answered", request("DELETE", "/webhooks/unregister", body))
    lesson.file("webhooks.json")
    lesson.step("No receiver", "Now an event is triggered, and no URL is registered for it.")
    trigger_body = json.dumps({"event": "payment_received", "data": {"amount": 100}})
    lesson.send("Sent and answered", request("POST", "/trigger", trigger_body))
    lesson.notice("This is no error: the service that triggers an event need not know the receivers.")
    lesson.step("Twice", "We unregister the same webhook once more.")
    lesson.send("The same again", request("DELETE", "/webhooks/unregister", body))
    lesson.notice(
        "404 means that this webhook is not registered: `0 webhook(s) unregistered`. The request does no harm. After a "
        "typing error in the URL, the answer is the same.",
        "You have seen a whole webhook system: requests, statuses, ids, signatures and retries. Both programs are "
        "Python files in this directory. `README.md` has the order in which to read them, under *How to read it*.",
    )


def solution_9(exposee: int, receiver: int) -> bytes:
    url = receiver_url(receiver)
    both = json.dumps({"url": url, "event_types": ["payment_received", "invoice_completed"]})
    talk(exposee, request("POST", "/webhooks/register", both))
    talk(exposee, request("DELETE", "/webhooks/unregister", json.dumps({"url": url, "event": "payment_received"})))
    answer = talk(exposee, request("GET", "/webhooks"))
    assert b"invoice_completed" in answer and b"payment_received" not in answer
    return answer


# --- the table ----------------------------------------------------------------------------------------------


class Chapter(NamedTuple):
    """`solution` takes the ports of the exposee and the receiver, and returns the answer that shows the solution.

    It gets a pair of its own, with the receiver registered for payment_received.
    """

    title: str
    teach: Callable[[Lesson], None]
    exercise: str
    solution: Callable[[int, int], bytes]
    receiver_options: tuple[str, ...] = ()
    exposee_options: tuple[str, ...] = ()


CHAPTERS = [
    Chapter(
        "A request is text",
        first_request,
        "Ask the exposee for a target that it does not have, such as `/coffee`. Which status is the answer?",
        solution_1,
    ),
    Chapter(
        "Registering a webhook",
        register,
        "Register the same URL for two further types of events with one request. Then ask for the list of webhooks: "
        "`GET /webhooks`.",
        solution_2,
    ),
    Chapter(
        "Ping and ping-back",
        ping,
        "Register a second URL, on a port on which no program listens, and ping again. How many pings are delivered?",
        solution_3,
    ),
    Chapter(
        "Triggering an event",
        trigger,
        "Trigger an event for which no URL is registered. Is that an error?",
        solution_4,
    ),
    Chapter(
        "Mistakes, and how to read the answers",
        mistakes,
        "409 means that the request is right, but not possible in the present state. Make the exposee answer 409. (A "
        "ping-back confirms a ping. Send one before there has been a ping.)",
        solution_5,
    ),
    Chapter(
        "A receiver that fails",
        failures,
        "With `respond=redirect` the receiver answers 302, which names another URL. Does the exposee send the request "
        "there? Find out with one trigger that waits.",
        solution_6,
    ),
    Chapter(
        "Signatures",
        signatures,
        "Sign a request of your own so that the receiver accepts it. You know the secret.",
        solution_7,
        ("--secret", SECRET),
    ),
    Chapter(
        "The exposee is killed",
        crash,
        "Send the receiver the same `webhook-id` twice, without the exposee. Which status does the second one get?",
        solution_8,
        exposee_options=("--timeout", "3600"),  # the reader may take an hour between the request and the kill
    ),
    Chapter(
        "Unregistering",
        unregister,
        "Register a URL for two types of events, and unregister one of them. Which webhook is left?",
        solution_9,
    ),
]
