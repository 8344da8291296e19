"""The chapters on failures: a receiver that fails, and an exposee that is killed."""

from __future__ import annotations

from lesson_client import receiver_url, request, talk
from walkthrough_lesson import Lesson

# --- a receiver that fails ----------------------------------------------------------------------------------

ATTEMPT = ("webhook-", "Retry-After", "Content-Length: 100", "only half")  # the lines of an attempt that matter here


def failing(lesson: Lesson, query: str, amount: int, attempts: int) -> None:
    """Trigger an event for a receiver that fails as the query says; keep the delivery when it has so many attempts."""
    url = receiver_url(lesson.receiver, query)
    lesson.register(url)
    lesson.kept.delivery = lesson.delivery(lesson.trigger({"amount": amount}), url, attempts)
    lesson.unregister(url)


def the_connection_breaks(lesson: Lesson) -> None:
    failing(lesson, "?respond=reset&times=1", 100, attempts=2)
    lesson.step(
        "The connection breaks",
        """
        Our receiver fails when the query of its URL asks for it. With `respond=reset` it resets the connection, and
        with `times=1` it does so only once.

        An *attempt* is one request of a delivery. When one fails, the exposee makes another: here after 0.5 s, and the
        next one after 1 s (each ±20 %). Its usual schedule has ten attempts in three days, with pauses that grow.
        """,
    )
    lesson.show_attempt(lesson.kept.delivery, 1)
    lesson.notice(
        "The exposee sent the whole request. After a reset it cannot know whether the receiver has read it.",
    )


def the_next_attempt(lesson: Lesson) -> None:
    lesson.step("The next attempt", "After the pause, the exposee sends the message again.")
    lesson.show_attempt(lesson.kept.delivery, 2, pause=0.5, only=ATTEMPT)
    lesson.notice(
        "The second attempt has the same `webhook-id`. With it, a receiver recognises a message that it has read "
        "before.",
        "`webhook-timestamp` is the time of the attempt, in seconds since 1970.",
    )


def no_answer(lesson: Lesson) -> None:
    lesson.step(
        "No answer",
        """
        A receiver can also take the request and never answer. The exposee stops waiting after a time that is called
        its *timeout*. Our exposee was started with 1 s; the default is 10 s.
        """,
    )
    failing(lesson, "?respond=hang&times=1", 200, attempts=2)
    lesson.show_attempt(lesson.kept.delivery, 1, only=ATTEMPT)
    lesson.show_attempt(lesson.kept.delivery, 2, pause=0.5, only=ATTEMPT)


def come_back_later(lesson: Lesson) -> None:
    lesson.step(
        "Please come back later",
        """
        A receiver that cannot work now answers 503. Its field `Retry-After` is the number of seconds after which it
        expects to work again.
        """,
    )
    failing(lesson, "?respond=503&retry_after=1&times=1", 300, attempts=2)
    lesson.show_attempt(lesson.kept.delivery, 1, only=ATTEMPT)
    lesson.show_attempt(lesson.kept.delivery, 2, pause=1.0, only=ATTEMPT)
    lesson.notice("The exposee waited for the 1 s that `Retry-After` asked for, not for the 0.5 s of its schedule.")


def half_an_answer(lesson: Lesson) -> None:
    lesson.step(
        "Half an answer",
        """
        This receiver answers 200 with `Content-Length: 100` and closes the connection after 12 bytes of the body. It
        does so three times. Our exposee's schedule has two pauses, so it makes three attempts.
        """,
    )
    url = receiver_url(lesson.receiver, "?respond=half&times=3")
    lesson.register(url)
    lesson.kept.half = lesson.delivery(lesson.trigger({"amount": 400}), url, attempts=3)
    lesson.show_attempt(lesson.kept.half, 1, only=ATTEMPT)


def given_up(lesson: Lesson) -> None:
    lesson.step("Given up", "The other two attempts fail in the same way.")
    attempts = lesson.kept.half["attempts"]
    lesson.show_lines("The outcomes", [f"Attempt {number}: {one['error']}" for number, one in enumerate(attempts, 1)])
    lesson.notice(
        "A status of 200 is not enough for a success: the answer must be whole. The receiver may have failed while it "
        "processed the message.",
        "The state of the delivery is now `failed`: the exposee makes no further attempts.",
    )


def by_hand(lesson: Lesson) -> None:
    lesson.step(
        "One more time, by hand",
        """
        After three failures the receiver works normally. The integrator wants the message that it missed. A further
        attempt that a person asks for is called a *redelivery*.
        """,
    )
    lesson.send(request("POST", f"/deliveries/{lesson.kept.half['id']}/attempts"))


def the_fourth_attempt(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver, "?respond=half&times=3")
    delivery = lesson.delivery(lesson.kept.half["message"], url, attempts=4)
    lesson.unregister(url)
    lesson.step("The fourth attempt", "202 meant that the exposee would make the attempt. It has done so:")
    lesson.show_attempt(delivery, 4, only=(*ATTEMPT, "event"))
    lesson.notice("The fourth attempt has the `webhook-id` of the first.")


