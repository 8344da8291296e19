"""The lesson: its introduction, and the table of its chapters. `python3 -i lesson.py` is the prompt for the exercises.

A chapter is a list of steps. Each step is a function, named after what it shows, that uses the methods of `Lesson`
(walkthrough_lesson.py). A chapter gets a fresh pair of programs and depends on no other chapter. Each exercise has a
solution, a function that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lesson_client import read_answer, receiver_url, request, talk
from lesson_failures import FAILING_RECEIVER, KILLED_EXPOSEE, solution_8, solution_10
from lesson_http import FIRST_REQUEST, MISTAKES, ONE_CONNECTION, solution_1, solution_6, solution_7
from lesson_signatures import SECRET, SIGNATURES, github_signature, solution_9, standard_signature
from lesson_tunnel import TUNNEL, solution_11, through_tunnel
from lesson_webhooks import (
    OWN_RECEIVER,
    PING,
    REGISTERING,
    TRIGGERING,
    UNREGISTERING,
    solution_2,
    solution_3,
    solution_4,
    solution_5,
    solution_12,
)
from walkthrough_lesson import Lesson

__all__ = [  # for the prompt, besides the solutions
    "SECRET",
    "github_signature",
    "read_answer",
    "receiver_url",
    "request",
    "standard_signature",
    "talk",
    "through_tunnel",
]

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

SOLUTIONS = """
Each solution is a function of `lesson.py` too. It takes the two ports, and its `assert` lines check the answer. Here it
runs with a fresh pair of programs, on other ports, whose receiver is registered for `payment_received`. So what you
have sent does not affect it. If you call one yourself, do so before your own tries.
"""

LIVE = "While this walkthrough waits for Enter, both programs run. Their ports stay the same to the end."

ON_THIS_PAGE = """
`python3 walkthrough.py --markdown` prints this page. `python3 walkthrough.py` shows the same, one step at a time. While
it waits for Enter, both programs run and answer your own requests. For this page, start them yourself:
`python3 exposee.py` listens on port 3000, `python3 receiver.py` on port 8080.

Ids, times, ports, signatures and durations differ in every run. This page has fixed values in their place, and each
`Content-Length` fits them.
"""

PROMPT = """
exposee, receiver = {}, {}
print(talk(exposee, request("GET", "/health")).decode())
print(receiver_url(receiver))
event = {{"event": "payment_received", "data": 1}}
answer = talk(exposee, request("POST", "/trigger", event))
print(answer.decode())
"""


class Chapter(NamedTuple):
    """`solution` takes the ports of the exposee and the receiver, and returns the answer that shows the solution.

    It gets a pair of its own, with the receiver registered for payment_received.
    """

    title: str
    steps: Sequence[Callable[[Lesson], None]]
    exercise: str
    solution: Callable[[int, int], bytes]
    receiver_options: tuple[str, ...] = ()
    exposee_options: tuple[str, ...] = ()


CHAPTERS = [
    Chapter(
        "A request is text",
        FIRST_REQUEST,
        "Ask the exposee for a target that it does not have, such as `/coffee`. Which status is the answer?",
        solution_1,
    ),
    Chapter(
        "Registering a webhook",
        REGISTERING,
        "Register the same URL for two further types of events with one request. Then ask for the list of webhooks: "
        "`GET /webhooks`.",
        solution_2,
    ),
    Chapter(
        "Ping and ping-back",
        PING,
        "Register a second URL, on a port on which no program listens, and ping again. How many pings are delivered?",
        solution_3,
    ),
    Chapter(
        "Triggering an event",
        TRIGGERING,
        "Trigger an event for which no URL is registered. Is that an error?",
        solution_4,
    ),
    Chapter(
        "A receiver of your own",
        OWN_RECEIVER,
        "Write a receiver with nothing but a socket: accept one connection, read the request, answer 204. Register it "
        "and trigger an event. (`socket.create_server` makes a server's socket, its `accept` waits for a client.)",
        solution_5,
    ),
    Chapter(
        "Mistakes, and how to read the answers",
        MISTAKES,
        "409 means that the request is right, but not possible in the present state. Make the exposee answer 409. (A "
        "ping-back confirms a ping. Send one before there has been a ping.)",
        solution_6,
    ),
    Chapter(
        "Several requests on one connection",
        ONE_CONNECTION,
        "Send a body that is longer than its `Content-Length` says, on a connection that stays open. What does the "
        "exposee do with the rest? (`request` takes `Content_Length` and `Connection` as fields.)",
        solution_7,
    ),
    Chapter(
        "A receiver that fails",
        FAILING_RECEIVER,
        "With `respond=redirect` the receiver answers 302, which names another URL. Does the exposee send the request "
        "there? Find out with one trigger that waits.",
        solution_8,
    ),
    Chapter(
        "Signatures",
        SIGNATURES,
        "Sign a request of your own so that the receiver accepts it. At the prompt, `SECRET` is the receiver's secret.",
        solution_9,
        ("--secret", SECRET),
    ),
    Chapter(
        "The exposee is killed",
        KILLED_EXPOSEE,
        "Send the receiver the same `webhook-id` twice, without the exposee. Which status does the second one get?",
        solution_10,
        exposee_options=("--timeout", "3600"),  # the reader may take an hour between the request and the kill
    ),
    Chapter(
        "The tunnel and the roles",
        TUNNEL,
        "A request with the public name as `Host` and with `X-Forwarded-For` comes from a stranger. Is one of the two "
        "enough? Ask for the list of webhooks with each of them alone.",
        solution_11,
    ),
    Chapter(
        "Unregistering",
        UNREGISTERING,
        "Register a URL for two types of events, and unregister one of them. Which webhook is left?",
        solution_12,
    ),
]
