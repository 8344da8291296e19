"""The chapters on what the exposee is for: registering, ping, triggering, a receiver of one's own, unregistering."""

from __future__ import annotations

import socket

import lesson_receiver
from lesson_client import receiver_url, request, talk
from walkthrough_lesson import Lesson

PAYMENT = {"event": "payment_received", "data": {"amount": 100}}

# --- registering a webhook ----------------------------------------------------------------------------------


def registration(lesson: Lesson) -> bytes:
    body = {"url": receiver_url(lesson.receiver), "event_types": ["payment_received"]}
    return request("POST", "/webhooks/register", body)


def registering(lesson: Lesson) -> None:
    lesson.step(
        "Registering",
        """
        The integrator tells the exposee the receiver's address and the types of events to send there. The address is a
        *URL*: it has the protocol, the machine, the port and the path. Both go into the body of a request. Its method
        is `POST`, which hands something over.
        """,
    )
    lesson.send(registration(lesson))
    lesson.notice(
        "A request can have a body too, with the same two fields. Without `Content-Length` the exposee could not know "
        "where the body ends.",
        "The exposee has stored the URL. It has sent nothing to the receiver yet.",
        "`register_webhook.py` sends the same body to the same target.",
    )


def on_the_disk(lesson: Lesson) -> None:
    lesson.step(
        "What the exposee remembers",
        "The exposee answered only after the webhook was on the disk, so a power cut cannot lose it. The file is text.",
    )
    lesson.file("webhooks.json")
    lesson.notice("One entry is one URL for one type of event.")


def registering_again(lesson: Lesson) -> None:
    lesson.step(
        "Registering again",
        """
        A network can lose an answer. An integrator that has not received the 200 sends the request once more. This must
        do no harm, so we try it.
        """,
    )
    lesson.send(registration(lesson), only=("POST", "url"))
    lesson.file("webhooks.json")
    lesson.notice(
        "The answer is the same, and there is still one entry. A request is *idempotent* if sending it twice has the "
        "same effect as sending it once."
    )


REGISTERING = [registering, on_the_disk, registering_again]


def solution_2(exposee: int, receiver: int) -> bytes:
    url = receiver_url(receiver)
    types = ["invoice_processing", "invoice_completed"]
    body = {"url": url, "event_types": types}
    answer = talk(exposee, request("POST", "/webhooks/register", body))
    assert answer.startswith(b"HTTP/1.1 200 ")
    answer = talk(exposee, request("GET", "/webhooks"))
    assert answer.count(url.encode()) == 3
    return answer


# --- ping and ping-back -------------------------------------------------------------------------------------


def a_ping(lesson: Lesson) -> None:
    lesson.register(receiver_url(lesson.receiver))
    lesson.step(
        "A ping",
        """
        The receiver is registered, as in chapter 2. A *ping* is a test: a request that only shows whether the receiver
        can be reached. We ask the exposee to ping every registered URL. It answers with the outcomes.
        """,
    )
    lesson.kept.ping = lesson.send(request("GET", "/ping"), most=400)["id"]
    lesson.notice(
        "The ping is a *message*, and `msg_…` is its id. One message for one URL is a *delivery*, and its id begins "
        "with `dlv_`.",
        "The delivery's `state` is `delivered`, because the receiver had answered 204 by then.",
    )


def the_exposees_end(lesson: Lesson) -> None:
    delivery = lesson.delivery(lesson.kept.ping, receiver_url(lesson.receiver))
    lesson.step(
        "One end of the connection",
        "For the ping, the exposee was the client. It keeps the bytes that it sent and received. We ask it for them.",
    )
    attempt = delivery["attempts"][0]
    lesson.show(
        "At the exposee's end (`>` was sent, `<` came back)",
        ("> ", attempt["request"].encode("latin-1")),
        ("< ", attempt["response"].encode("latin-1")),
    )


def the_receivers_end(lesson: Lesson) -> None:
    lesson.step(
        "The other end",
        """
        The receiver was the server. It runs with `--raw`, so it prints the bytes that it received and sent: the same
        lines, with the other marks.
        """,
    )
    lesson.show_arrived(lesson.kept.ping)


def what_a_ping_has(lesson: Lesson) -> None:
    lesson.step("What a delivery has", "Below the dump, the receiver has printed what counts for its owner:")
    lesson.show_printed('"ping"')
    lesson.notice(
        "The body of this request is also called its *payload*. It names the event and has its data. Facts about the "
        "delivery, such as `webhook-id`, are in header fields.",
        "204 means: received, and the response has no body. Any status from 200 to 299 counts as success.",
        "`User-Agent` is the name of the program that sends the request.",
        "`Bypass-Tunnel-Reminder` is for tunnels (chapter 11). Some answer with a page of their own without it.",
    )