def gone(lesson: Lesson) -> None:
    lesson.step(
        "Gone",
        "410 means: send nothing to this URL again. The exposee makes no further attempt and unregisters the URL.",
    )
    url = receiver_url(lesson.receiver, "?respond=410")
    lesson.register(url)
    lesson.show_attempt(lesson.delivery(lesson.trigger({"amount": 500}), url), 1, only=ATTEMPT)
    lesson.wait_until_unregistered(url)
    lesson.file("webhooks.json")


FAILING_RECEIVER = [the_connection_breaks, the_next_attempt, no_answer, come_back_later, half_an_answer]
FAILING_RECEIVER += [given_up, by_hand, the_fourth_attempt, gone]


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


# --- the exposee is killed ----------------------------------------------------------------------------------

PAYMENT = {"event": "payment_received", "data": {"amount": 100}}


def a_slow_receiver(lesson: Lesson) -> None:
    lesson.kept.slow = lesson.listener()
    lesson.register(f"http://127.0.0.1:{lesson.plain}/slow")
    lesson.step(
        "A slow receiver",
        """
        A 202 means that the exposee will deliver the event. Here we kill the exposee before it has done so, in the
        middle of an attempt. For this we need a slow receiver: a plain socket of the lesson. It reads the request and
        does not answer.
        """,
    )
    lesson.kept.id = lesson.send(request("POST", "/trigger", PAYMENT))["id"]


def the_attempt(lesson: Lesson) -> None:
    lesson.step("The attempt", "The request has arrived at our socket, which does not answer.")
    lesson.show("Received by our socket", ("< ", lesson.kept.slow.receive(lesson.kept.id)))


def killed(lesson: Lesson) -> None:
    lesson.programs.exposee.kill()
    lesson.step(
        "The exposee is killed",
        """
        We have killed the exposee with `kill -9`. The process was not told and could not save anything. Its *journal*
        is on the disk: a file to which the exposee appends what it has accepted and what it has done.
        """,
    )
    lesson.file("webhooks.deliveries.jsonl")
    lesson.notice(
        "There is one line: the message and its URLs. It was on the disk before the 202 was sent.",
        "There is no line with the state of the delivery. So the exposee will take it as not delivered.",
    )


def started_again(lesson: Lesson) -> None:
    lesson.step("Started again", "We start the same command in the same folder. Nobody triggers anything.")
    lesson.programs.start_exposee()
    arrived, answer = lesson.kept.slow.receive(lesson.kept.id), b"HTTP/1.1 204 No Content\r\n\r\n"
    lesson.kept.slow.answer(answer)
    lesson.show("Received by our socket, which answers this time", ("< ", arrived), ("> ", answer))


def at_least_once(lesson: Lesson) -> None:
    url = f"http://127.0.0.1:{lesson.plain}/slow"
    delivery = lesson.delivery(lesson.kept.id, url)
    lesson.unregister(url)
    lesson.step("At least once", f"The exposee lists the delivery with the state `{delivery['state']}`.")
    lesson.notice(
        "The `webhook-id` is the same as before. The event was delivered after the crash.",
        "Our socket received the message twice. A program that books payments would perhaps have booked this one "
        "twice.",
        "This guarantee is called *at least once*. A sender that never repeats a message would lose some.",
    )


def duplicates(lesson: Lesson) -> None:
    url = receiver_url(lesson.receiver)
    lesson.register(url)
    delivery = lesson.delivery(lesson.trigger({"amount": 200}), url)
    lesson.step(
        "Duplicates",
        """
        So the receiver must recognise a *duplicate*. It compares the `webhook-id` with those that it has answered
        before. We deliver a message to `receiver.py`, and then ask for a redelivery of it.
        """,
    )
    first = lesson.printed('"amount": 200')
    lesson.ask("POST", f"/deliveries/{delivery['id']}/attempts")
    lesson.delivery(delivery["message"], url, attempts=2)
    lesson.show_lines("On the receiver's terminal", [*first, *lesson.printed("duplicate")])
    lesson.notice(
        "The receiver answers the duplicate with 204 too, so that the exposee makes no further attempt. It does not "
        "process the message a second time. So the receiver is idempotent (chapter 2)."
    )


KILLED_EXPOSEE = [a_slow_receiver, the_attempt, killed, started_again, at_least_once, duplicates]


def solution_10(exposee: int, receiver: int) -> bytes:
    event = {"event": "payment_received", "data": "once, or twice?"}
    fields = {"webhook_id": "msg_by_hand"}
    sent = request("POST", "/webhook-receiver", event, **fields)
    for _ in range(2):
        answer = talk(receiver, sent)
        assert answer.startswith(b"HTTP/1.1 204 ")
    return answer
