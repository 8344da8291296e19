"""The lesson: nine chapters on what a webhook is made of. walkthrough.py is the stage that they need.

Each chapter is a function that uses a few verbs of `Lesson`: `step` says what we are about to do and why, `send`
does it and shows the bytes, `show_…` shows the other end, `notice` says what to look at. Each finds a fresh pair
of programs and depends on no other chapter. Every exercise has its solution beside it, a function that runs.

All the HTTP client that the lesson has is `talk` and `request`: a reader is to see that nothing is hidden.
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
Two programs talk to each other here. The *exposee* is a service where things happen: payments arrive, invoices
are completed. The *receiver* belongs to somebody who wants to know of them: an *integrator*. A *webhook* is the
agreement between the two: "when this happens, tell me at this address".

They talk in HTTP, as browsers and websites do, and HTTP is text over a network connection. So we can read every
word. In what follows, lines that begin with `> ` were sent and lines that begin with `< ` came back. Nothing is
made up: both programs run on this machine, and the bytes are those that went through their sockets.

Every chapter ends with an exercise. For that, open a second terminal in this directory and type
`python3 -i lesson.py` (on Windows `py -i lesson.py`). You get a Python prompt with the two functions of chapter 1 in
it, and `print(talk(3000, request("GET", "/health")).decode())` asks the program that listens on port 3000. A
body has to be text, so `json` is at hand: `json.dumps({"url": receiver_url(8080)})`, where `receiver_url` makes the
receiver's URL from its port. The solutions are functions too: they take the ports of the two programs, and an `assert`
in them says what has to be so.
"""

LIVE = """
While this walkthrough waits for Enter, both programs run. Each chapter says on which ports, and its exercise says it
again; these are the ports to type.
"""

ON_THIS_PAGE = """
This page is what `python3 walkthrough.py --markdown` prints. Run `python3 walkthrough.py` to have it happen before
your eyes, a step at a time; while it waits for Enter, both programs are there for your own experiments. Or start them
yourself: `python3 exposee.py` listens on port 3000, `python3 receiver.py` on port 8080.

What differs in every run (ids, times, ports, signatures, durations) has been replaced on this page by values of the
same length that never change.
"""

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # published with the specification: good for lessons only


def talk(port: int, data: bytes) -> bytes:
    """Connect to a server on this machine, send `data`, and return all that comes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65_536):
            answer += more
        return answer


def request(method: str, target: str, body: str = "", **fields: str) -> bytes:
    """A request as bytes. `fields` are further header fields, with _ for the - in their names."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def receiver_url(port: int, query: str = "") -> str:
    """The receiver's address, as the exposee is to call it."""
    return f"http://127.0.0.1:{port}/webhook-receiver{query}"


# --- 1 ------------------------------------------------------------------------------------------------------


