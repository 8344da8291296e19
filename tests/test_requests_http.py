"""requests.http holds: each request in it is answered with the status that the line under its title promises.

HTTP clients of two makers read the file. What only one of them understands (references to answers, scripts, names of
requests in comments) is kept out of it by the test of the syntax. A new route gets a request in the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from serving import serving
from support import ROOT, Client, Listener, Pair, eventually, fields, request

from receiver import PATH, Receiver

TEXT = (ROOT / "requests.http").read_text("utf-8")
VARIABLE = re.compile(r"@(\w+) = (\S+)")


class Call(NamedTuple):
    """One request of the file, its variables not yet filled in."""

    title: str
    status: int  # promised
    method: str
    url: str
    fields: dict[str, str]
    body: str

    def send(self, variables: dict[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer."""

        def fill(text: str) -> str:
            return re.sub(r"\{\{(\w+)\}\}", lambda name: variables[name[1]], text)

        parts = urlsplit(fill(self.url))
        target = parts.path + ("?" + parts.query if parts.query else "")
        fields = {name.replace("-", "_"): fill(value) for name, value in self.fields.items()}
        with Client(parts.port or 80) as client:
            answer = client.ask(request(self.method, target, fill(self.body).encode() if self.body else None, **fields))
        return answer.status, answer.body


def sections() -> list[str]:
    """What is before the first title, and the text under each title."""
    return re.split(r"^###(?= )", TEXT, flags=re.MULTILINE)


def variables() -> dict[str, str]:
    return dict(VARIABLE.findall(sections()[0]))


def calls() -> Iterator[Call]:
    for section in sections()[1:]:
        lines = section.splitlines()
        comments = [line for line in lines[1:] if line.startswith("#")]
        head, _, body = "\n".join(line for line in lines[1:] if line not in comments).strip().partition("\n\n")
        first, *fields = head.splitlines()
        method, url = first.split(" ")
        status = int(re.match(r"# (\d{3})\b", comments[0])[1])  # type: ignore[index]  # a comment without fails
        yield Call(lines[0].strip(), status, method, url, dict(field.split(": ") for field in fields), body)


CALLS = list(calls())


def test_each_request_is_answered_with_the_status_that_it_promises(pair: Pair) -> None:
    """A learner sends them in this order, and copies an id where the file says so."""
    receiver = Receiver(say=lambda *lines: None)
    with serving(receiver.routes) as server:
        known = variables() | {"exposee": pair.url, "receiver": f"{server.url}{PATH}"}
        for call in CALLS:
            if "{{delivery}}" in call.url:
                eventually(lambda: pair.call("GET", "/health").json()["waiting"] == 0, "the end of all deliveries")
            status, body = call.send(known)
            assert status == call.status, (call.title, body)
            if "deliveries?limit" in call.url:
                known["delivery"] = json.loads(body)["deliveries"][0]["id"]
    assert pair.store.count() == 0


def test_one_delivery_is_404_until_its_id_is_copied(pair: Pair) -> None:
    found = [call.send(variables() | {"exposee": pair.url})[0] for call in CALLS if "{{delivery}}" in call.url]
    assert found == [404, 404]


def test_every_route_is_in_the_file_but_the_page_and_the_stream(pair: Pair) -> None:
    """A route that is new belongs into requests.http."""
    asked = {(call.method, urlsplit(call.url).path) for call in CALLS}
    asked = {(method, re.sub(r"^\{\{\w+\}\}", "", path).replace("{{delivery}}", "{id}")) for method, path in asked}
    routes = {(method, path) for path, methods in pair.exposee.routes.items() for method in methods if methods[method]}
    assert asked - {("POST", "")} == routes - {("GET", "/"), ("GET", "/deliveries/stream")}
    assert ("POST", "") in asked, "the receiver's own route"


def test_deliveries_of_the_signed_event_are_signed(pair: Pair, listener: Listener) -> None:
    known = variables() | {"exposee": pair.url, "receiver": listener.url()}
    ends = ("with a secret", "that is signed", "replaces the secret")
    register, trigger, replace = [call for call in CALLS if call.title.endswith(ends)]
    for calls, signatures in (([register, trigger], 1), ([replace, trigger], 2)):
        assert [call.send(known)[0] for call in calls] == [200, 200]
        assert len(fields(listener.next())["webhook-signature"].split()) == signatures


def test_the_request_that_is_repeated_makes_no_second_message(pair: Pair) -> None:
    repeated = [call for call in CALLS if "Idempotency-Key" in call.fields][:2]
    first, second = [call.send(variables() | {"exposee": pair.url}) for call in repeated]
    assert first == second and first[0] == 202


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_both_clients_understand_the_syntax(number: int) -> None:
    call, section = CALLS[number], sections()[number + 1]
    assert set(re.findall(r"\{\{(.*?)\}\}", section)) <= set(variables()), "no functions and no references to answers"
    assert re.fullmatch(r"[A-Z]+ \S+", f"{call.method} {call.url}"), "the URL stands in one line"
    assert all(re.fullmatch(r"[A-Za-z-]+: \S+", f"{name}: {value}") for name, value in call.fields.items())
    assert not re.search(r"^\s*(//|#|<|>|\?|&|@|```)", call.body, re.MULTILINE), "scripts, files, comments in a body"
    assert "\n\n" not in call.body
    before = section.splitlines()[1 : section.splitlines().index(f"{call.method} {call.url}")]
    assert before and all(re.match("# (?!@)", line) or line == "# 200" for line in before), "comments come first"


def test_titles_differ_and_variables_stand_at_the_top() -> None:
    assert len({call.title for call in CALLS}) == len(CALLS)
    assert sorted(variables()) == ["delivery", "exposee", "new_secret", "receiver", "secret"]
    assert len(re.findall("^@", TEXT, re.MULTILINE)) == 5
    assert all(re.fullmatch(r"(#.*|@\w+ = \S+|)", line) for line in sections()[0].splitlines())
