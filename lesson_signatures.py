"""The chapter on signatures: who sent a request, and whether it was changed on the way."""

from __future__ import annotations

import base64
import hmac
import json
import time

from lesson_client import receiver_url, request, talk
from walkthrough_lesson import Lesson

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # published with the specification: for lessons only


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


def a_secret(lesson: Lesson) -> None:
    lesson.step(
        "A shared secret",
        """
        Anybody can send a request like ours to the receiver. So the integrator registers a *secret* with the URL, and
        starts the receiver with the same secret. Only the two programs know it.
        """,
    )
    body = {"url": receiver_url(lesson.receiver), "event_types": ["payment_received"], "secret": SECRET}
    lesson.send(request("POST", "/webhooks/register", body))
    lesson.notice(
        "This request did contain the secret. It is shown as `***`, so the body looks shorter than its "
        "`Content-Length`.",
    )


def a_signed_delivery(lesson: Lesson) -> None:
    delivery = lesson.delivery(lesson.trigger({"amount": 100}), receiver_url(lesson.receiver))
    sent = lesson.kept.sent = delivery["attempts"][0]["request"]
    content = lesson.kept.content = sent.partition("\r\n\r\n")[2].encode("latin-1")
    message_id, timestamp = field(sent, "webhook-id"), field(sent, "webhook-timestamp")
    for version in (content, content.replace(b"100", b"900"), content.replace(b" ", b"")):
        lesson.sign_on_page(standard_signature, SECRET, message_id, timestamp, version)
    lesson.step(
        "A signed delivery",
        """
        Now a payment arrives. The delivery does not contain the secret. It contains a *signature*: a number that is
        calculated from the secret and the request, and that nobody can calculate without the secret.
        """,
    )
    lesson.show_arrived(message_id)


def two_dialects(lesson: Lesson) -> None:
    lesson.step("Two dialects", "The receiver has calculated the signature too, and its own is the same:")
    lesson.show_printed("signature verified")
    lesson.notice(
        "There are two signatures. `webhook-signature` is that of Standard Webhooks, which many services use. "
        "`X-Hub-Signature-256` is GitHub's.",
        "A receiver needs to verify only one of them. Ours requires the first: GitHub's covers only the body, so an "
        "old request would pass as a new one.",
    )


def signing(lesson: Lesson) -> None:
    lesson.step(
        "Signing by hand",
        """
        Both dialects use HMAC-SHA256. This function makes 32 bytes from a key and a text. When one bit of either
        changes, the 32 bytes are completely different. First Standard Webhooks:
        """,
    )
    lesson.source(standard_signature)


def signing_as_github(lesson: Lesson) -> None:
    lesson.step("The other dialect", "GitHub's is shorter:")
    lesson.source(github_signature)
    lesson.notice(
        "The dialects sign different texts. Their keys differ: the decoded secret, or the secret as text. They write "
        "the 32 bytes differently: as base64, or as hexadecimal digits.",
    )


def compared(lesson: Lesson) -> None:
    lesson.step("Compared", "We calculate both signatures of the request above.")
    sent, content = lesson.kept.sent, lesson.kept.content
    message_id, timestamp = field(sent, "webhook-id"), field(sent, "webhook-timestamp")
    ours = (standard_signature(SECRET, message_id, timestamp, content), github_signature(SECRET, content))
    theirs = (field(sent, "webhook-signature"), field(sent, "X-Hub-Signature-256"))
    for name, mine, came in zip(("Standard Webhooks", "GitHub"), ours, theirs, strict=True):
        verdict = "the same" if mine == came else "different"
        lesson.show_lines(f"{name}: calculated here, and in the request ({verdict})", [mine, came])


DELIVERED = ("POST", "Content-Length", "webhook-", "Connection", "event")  # the lines that matter in what we send


def a_byte_is_changed(lesson: Lesson) -> None:
    closing = lesson.kept.sent.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
    lesson.kept.closing = closing
    lesson.step(
        "A byte is changed",
        """
        Suppose that somebody between the two programs changes 100 to 900 and nothing else. We do this ourselves and
        send the changed request to the receiver. We add `Connection: close`; only the id, the time and the body are
        signed.
        """,
    )
    lesson.send(closing.replace("100}", "900}").encode("latin-1"), lesson.receiver, only=DELIVERED)
    lesson.notice(
        "401 means that the request does not prove its sender. The answer gives no reason, because a forger could "
        "learn from it.",
    )


def why_it_was_refused(lesson: Lesson) -> None:
    lesson.step("Why it was refused", "The receiver's terminal shows the reason to its owner.")
    lesson.show_printed('"amount": 900', most=6)
    lesson.notice("The receiver shows which bytes it signed, with which key, and what came out.")


def a_well_meaning_change(lesson: Lesson) -> None:
    lesson.step(
        "A well-meaning change",
        """
        Suppose that a program between the two parses the JSON and writes it again without spaces. The values are the
        same and the bytes are not. A signature is calculated from bytes.
        """,
    )
    content = lesson.kept.content
    again = json.dumps(json.loads(content), separators=(",", ":"))
    head = lesson.kept.closing.partition("\r\n\r\n")[0]
    head = head.replace(f"Content-Length: {len(content)}", f"Content-Length: {len(again)}")
    lesson.send(f"{head}\r\n\r\n{again}".encode(), lesson.receiver, only=DELIVERED)


def the_known_mistake(lesson: Lesson) -> None:
    lesson.step("The known mistake", "The receiver tries the usual mistakes and names the one that explains it.")
    lesson.show_printed("parsed and written again", most=6)
    lesson.notice("The remedy is to verify the bytes as they came, before they are parsed.")


def an_old_request(lesson: Lesson) -> None:
    lesson.step(
        "An old request",
        """
        Somebody may record a signed request and send it again. This is called a *replay*. The signature of the body
        would still be right, so Standard Webhooks signs the time too. Its specification has a signed request as an
        example, and our secret is the one of that example. We send that request.
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
    lesson.send(old, lesson.receiver)


def too_old(lesson: Lesson) -> None:
    lesson.step("Too old", "The answer does not say why. The terminal does:")
    lesson.show_printed("a replay?")
    lesson.notice(
        "The signature is right, but the request is refused: 1614265330 was in February 2021.",
        "The receiver accepts times up to five minutes off. Within these, it recognises a replay by its `webhook-id`.",
    )


SIGNATURES = [a_secret, a_signed_delivery, two_dialects, signing, signing_as_github, compared]
SIGNATURES += [a_byte_is_changed, why_it_was_refused, a_well_meaning_change, the_known_mistake, an_old_request, too_old]


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