def the_ping_back(lesson: Lesson) -> None:
    lesson.step(
        "The ping-back",
        """
        A 204 shows that some program answers at that address. With a *ping-back* the integrator claims that the ping
        has arrived. The exposee records the claim and answers with the payload of the ping. It proves nothing: the
        payload is always the same, and anybody can send a ping-back.
        """,
    )
    lesson.send(request("POST", "/webhooks/ping-back", {"url": receiver_url(lesson.receiver)}))
    lesson.notice("A receiver that is started with `--ping-back` and the two URLs sends one after each ping.")


def confirmed(lesson: Lesson) -> None:
    lesson.step("Confirmed", "Now we ask the exposee for its newest delivery, which is the ping.")
    lesson.send(request("GET", "/deliveries?limit=1"))
    lesson.notice(
        "`confirmed` has become `true`.",
        "The part of a target after the `?` is the *query*. Here it limits the answer to one delivery.",
    )


PING = [a_ping, the_exposees_end, the_receivers_end, what_a_ping_has, the_ping_back, confirmed]


def solution_3(exposee: int, receiver: int) -> bytes:
    url = "http://127.0.0.1:9/nobody"
    body = {"url": url, "event_types": ["payment_received"]}
    talk(exposee, request("POST", "/webhooks/register", body))
    answer = talk(exposee, request("GET", "/ping"))
    assert b"delivered to 1 of 2 webhook(s)" in answer
    return answer


# --- triggering an event ------------------------------------------------------------------------------------


def something_happens(lesson: Lesson) -> None:
    lesson.kept.other = lesson.programs.run("receiver.py", "--port", str(lesson.second), "--raw")
    lesson.kept.other.wait_until_it_listens()
    for port in (lesson.receiver, lesson.second):
        lesson.register(receiver_url(port))
    lesson.step(
        "Something happens",
        """
        Two integrators have registered for `payment_received`. Each has its own receiver, on its own port. Now a
        payment arrives, and the service tells the exposee. This is called to *trigger* the event.
        """,
    )
    lesson.kept.id = lesson.send(request("POST", "/trigger", PAYMENT))["id"]
    lesson.notice(
        "202 means: accepted, and not done yet. The event is on the exposee's disk, so it will be delivered even after "
        "a crash. We do not wait for the receivers, which may be slow.",
        "`Location` is the target that shows the outcome.",
    )


def fan_out(lesson: Lesson) -> None:
    lesson.step(
        "Fan-out", "The exposee sends the event to every URL that is registered for it. This is called *fan-out*."
    )
    lesson.show_arrived(lesson.kept.id, end="the first receiver's end")


def one_message(lesson: Lesson) -> None:
    lesson.step("One message, two deliveries", "The second receiver has the same payload.")
    some = ("POST", "Host", "webhook-id", "event", "204")
    lesson.show_arrived(lesson.kept.id, lesson.kept.other, "the second receiver's end", only=some)
    lesson.notice(
        "Both requests have the same `webhook-id`, because they carry one message.",
        "`Host` differs: it has the machine and the port of each URL.",
        "Neither delivery waits for the other.",
    )


def the_location(lesson: Lesson) -> None:
    for port in (lesson.receiver, lesson.second):
        lesson.delivery(lesson.kept.id, receiver_url(port))
    lesson.step("Following the Location", "We ask for the outcome, at the target that `Location` has named.")
    lesson.send(request("GET", f"/deliveries?message={lesson.kept.id}"), most=600)
    lesson.notice("The list has two deliveries, the last one first. Each has its own state and status.")


def waiting(lesson: Lesson) -> None:
    lesson.step(
        "Waiting after all",
        """
        Some callers want to wait for the outcome, a script for example. With the field `Prefer` a client asks for
        something that the server may ignore. Here it asks the exposee to wait for the first attempts, five seconds at
        most.
        """,
    )
    lesson.send(request("POST", "/trigger", PAYMENT, Prefer="wait=5"))
    lesson.notice(
        "The status is 200, and the answer has the outcomes of the deliveries. `Preference-Applied` means that the "
        "exposee did what `Prefer` asked for."
    )


TRIGGERING = [something_happens, fan_out, one_message, the_location, waiting]