def first_request(lesson: Lesson) -> None:
    lesson.step(
        "Typing a request",
        """
        A *server* is a program that waits for connections. A *client* is a program that opens one. The server's
        *port* is the number by which the system knows which program a connection is for. Once connected, both hold
        one end of a *socket*: what one writes into it, the other can read.

        We connect to the exposee and write three lines. We leave out the empty line that would end the request,
        to see what the exposee makes of it.
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
        lesson.say("We wait a third of a second. The exposee says " + (repr(early) if early else "nothing."))
        lesson.say(
            """
            HTTP is read line by line, and only an empty line says "that was all". Until then the exposee waits
            (for a while: a server that waited for ever could be filled with people who say nothing). We send it.
            """
        )
        connection.settimeout(10)
        connection.sendall(b"\r\n")
        answer = b""
        while more := connection.recv(65_536):
            answer += more
    lesson.show("The empty line, and what it brings", ("> ", b""), ("< ", answer))
    lesson.notice(
        "What we sent is a *request*. Its first line has a *method* (`GET`: show me), a *target* (`/health`: what to "
        "show) and the version of the language. The lines after it are *header fields*, a name and a value each; in "
        "names, capitals make no difference.",
        "`Host` is the name by which we have called the server. `localhost` is every machine's name for itself, and "
        "`127.0.0.1` the address behind that name.",
        "What came is a *response*. Its first line has a *status*: 200 means that all is well. The `OK` after it is "
        "for people; programs read the number.",
        "After the response's own empty line comes its *body*, what we have asked for. `Content-Length` says how many "
        "bytes it has, `Content-Type` what they are: JSON, a way to write values down that every language can read.",
        "Each line ends with two invisible characters, carriage return and line feed, `\\r\\n` in Python. "
        "`Content-Length` counts the bytes after the empty line: here also the line feed at the end of the JSON.",
        "`Connection: close` was our wish that the server hang up after its answer. Without it the connection stays "
        "open for the next request.",
    )
    lesson.step(
        "The same with a function",
        """
        From here on two small functions do the typing: `talk` sends bytes and returns what comes, `request` writes a
        request. They are all of the client that this lesson uses. Here they ask which types of events the exposee
        knows; an *event* is one thing that happened, and its *type* is the kind of thing.
        """,
    )
    lesson.source(talk, request)
    lesson.send("Sent and answered", request("GET", "/event-types"))
    lesson.notice("Every program that speaks HTTP, a browser and `curl` included, does this and not much else.")


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
        The integrator tells the exposee two things: the address to call (a *URL*: how to speak, which machine and port,
        which path there) and the events to call it for. That is a request with a body, and its method is `POST`: here
        is something for you.
        """,
    )
    lesson.send("Sent to the exposee, and answered", request("POST", "/webhooks/register", body))
    lesson.notice(
        "A request may have a body too, with the same two fields: `Content-Type` says what it is, `Content-Length` "
        "how long it is. Without a length the exposee could not know where the body ends.",
        "Nothing has been sent to the receiver yet. The exposee has only made a note of its address. "
        "`register_webhook.py` sends this very request.",
    )
    lesson.step(
        "What the exposee remembers",
        """
        The answer came only after the note was on the disk, in a file that you can read. A webhook that is lost in a
        power cut would be a promise broken without anybody noticing.
        """,
    )
    lesson.file("webhooks.json")
    lesson.notice("One entry is one URL for one type of event.")
    lesson.step(
        "Registering again",
        """
        Networks lose answers. An integrator who has not seen the 200 will send the request once more. That has to do no
        harm, so we try it.
        """,
    )
    lesson.send("The same again", request("POST", "/webhooks/register", body))
    lesson.file("webhooks.json")
    lesson.notice(
        "The same answer, and still one entry. A request that may be repeated without doing more than once is called "
        "*idempotent*. It is the most useful word of this lesson."
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
        The receiver is registered, as in chapter 2. But does a request really reach it? A *ping* is a question without
        content: are you there? We ask the exposee to ping everybody, and it tells us how that went.
        """,
    )
    answer = lesson.send("Sent to the exposee, and answered", request("GET", "/ping"))
    lesson.notice(
        "The exposee has answered us only after the receiver had answered it.",
        "The ping has an id, `msg_…`: that of the *message*. Sending one message to one URL is a *delivery*, with an "
        "id that begins with `dlv_`. Its `state` is `delivered`, because the receiver's status was 204.",
    )
    lesson.step(
        "Both ends of one connection",
        """
        Now the roles are swapped: the exposee was the client, and the receiver the server. The exposee keeps
        the bytes of its attempts, so we ask it for them. The receiver runs with `--raw`, which has it print what
        arrives. We lay the two side by side.
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
        "They are the same lines with the marks turned round: what one sends comes to the other.",
        "The body, the *payload*, is the JSON at the end of the request: which event, and what there is to say about "
        "it. All that is about the delivery, such as `webhook-id`, stands in header fields.",
        "`User-Agent` is the name of the program that sends.",
        "204 means: well received, and I have nothing to say. Any status from 200 to 299 would do.",
        "`Bypass-Tunnel-Reminder` is for a tunnel, a service that leads requests from the internet to your own "
        "machine: some of them show a page of advertisement to those who do not send it.",
    )
    lesson.step(
        "The ping-back",
        """
        A 204 says that something answers at that address. With a *ping-back* the integrator claims that the ping has
        arrived: it calls the exposee, which makes a note of that and answers with the payload of the ping. It proves
        nothing: the payload is always the same, and anybody can ask for it.
        """,
    )
    lesson.send("Sent to the exposee, and answered", request("POST", "/webhooks/ping-back", json.dumps({"url": url})))
    lesson.say("How the exposee lists the ping after that:")
    lesson.send("Sent and answered", request("GET", "/deliveries?limit=1"))
    lesson.notice(
        "`confirmed` has become `true`.",
        "What follows the `?` in a target is the *query*: further wishes, here for one delivery at the most.",
        "A receiver that is started with `--ping-back` and `--url` confirms each ping by itself.",
    )


