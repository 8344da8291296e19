"""The chapter on two machines: the roles, the tunnel between them, and what a stranger may do."""

from __future__ import annotations

from typing import Any

from lesson_client import receiver_url, request, talk
from walkthrough_lesson import Lesson

NAME = "calm-owls-sing.loca.lt"  # the public name of our exposee, made up
PUBLIC_URL = "https://red-cats-jump.loca.lt/webhook-receiver"  # the receiver's URL on another machine, made up


def through_tunnel(method: str, target: str, body: Any = "") -> bytes:
    """A request as a tunnel passes it on."""
    return request(method, target, body, Host=NAME, X_Forwarded_For="203.0.113.9")


def the_roles(lesson: Lesson) -> None:
    lesson.step(
        "The roles",
        """
        Until now both programs ran on one machine. In a course there are two people, each with a machine, and each
        has a role.
        """,
    )
    lesson.notice(
        "The one that has the events runs `exposee.py`. This person triggers events, sees all deliveries, and need "
        "not know who receives them.",
        "The one that wants the events is the integrator. This person runs `receiver.py` and registers its URL at the "
        "exposee, with `register_webhook.py`.",
        "Each of the two servers is called by the other side: the exposee to register, the receiver to deliver. So "
        "both need an address that the other machine can reach.",
    )


def the_tunnel(lesson: Lesson) -> None:
    lesson.step(
        "The tunnel",
        """
        `127.0.0.1` is a machine's address for itself: no other machine can use it. A *tunnel* gives a program on your
        machine a public URL. It is a connection from your machine to a server on the internet. What comes to the public
        URL there, the tunnel's program on your machine passes on to your port.
        """,
    )
    lesson.show_lines(
        "The way of a request",
        [
            f"integrator --> https://{NAME}",
            "                      |",
            "                      v      (the tunnel)",
            f"               http://127.0.0.1:{lesson.exposee}, the exposee",
        ],
    )


def an_own_request(lesson: Lesson) -> None:
    lesson.register(receiver_url(lesson.receiver))
    lesson.step(
        "A request from this machine", "First we ask for the list of webhooks as before. The exposee's owner may do so."
    )
    lesson.send(request("GET", "/webhooks"))


def a_request_through_a_tunnel(lesson: Lesson) -> None:
    lesson.step(
        "The same through a tunnel",
        """
        The tunnel's program runs on the exposee's machine, so its connection comes from there. But its requests look
        different, and we can write such a request ourselves:
        """,
    )
    lesson.send(through_tunnel("GET", "/webhooks"))
    lesson.notice(
        "`Host` is the public name: the client has written there whom it wanted to reach.",
        "`X-Forwarded-For` has the address of the real client. The tunnel adds it.",
    )


def a_stranger(lesson: Lesson) -> None:
    lesson.step(
        "A stranger",
        """
        From these fields the exposee knows that this caller is a *stranger*, somebody from another machine. Anybody who
        knows a public URL can use it, so the exposee does not do everything for everybody.
        """,
    )
    lesson.notice(
        "A stranger may do what an integrator needs: register, unregister, ping, send a ping-back, trigger an event.",
        "A stranger may not see the lists: the URLs and the payloads belong to others.",
        "A stranger may not register every URL. We try that next.",
    )


def a_private_url(lesson: Lesson) -> None:
    lesson.step(
        "A private URL",
        "An integrator on another machine registers the URL that its receiver has printed at the start:",
    )
    body = {"url": receiver_url(lesson.receiver), "event_types": ["payment_received"]}
    lesson.send(through_tunnel("POST", "/webhooks/register", body))
    lesson.notice(
        "At the exposee, `127.0.0.1` is the exposee's own machine, not the integrator's. The delivery would go to the "
        "wrong program.",
        "Without this rule, strangers could have the exposee call programs that only its own machine can reach.",
    )


def the_public_url(lesson: Lesson) -> None:
    lesson.step("The public URL", "So the integrator starts a tunnel to its receiver and registers that tunnel's URL.")
    body = {"url": PUBLIC_URL, "event_types": ["payment_received"]}
    lesson.send(through_tunnel("POST", "/webhooks/register", body))
    lesson.unregister(PUBLIC_URL)
    lesson.notice(
        "A tunnel has a new URL after each start. Then the integrator unregisters the old one and registers the new "
        "one.",
        "That tunnel does not exist, so we have unregistered its URL again.",
    )


def what_a_stranger_sees(lesson: Lesson) -> None:
    lesson.step("What a stranger sees", "A ping tests the way back, from the exposee to all receivers.")
    lesson.send(through_tunnel("GET", "/ping"))
    lesson.notice("The answer has the counts only. In chapter 3 it listed each delivery with its URL.")


def switching(lesson: Lesson) -> None:
    lesson.step(
        "Switching the roles",
        """
        The role is in the program, not in the machine. To switch midway, each side starts the other program, and a
        tunnel to its port. The first program may go on running, as the two have different ports.
        """,
    )
    lesson.show_lines(
        "On the new exposee's machine",
        ["python3 exposee.py", "npx localtunnel --port 3000"],
    )
    lesson.show_lines(
        "On the new integrator's machine (README.md has the variables, with which it then registers its URL)",
        ["npx localtunnel --port 8080", "python3 receiver.py --ping-back"],
    )


def nothing_moves(lesson: Lesson) -> None:
    lesson.step("What stays", "Nothing moves from one machine to the other.")
    lesson.notice(
        "The webhooks stay with the old exposee, in its `webhooks.json`. The new one has its own file.",
        "A delivery that waited when the old exposee was stopped is in its journal. It is sent when that exposee is "
        "started again.",
        "One machine can also run both programs, as this lesson does. They use different ports and share nothing.",
    )


TUNNEL = [the_roles, the_tunnel, an_own_request, a_request_through_a_tunnel, a_stranger]
TUNNEL += [a_private_url, the_public_url, what_a_stranger_sees, switching, nothing_moves]


def solution_11(exposee: int, receiver: int) -> bytes:
    name = "calm-owls-sing.loca.lt"
    answer = talk(exposee, request("GET", "/webhooks", Host=name))
    assert answer.startswith(b"HTTP/1.1 403 ")
    added = {"X_Forwarded_For": "203.0.113.9"}
    answer = talk(exposee, request("GET", "/webhooks", **added))
    assert answer.startswith(b"HTTP/1.1 403 ")
    return answer