def solution_4(exposee: int, receiver: int) -> bytes:
    body = {"event": "invoice_processing", "data": "nobody has asked"}
    answer = talk(exposee, request("POST", "/trigger", body))
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert b"nobody is registered for invoice_processing" in answer
    return answer


# --- a receiver of your own ---------------------------------------------------------------------------------


def fifteen_lines(lesson: Lesson) -> None:
    lesson.step(
        "A receiver in fifteen lines",
        """
        A receiver is any program that takes a `POST` and answers it. Python's `http.server` reads the request line and
        the header fields. The rest is in `lesson_receiver.py`:
        """,
    )
    lesson.source(lesson_receiver)


def its_parts(lesson: Lesson) -> None:
    lesson.step("Line by line", "`http.server` calls `do_POST` for each request with that method.")
    lesson.notice(
        "`self.headers` has the header fields, and `self.rfile` is what the client sends after them. The body has as "
        "many bytes as `Content-Length` says. `read()` without a number would wait until the client closes.",
        "`send_response` and `end_headers` write the first line, the fields and the empty line. 204 has no body.",
        "`serve_forever` waits for the next connection, for ever.",
    )


def it_runs(lesson: Lesson) -> None:
    lesson.kept.own = lesson.programs.run("lesson_receiver.py", str(lesson.plain))
    lesson.kept.own.wait_until_it_listens()
    url = f"http://127.0.0.1:{lesson.plain}/"
    lesson.step("It runs", f"We have started `lesson_receiver.py` with a port, and register it: {url}")
    lesson.send(request("POST", "/webhooks/register", {"url": url, "event_types": ["payment_received"]}))


def its_first_event(lesson: Lesson) -> None:
    lesson.step("Its first event", "Now a payment arrives at the exposee.")
    message = lesson.trigger({"amount": 100})
    delivery = lesson.delivery(message, f"http://127.0.0.1:{lesson.plain}/")
    lesson.show_attempt(delivery, 1, only=("Content-Length", "webhook-id", "event", "Server"))
    printed = lesson.kept.own.wait_for(lambda lines: lines[1:] if len(lines) > 2 else [], "two lines")
    lesson.show_lines("On its terminal", printed)
    lesson.notice(
        "The second line on the terminal is from `http.server` itself.",
        "It answers in HTTP/1.0, the older version, in which every connection ends with the answer.",
    )


def what_it_lacks(lesson: Lesson) -> None:
    lesson.step("What it lacks", "It is enough to try an exposee. `receiver.py` does more. The next chapters say why.")
    lesson.notice(
        "It believes everybody. A signature shows who has sent a request (chapter 9).",
        "It does not notice that it receives a message twice (chapter 10).",
        "It serves one client at a time. A silent one keeps all others out.",
        "It reads as many bytes as the client claims to send, and a request without `Content-Length` is a traceback.",
        "It closes each connection after one answer (chapter 7).",
    )


OWN_RECEIVER = [fifteen_lines, its_parts, it_runs, its_first_event, what_it_lacks]


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


# --- unregistering ------------------------------------------------------------------------------------------


def the_way_out(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.register(url)
    lesson.kept.removal = request("DELETE", "/webhooks/unregister", {"url": url, "event": "payment_received"})
    lesson.step(
        "The way out",
        """
        One receiver is registered. Its integrator does not want the events any more and unregisters it. The method is
        `DELETE`.
        """,
    )
    lesson.send(lesson.kept.removal)
    lesson.file("webhooks.json")


def no_receiver(lesson: Lesson) -> None:
    lesson.step("No receiver", "Now an event is triggered, and no URL is registered for it.")
    lesson.send(request("POST", "/trigger", PAYMENT))
    lesson.notice("This is no error: the service that triggers an event need not know the receivers.")


def twice(lesson: Lesson) -> None:
    lesson.step("Twice", "We unregister the same webhook once more.")
    lesson.send(lesson.kept.removal, only=("DELETE", "url"))
    lesson.notice(
        "404 means that this webhook is not registered: `0 webhook(s) unregistered`. The request does no harm. After a "
        "typing error in the URL, the answer is the same.",
    )


def what_you_have_seen(lesson: Lesson) -> None:
    lesson.step(
        "What you have seen",
        """
        You have seen a whole webhook system: requests, statuses, ids, signatures and retries. Both programs are Python
        files in this directory. `README.md` has the order in which to read them, under *How to read it*.
        """,
    )


UNREGISTERING = [the_way_out, no_receiver, twice, what_you_have_seen]


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