def solution_3(exposee: int, receiver: int) -> bytes:
    body = json.dumps({"url": "http://127.0.0.1:9/nobody", "event_types": ["payment_received"]})
    talk(exposee, request("POST", "/webhooks/register", body))
    answer = talk(exposee, request("GET", "/ping"))
    assert b"delivered to 1 of 2 webhook(s)" in answer
    return answer


# --- 4 ------------------------------------------------------------------------------------------------------


def trigger(lesson: Lesson) -> None:
    other = lesson.stage.start_receiver()
    urls = receiver_url(lesson.receiver), receiver_url(other.port)
    for url in urls:
        lesson.register(url)
    body = json.dumps({"event": "payment_received", "data": {"amount": 100}})
    lesson.step(
        "Something happens",
        """
        Two integrators have registered for `payment_received`, each with a receiver of its own: the ports differ. Now a
        payment arrives, and the service says so to the exposee. That is called to *trigger* the event.
        """,
    )
    answer = lesson.send("Sent to the exposee, and answered", request("POST", "/trigger", body))
    lesson.notice(
        "202 is not 200. It means: accepted, and I shall see to it. The exposee has the event on its disk and will "
        "deliver it, whatever happens. It does not make us wait for receivers that may be slow.",
        "`Location` is where to look for what has become of it.",
    )
    lesson.step("Fan-out", "One event goes to everybody who has asked for it. That is called *fan-out*.")
    lesson.show_arrived(answer["id"], where="At the first receiver's end")
    lesson.show_arrived(answer["id"], other, "At the second receiver's end")
    lesson.notice(
        "The same `webhook-id` twice: it is one message. `Host` differs: it is the machine and port of each URL.",
        "Neither waits for the other.",
    )
    lesson.step("Following the Location", "What has become of it? We ask at the address that the 202 has named.")
    for url in urls:
        lesson.delivery(answer["id"], url)
    lesson.send("Sent and answered", request("GET", f"/deliveries?message={answer['id']}"))
    lesson.notice("Two deliveries of one message, the last one first, each with a state and a status of its own.")
    lesson.step(
        "Waiting after all",
        """
        Sometimes a caller would rather wait, in a script say. The field `Prefer` is how a client says what it
        would like and can do without. Here it would like to wait for the first attempts, five seconds at the most.
        """,
    )
    lesson.send("Sent and answered", request("POST", "/trigger", body, Prefer="wait=5"))
    lesson.notice(
        "Now it is 200, and the answer says how the deliveries went. `Preference-Applied` says that the wish was "
        "granted."
    )


def solution_4(exposee: int, receiver: int) -> bytes:
    body = json.dumps({"event": "invoice_processing", "data": "nobody has asked for this"})
    answer = talk(exposee, request("POST", "/trigger", body))
    assert answer.startswith(b"HTTP/1.1 202 ") and b"queued for 0 webhook(s)" in answer
    return answer


# --- 5 ------------------------------------------------------------------------------------------------------


def mistakes(lesson: Lesson) -> None:
    body = json.dumps({"event": "payment_received", "data": 1})
    lesson.step(
        "The wrong type",
        """
        Now we do things wrong on purpose, to learn how to read the answers. First: the body is JSON, but the
        `Content-Type` says that it is a form, as web pages send it. That is what `curl -d` says when it is not told
        otherwise.
        """,
    )
    form = request("POST", "/trigger", body).replace(b"application/json", b"application/x-www-form-urlencoded")
    lesson.send("Sent and answered", form)
    lesson.notice(
        "A status that begins with 4 means: the mistake is in the request, and sending it again will not help. One "
        "that begins with 5 means: the mistake is on the server's side, and the request may well be right.",
        "The body of an error is JSON as well, with a type of its own, `application/problem+json`. `detail` is the "
        "sentence to read: what was wrong, what was expected, and often what to do.",
    )
    lesson.step("Not quite JSON", "Second: a brace is missing at the end.")
    lesson.send("Sent and answered", request("POST", "/trigger", body[:-1]))
    lesson.notice("400: I cannot read this. `detail` names the place; column 40 is where the body breaks off.")
    lesson.step("An unknown event", "Third: all is well-formed, but there is no event of that name.")
    lesson.send("Sent and answered", request("POST", "/trigger", body.replace("received", "recieved")))
    lesson.notice("422: I can read this, but it makes no sense here. The answer lists what would.")
    lesson.step("The wrong method", "Fourth: the right target, but `GET`, as a browser sends it for an address.")
    lesson.send("Sent and answered", request("GET", "/trigger"))
    lesson.notice("405: not in this way. `Allow` lists the ways that there are.")


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
        What if it is the receiver that fails? Ours can be asked to, in the query of its URL: `respond=reset` has it
        break the connection off, and `times=1` has it do so once only. An *attempt* is one request of a delivery.
        When it fails, the exposee tries again: here after half a second, and then after one (give or take a fifth).
        In earnest it goes on for three days, with longer and longer pauses.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=reset&times=1")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 100}), url, attempts=2)
    lesson.unregister(url)
    lesson.show_attempts(delivery, pauses=(0.5,))
    lesson.notice(
        "The request of the first attempt was sent whole. Perhaps the receiver has read it, perhaps not: with a broken "
        "connection there is no way to know.",
        "So the second attempt carries the same `webhook-id`: a receiver that has seen the first one can tell.",
        "The `webhook-timestamp` is that of the attempt, in seconds since 1970.",
    )
    lesson.step(
        "Silence",
        """
        Worse than a receiver that refuses is one that says nothing: somebody has to decide when to stop waiting. That
        limit is called a *timeout*. Our exposee was started with one second; usually it is ten.
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
        A good receiver that cannot work now says so: status 503, and a field `Retry-After` with the seconds until it
        expects to be well.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=503&retry_after=1&times=1")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 300}), url, attempts=2)
    lesson.unregister(url)
    lesson.show_attempts(delivery, pauses=(1.0,), requests=False)
    lesson.notice("The exposee has waited for the second that was asked for, and not for half a second only.")
    lesson.step(
        "Half an answer",
        """
        This one says 200 and promises 100 bytes, of which 12 come. It does that three times; our exposee's schedule has
        two pauses, so it makes three attempts.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=half&times=3")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 400}), url, attempts=3)
    lesson.show_attempts(delivery, pauses=(0.5, 1.0), requests=False)
    lesson.notice(
        "A 200 alone is no success. Something has died in the middle, and nobody knows what it had done by then.",
        "The delivery is now in the state `failed`: the exposee gives up.",
    )
    lesson.step(
        "One more time, by hand",
        """
        The integrator has mended the receiver (it is well after three times) and would like to have what was missed.
        Another attempt, asked for by a person, is called a *redelivery*.
        """,
    )
    lesson.send("Sent and answered", request("POST", f"/deliveries/{delivery['id']}/attempts"))
    delivery = lesson.delivery(delivery["message"], url, attempts=4)
    lesson.unregister(url)
    lesson.show_attempts(delivery, first=4)
    lesson.notice("The fourth attempt, with the `webhook-id` of the first.")
    lesson.step(
        "Gone",
        """
        410 is the one answer that means: never again. The exposee obeys, and strikes the URL off its list.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=410")
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 500}), url)
    lesson.show_attempts(delivery, requests=False)
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
    """Standard Webhooks: sign the id, the time and the body, with the bytes that stand in base64 after whsec_."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def github_signature(secret: str, body: bytes) -> str:
    """GitHub: sign the body only, with the secret as it is written."""
    return "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()


def field(message: str, name: str) -> str:
    """The value of a header field."""
    return message.partition(f"\r\n{name}: ")[2].partition("\r\n")[0]


def signatures(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.step(
        "A shared secret",
        """
        Everybody who knows the receiver's address can send it a request that looks like ours. So the integrator
        registers a *secret* with the URL, which only the two know, and the receiver is started with the same one. The
        exposee never sends the secret. It sends a *signature*: a number, calculated from the secret and the
        request, that nobody can calculate without the secret.
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
        This once the secret was sent. In what is shown it is `***`, so the body looks shorter than its length. Now a
        payment arrives:
        """
    )
    lesson.show_arrived(message_id)
    lesson.show_printed("signature verified")
    lesson.notice(
        "There are two signatures, in two dialects: `webhook-signature` is that of Standard Webhooks, which many "
        "services use, and `X-Hub-Signature-256` is GitHub's. A receiver has to understand one of them only. Ours "
        "insists on the first: GitHub's covers the body alone, so an old request would look like a new one."
    )
    lesson.step(
        "Signing by hand",
        """
        Both dialects use HMAC-SHA256: a recipe that makes 32 bytes from a key and a text. Change one bit of
        either, and all of the 32 are others. We calculate both for the request above.
        """,
    )
    lesson.source(standard_signature, github_signature)
    ours = (standard_signature(SECRET, message_id, timestamp, content), github_signature(SECRET, content))
    theirs = (field(sent, "webhook-signature"), field(sent, "X-Hub-Signature-256"))
    for name, mine, came in zip(("Standard Webhooks", "GitHub"), ours, theirs, strict=True):
        verdict = "the same" if mine == came else "different"
        lesson.show_lines(f"{name}: calculated here, and in the request ({verdict})", [mine, came])
    lesson.notice(
        "The dialects differ in everything that can differ: what is signed, what the key is (the secret decoded, or as "
        "text), how the 32 bytes are written (base64 or hexadecimal, two ways to write bytes in letters and digits).",
        "In what follows we need `Connection: close` in requests that we send ourselves. We may add it: header fields "
        "are not signed, but for the id and the time.",
    )
    lesson.step(
        "A byte is changed",
        """
        Somebody on the way makes 900 out of 100, and leaves the rest as it was. We are that somebody, and send the
        changed request to the receiver.
        """,
    )
    closing = sent.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
    changed = closing.replace("100}", "900}").encode("latin-1")
    lesson.send("Sent to the receiver, and answered", changed, lesson.receiver)
    lesson.show_printed('"amount": 900')
    lesson.notice(
        "401: I do not know who you are. The answer says no more than that. A forger is not to learn how to get "
        "better; the owner can read why, on the receiver's terminal.",
    )
    lesson.step(
        "A well-meaning change",
        """
        Now nobody is evil. A program between the two has read the JSON and written it again: the same values,
        without the spaces. The signature is one of bytes, not of values.
        """,
    )
    again = json.dumps(json.loads(content), separators=(",", ":"))
    head = closing.partition("\r\n\r\n")[0].replace(f"Content-Length: {len(content)}", f"Content-Length: {len(again)}")
    lesson.send("Sent to the receiver, and answered", f"{head}\r\n\r\n{again}".encode(), lesson.receiver)
    lesson.show_printed("parsed and written again")
    lesson.notice(
        "The receiver has tried the usual mistakes and names the one that explains it. The remedy: verify the bytes as "
        "they came, before anything parses them."
    )
    lesson.step(
        "An old request",
        """
        A signature does not protect from somebody who has recorded a good request, and sends it a second time: a
        *replay*. That is why the time is signed too. The specification of Standard Webhooks prints a signed request
        as an example, with its secret, which is the one that we use. We send that.
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
        "The signature is right, and yet it is refused: 1614265330 was in February 2021. A receiver takes five "
        "minutes, no more. Within them, the `webhook-id` tells that it has come before."
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
        202 was a promise: accepted, and I shall see to it. What if the exposee dies before it has kept it? To catch
        it in the middle of a delivery we need a receiver that takes its time. This one is a plain socket of our own: it
        reads the request, and does not answer.
        """,
    )
    with lesson.listener() as slow:
        url = f"http://127.0.0.1:{slow.port}/slow"
        lesson.register(url)
        body = json.dumps({"event": "payment_received", "data": {"amount": 100}})
        message_id = lesson.send("Sent to the exposee, and answered", request("POST", "/trigger", body))["id"]
        lesson.show("What has come to our socket", ("< ", slow.receive(message_id)))
        lesson.step(
            "The exposee is killed",
            """
            Now we end the exposee in the hardest way that the system has: the process is not asked, and has no time
            to save anything (`kill -9`). What it has left on the disk is its *journal*, a file that only ever grows at
            its end.
            """,
        )
        lesson.stage.exposee.kill()
        lesson.file("deliveries.jsonl")
        lesson.notice(
            "One line: the message, and for whom it is. It was there before the 202 was sent.",
            "There is no line that says how it went. So it has to be taken for undelivered.",
        )
        lesson.step("And started again", "The same command in the same folder. Nobody triggers anything.")
        lesson.stage.start_exposee()
        lesson.show("What has come to our socket", ("< ", slow.receive(message_id)))
        slow.answer(b"HTTP/1.1 204 No Content\r\n\r\n")
        lesson.show("And this time we answer", ("> ", b"HTTP/1.1 204 No Content\r\n"))
        delivery = lesson.delivery(message_id, url)
        lesson.say(f"The exposee's word for it: the delivery is `{delivery['state']}`.")
        lesson.notice(
            "The same `webhook-id` as before. The promise was kept.",
            "But our socket has got the message twice. Had it been a program that books payments, and had only its "
            "answer been lost, it might have booked one twice. This is called *at least once*, and there is no way "
            "round it: a sender that never repeats would lose messages instead.",
        )
    lesson.step(
        "Duplicates",
        """
        So it is the receiver who has to recognise a *duplicate*, and it can: by the `webhook-id`. We deliver a
        message to `receiver.py`, and then ask for a redelivery of it.
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
        "The duplicate is answered with 204 as well: the sender is to know that it can stop. Then it is ignored. That "
        "makes the receiver idempotent, which you know from chapter 2."
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
        One receiver is registered. Its integrator does not want the events any more. The method for that is
        `DELETE`: take this away.
        """,
    )
    lesson.send("Sent to the exposee, and answered", request("DELETE", "/webhooks/unregister", body))
    lesson.file("webhooks.json")
    lesson.step("Nobody listens", "Now something happens, and nobody wants to know.")
    trigger_body = json.dumps({"event": "payment_received", "data": {"amount": 100}})
    lesson.send("Sent and answered", request("POST", "/trigger", trigger_body))
    lesson.notice("That is no error: the one who triggers an event need not know who listens.")
    lesson.step("Twice", "We unregister what is not registered any more.")
    lesson.send("The same again", request("DELETE", "/webhooks/unregister", body))
    lesson.notice(
        "404: there is no such thing, `0 webhook(s) unregistered`. It does no harm, and you learn that you have "
        "asked for something that was not there. A typing error in the URL looks the same.",
        "That was all of it: text, a status, an id, a signature, and the patience to try again. The programs that you "
        "have watched are a few files of Python; `receiver.py` is the one to open first.",
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
    """`solution` gets the ports of the exposee and the receiver, and returns the answer that proves it.

    It finds a pair of its own, with the receiver registered for payment_received.
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
        "Ask the exposee for something that it does not have, such as `/coffee`. Which status does it answer?",
        solution_1,
    ),
    Chapter(
        "Registering a webhook",
        register,
        "Register the same URL for two further types of events with one request, and have the exposee list what is "
        "registered: `GET /webhooks`.",
        solution_2,
    ),
    Chapter(
        "Ping and ping-back",
        ping,
        "Register a second URL, on a port where nobody listens, and ping again. To how many was it delivered?",
        solution_3,
    ),
    Chapter(
        "Triggering an event",
        trigger,
        "Trigger an event for which nobody has registered. Is that an error?",
        solution_4,
    ),
    Chapter(
        "Mistakes, and how to read the answers",
        mistakes,
        "409 means: not as things stand now. Make the exposee answer it. (A ping-back confirms a ping. What if there "
        "has been none?)",
        solution_5,
    ),
    Chapter(
        "A receiver that fails",
        failures,
        "`respond=redirect` has the receiver answer 302: what you want is at another address. Does the exposee go "
        "there? Find out with one trigger that waits.",
        solution_6,
    ),
    Chapter(
        "Signatures",
        signatures,
        "Sign a request of your own so that the receiver takes it. You know the secret.",
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
        "Register a URL for two types of events, and unregister one of them. What is left?",
        solution_9,
    ),
]
