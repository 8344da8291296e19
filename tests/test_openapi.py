"""docs/openapi.json is true: it has every route and every status, and all of it is compared with a running exposee.

When a route is added, `test_every_route_is_documented_and_no_other` fails first. Then
- write the operation under `paths` in docs/openapi.json,
- and have each of its statuses answered: an exchange in exchanges.py, or a line in a scenario of asking.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from asking import NEW_SECRET, SCENARIOS, SECRET, Answered, Asker
from document import DOCUMENT, OF_EVERY_REQUEST, OPEN, TEXT, VALIDATOR, Operation
from document import answer_problems, field_problems, find, operations, read, references, schemas, unknown_fields
from schema import Validator
from support import Listener, Pair, eventually, fields

import exposee
import history
import messages
import ondemand
import owner
import rules
import server
import store
import wire
from client import KEPT_RESPONSE
from endpoints import RETRY_SCHEDULE
from verifying import faults

PATHS, WEBHOOKS = operations("paths"), operations("webhooks")
COMPONENTS = DOCUMENT["components"]


def name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Answered]]:
    with Listener() as listener:
        asker = Asker(tmp_path_factory.mktemp("asking"), listener)
        with asker.exposee() as shared:
            for scenario in SCENARIOS:
                scenario(asker, shared)
        yield asker.answers


def of(operation: Operation, answers: list[Answered]) -> list[Answered]:
    return [answered for answered in answers if find(answered.method, answered.target) == operation]


# --- the document as such ---------------------------------------------------------------------------------------


def test_the_rules_of_OpenAPI() -> None:
    every = [*PATHS, *WEBHOOKS]
    assert list(unknown_fields()) == []
    assert len({operation.spec["operationId"] for operation in every}) == len(every)
    for operation in every:
        assert set(re.findall(r"\{(\w+)\}", operation.path)) == operation.parameters("path").keys(), name(operation)
        assert all(parameter["required"] for parameter in operation.parameters("path").values())
        assert set(operation.spec["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
        assert operation.spec["summary"] and operation.spec["description"]
        assert all(set(need) <= COMPONENTS["securitySchemes"].keys() for need in operation.spec["security"])
        responses = map(VALIDATOR.resolve, operation.spec["responses"].values())
        assert all(response["description"] for response in responses)


def test_references_lead_somewhere_and_everything_shared_is_used() -> None:
    used = set(references(DOCUMENT))
    assert all(VALIDATOR.resolve({"$ref": reference}) for reference in used)
    kinds = {kind: names for kind, names in COMPONENTS.items() if kind != "securitySchemes"}
    assert used == {f"#/components/{kind}/{name}" for kind, names in kinds.items() for name in names}


def test_schemas_have_only_keywords_that_the_tests_check() -> None:
    for schema in schemas(DOCUMENT):
        list(VALIDATOR.problems(schema, None))  # KeyError for an unknown one
        assert set(schema.get("required", [])) <= schema.get("properties", schema).keys() | {"attempts", "body"}


def test_numbers_in_the_text_are_those_of_the_exposee() -> None:
    for text in (
        f"N seconds, {rules.MAX_WAIT:.0f} at most",
        f"when {exposee.MAX_WAITING} requests wait already",
        f"{owner.MAX_STREAMS} streams at most",
        f"waits up to {exposee.PING_SECONDS:.0f} seconds for the outcomes",
        f"changed for {owner.STREAM_BEAT:.0f} seconds",
        f"ping and trigger {rules.STRANGER_RATE:.0f} times a second",
        f"the last {history.MAX_OVER:,} that are over",
        f"the newest {messages.MAX_ATTEMPTS}",
        f"The first {KEPT_RESPONSE:,} bytes of the answer",
        f"{wire.MAX_BODY // 1_048_576} MiB",
        f"over {server.CLIENT_SECONDS:.0f} seconds",
        f"known for {history.KEY_SECONDS / 3_600:.0f} hours, and the last {history.MAX_KEYS:,} of them are",
        f"signs for {store.OVERLAP / 3_600:.0f} hours as well",
        f"for {store.OVERLAP / 3_600:.0f} hours after a secret was replaced",
        f"begin at {ondemand.RECOVERED} a second",
    ):
        assert text in TEXT, text
    delays = re.findall(r"(\d+) (s|min|h)\b", COMPONENTS["responses"]["Retried"]["description"])
    assert [int(number) * {"s": 1, "min": 60, "h": 3_600}[unit] for number, unit in delays] == list(RETRY_SCHEDULE)
    assert COMPONENTS["schemas"]["EventType"]["enum"] == list(exposee.EVENT_TYPES)
    assert COMPONENTS["schemas"]["State"]["enum"] == list(messages.STATES)


# --- routes, statuses, answers ------------------------------------------------------------------------------------


def test_every_route_is_documented_and_no_other(pair: Pair) -> None:
    """See the top of this file for what to do when this fails. HEAD is in the document's description."""
    routes = {(method, path) for path, methods in pair.exposee.routes.items() for method in methods if methods[method]}
    assert {operation[:2] for operation in PATHS} == routes


def test_methods_that_a_path_allows_are_the_documented_ones(pair: Pair) -> None:
    for operation in PATHS:
        documented = {other.method for other in PATHS if other.path == operation.path}
        documented |= {"HEAD"} if "GET" in documented and operation.path != "/ping" else set()
        allow = pair.call("OPTIONS", operation.path.replace("{id}", "dlv_1_0")).headers["allow"]
        assert set(allow.split(", ")) == documented, operation.path


@pytest.mark.parametrize("operation", PATHS, ids=name)
def test_every_documented_status_is_answered_and_no_other(operation: Operation, answers: list[Answered]) -> None:
    ours = [it for it in of(operation, answers) if it.method == operation.method and not it.of_http]
    assert {str(it.answer.status) for it in ours} == operation.statuses - {"default"}


def test_every_status_that_any_request_can_have_is_answered(answers: list[Answered]) -> None:
    """These are what the `default` of each operation stands for."""
    content = COMPONENTS["responses"]["HttpError"]["content"]["application/problem+json"]
    assert {it.answer.status for it in answers if it.of_http and it.answer.status != 200} == set(
        content["schema"]["properties"]["status"]["enum"]
    )
    assert all(it.spec["responses"]["default"] == {"$ref": "#/components/responses/HttpError"} for it in PATHS)


@pytest.mark.parametrize("operation", PATHS, ids=name)
def test_every_answer_is_as_documented(operation: Operation, answers: list[Answered]) -> None:
    for it in of(operation, answers):
        assert list(answer_problems(operation, it.answer)) == [], it
        status = it.answer.json()["status"] if it.answer.status >= 400 else it.answer.status
        assert status == it.answer.status


def test_every_member_has_been_met_and_every_optional_one_also_missed(answers: list[Answered]) -> None:
    """In answers, in bodies that were taken, and in deliveries."""
    validator = Validator(DOCUMENT)
    for it in answers:
        if operation := find(it.method, it.target):
            assert list(answer_problems(operation, it.answer, validator)) == []
            if (body := operation.body()) and it.answer.status < 300:
                list(validator.problems(body["schema"], json.loads(it.body or b"")))
    for body in filter(None, (operation.body() for operation in WEBHOOKS)):
        list(validator.problems(body["schema"], body["example"]))
    for schema in schemas(DOCUMENT):
        for member in schema.get("properties", {}) if "type" in schema else ():
            met, missed = ((id(schema), member, is_there) in validator.met for is_there in (True, False))
            assert met and missed is (member not in schema.get("required", [])), (member, schema)


def test_paths_that_are_not_documented_are_not_found(answers: list[Answered]) -> None:
    others = [it.answer for it in answers if find(it.method, it.target) is None]
    assert others and {answer.status for answer in others} == {404}
    assert all(VALIDATOR.is_valid(COMPONENTS["schemas"]["Problem"], answer.json()) for answer in others)


def test_405_names_the_methods_and_busy_servers_when_to_come_again(answers: list[Answered]) -> None:
    for it in answers:
        assert ("allow" in it.answer.headers) == (it.answer.status == 405), it
        assert ("retry-after" in it.answer.headers) == (it.answer.status in (429, 503)), it


def test_events_of_the_stream_are_deliveries(answers: list[Answered]) -> None:
    streams = [it.answer for it in answers if it.answer.headers.get("content-type") == "text/event-stream"]
    data = [line for stream in streams for line in re.findall("^data: (.*)$", stream.body.decode(), re.MULTILINE)]
    assert data and all(VALIDATOR.is_valid(COMPONENTS["schemas"]["Delivery"], json.loads(line)) for line in data)


@pytest.mark.parametrize("operation", PATHS, ids=name)
def test_owners_routes_are_those_that_turn_strangers_away(operation: Operation) -> None:
    is_owners = operation.spec["tags"] == ["owner"]
    assert operation.spec["description"].startswith("For the owner" if is_owners else "For everyone")
    only = {"$ref": "#/components/responses/OwnerOnly"}
    assert (operation.spec["responses"].get("403") == only) is is_owners
    if "401" in operation.statuses:
        assert operation.spec["security"] == [{}, {"token": []}]


# --- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [it for it in PATHS if it.body()], ids=name)
def test_bodies_that_are_taken_fit_the_schema_and_those_that_are_unprocessable_do_not(
    operation: Operation, answers: list[Answered]
) -> None:
    body, seen = operation.body(), set[int]()
    assert body
    for it in of(operation, answers):
        status = it.answer.status
        if it.body and (status < 300 or status in (403, 404, 409, 422, 429, 508)):
            reused = status == 422 and "Idempotency-Key" in it.fields  # the key is wrong, the body is not
            assert OPEN.is_valid(body["schema"], json.loads(it.body)) is (status != 422 or reused), it
            seen.add(status)
    assert 422 in seen and seen & {200, 202}


@pytest.mark.parametrize("operation", [it for it in PATHS if it.parameters("query")], ids=name)
def test_values_of_the_query_that_are_taken_fit_the_schemas(operation: Operation, answers: list[Answered]) -> None:
    seen, parameters = set[str](), operation.parameters("query")
    for it in of(operation, answers):
        query = dict(parse_qsl(urlsplit(it.target).query))
        if it.answer.status in (200, 422):
            values = [(parameters[name]["schema"], text) for name, text in query.items()]
            fits = all(VALIDATOR.is_valid(schema, read(schema, text)) for schema, text in values)
            assert fits is (it.answer.status == 200), it
            seen |= query.keys()
    assert seen == parameters.keys()


def test_the_preference_that_is_applied_is_one_that_is_documented(answers: list[Answered]) -> None:
    prefer = next(it for it in PATHS if it.path == "/trigger").parameters("header")["Prefer"]
    applied = [it for it in answers if "preference-applied" in it.answer.headers]
    assert applied and all(VALIDATOR.is_valid(prefer["schema"], it.fields["Prefer"]) for it in applied)


def test_keys_that_are_taken_fit_the_schema_and_malformed_ones_do_not(answers: list[Answered]) -> None:
    key = next(it for it in PATHS if it.path == "/trigger").parameters("header")["Idempotency-Key"]
    keyed = [(it.answer.status, it.fields["Idempotency-Key"]) for it in answers if "Idempotency-Key" in it.fields]
    assert {status for status, _ in keyed} == {202, 400, 422}
    assert all(VALIDATOR.is_valid(key["schema"], text) is (status != 400) for status, text in keyed)


# --- the examples ---------------------------------------------------------------------------------------------------

VARIES = {  # in each run
    r"https?://[^\s\"\\]+": "URL",
    r"\b(msg|dlv)_[0-9a-f]{24}": r"\1_ID",
    r"\d{4}-\d\d-\d\dT[\d:.]+Z": "TIME",
    r"\"duration\": [\d.e-]+": "DURATION",
    r"POST \S+ HTTP": "POST TARGET HTTP",
    r"Host: [\w.:]+": "HOST",
    r"webhook-timestamp: \d+": "TIMESTAMP",
}


def normal(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    for pattern, word in VARIES.items():
        text = re.sub(pattern, word, text)
    return text


@pytest.mark.parametrize("operation", PATHS, ids=name)
def test_examples_of_answers_were_answered(operation: Operation, answers: list[Answered]) -> None:
    """A shared answer's example by any operation that shares it. Of a stream, which is never the same, it fits."""
    for status, response in operation.spec["responses"].items():
        among = answers if "$ref" in response else of(operation, answers)
        for kind, content in VALIDATOR.resolve(response)["content"].items():
            if kind.endswith("json"):
                real = {normal(it.answer.json()) for it in among if it.answer.headers["content-type"] == kind}
                assert normal(content["example"]) in real, status
            elif kind == "text/event-stream":
                assert VALIDATOR.is_valid(content["schema"], content["example"])


@pytest.mark.parametrize("operation", [it for it in PATHS if it.body()], ids=name)
def test_examples_of_bodies_are_taken(operation: Operation, pair: Pair, listener: Listener) -> None:
    body = operation.body()
    assert body
    for example in body["examples"].values():
        assert OPEN.is_valid(body["schema"], example["value"])
        pair.register(listener.url(), "payment_received")
        pair.call("GET", "/ping")
        here = {"url": listener.url()} if "url" in example["value"] else {}
        assert pair.call(operation.method, operation.path, {**example["value"], **here}).status in (200, 202)


def test_examples_of_parameters_fit_their_schemas() -> None:
    for operation in [*PATHS, *WEBHOOKS]:
        for place in ("path", "query", "header"):
            for parameter in operation.parameters(place).values():
                example = parameter.get("example", parameter["schema"].get("default"))
                assert VALIDATOR.is_valid(parameter["schema"], example), parameter


# --- the deliveries -------------------------------------------------------------------------------------------------


def hook(event: str) -> Operation:
    return next(operation for operation in WEBHOOKS if operation.path == event)


def send(pair: Pair, event: str) -> dict[str, Any]:
    """The delivery of an event, or of a ping, after its first attempt."""
    data = VALIDATOR.resolve(hook(event).body())["example"]["data"]
    answer = pair.call("GET", "/ping") if event == "ping" else pair.trigger(event, data, Prefer="wait=5")
    found: dict[str, Any] = answer.json()["deliveries"][0]
    return found


def test_every_event_type_and_the_ping_is_a_webhook() -> None:
    assert sorted(operation.path for operation in WEBHOOKS) == sorted([*exposee.EVENT_TYPES, "ping"])
    assert {operation.method for operation in WEBHOOKS} == {"POST"}


@pytest.mark.parametrize("secrets", [[], [SECRET], [SECRET, NEW_SECRET]], ids=len)
def test_real_deliveries_are_as_documented(pair: Pair, listener: Listener, secrets: list[str]) -> None:
    """With the secrets that the URL has had, the newest last: each signs."""
    for more in [{}, *({"secret": secret} for secret in secrets)]:
        pair.register(listener.url(), *exposee.EVENT_TYPES, **more)
    for operation in WEBHOOKS:
        send(pair, operation.path)
        data = listener.next()
        known = {name.lower(): it for name, it in operation.parameters("header").items()}
        assert list(field_problems(known, fields(data), OF_EVERY_REQUEST)) == []
        assert len(fields(data).get("webhook-signature", "").split()) == len(secrets)
        assert ("x-hub-signature-256" in fields(data)) is bool(secrets)
        assert fields(data)["content-type"] == "application/json"
        content = VALIDATOR.resolve(operation.body())
        assert json.loads(data.partition(b"\r\n\r\n")[2]) == content["example"]
        assert list(VALIDATOR.problems(content["schema"], content["example"])) == []


def test_the_example_of_the_signatures_verifies() -> None:
    operation = hook("payment_received")
    headers = {name.lower(): str(it["example"]) for name, it in operation.parameters("header").items()}
    body = json.dumps(VALIDATOR.resolve(operation.body())["example"]).encode()
    assert not faults(SECRET, headers, body, float(headers["webhook-timestamp"]))
    assert faults(SECRET, headers, body + b" ", float(headers["webhook-timestamp"]))


ANSWERS = {
    "2XX": b"HTTP/1.1 299 Fine\r\nContent-Length: 2\r\n\r\nok",
    "3XX": b"HTTP/1.1 307 Elsewhere\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    "410": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    "default": b"HTTP/1.1 400 Bad\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("event", ["payment_received", "ping"])
def test_what_an_answer_means(pair: Pair, listener: Listener, event: str) -> None:
    """The description of each answer names the state of the delivery after it."""
    known = hook(event).spec["responses"]
    assert list(known) == [status for status in ANSWERS if status != "3XX" or event != "ping"]
    for status, answer in ANSWERS.items():
        url, listener.answer = listener.url(f"/{status}"), answer
        pair.register(url, "payment_received")
        meaning = VALIDATOR.resolve(known.get(status, known["default"]))
        delivery = send(pair, event)
        assert f"`{delivery['state']}`" in meaning["description"], status
        if status == "410":
            eventually(lambda: not pair.store.has(url), "the unregistering of a URL that answered 410")
            continue
        if "Retry-After" in meaning.get("headers", {}):
            due = datetime.fromisoformat(delivery["next_attempt"][:-1] + "+00:00")
            assert (due - datetime.now(timezone.utc)).total_seconds() > 3_500
        assert pair.call("DELETE", "/webhooks/unregister", {"url": url, "event": "payment_received"}).status == 200


# --- the validator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, [1, -1], [True, 1.0, "1", None]),
        ({"type": ["string", "null"]}, ["", None], [0, []]),
        ({"type": "number", "minimum": 0, "maximum": 2}, [0, 2, 1.5], [-0.1, 2.1, False]),
        ({"const": 1}, [1], [True, 1.0, 2]),
        ({"enum": ["a", None]}, ["a", None], ["b", 0]),
        ({"type": "string", "pattern": "^a+$"}, ["a"], ["", "ab", "a\n", 5]),
        ({"type": "string", "minLength": 1, "maxLength": 2}, ["a", "ab"], ["", "abc"]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2}, [[None]], [[], [1], [None] * 3]),
        ({"type": "object", "required": ["a"], "properties": {"a": {"const": 1}}}, [{"a": 1}], [{}, {"a": 2}, []]),
        ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}, {}], [{"b": 1}]),
        ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
        ({"oneOf": [{"const": 1}, {"type": "integer"}]}, [2], [1, "a"]),
        ({"type": "string", "format": "date-time"}, ["2026-01-31T12:00:00Z"], ["2026-01-31", "2026-02-31T12:00:00Z"]),
        ({"$ref": "#/a/b", "maximum": 5}, [1, 5], [6, "a"]),
    ],
)
def test_the_validator(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    validator = Validator({"a": {"b": {"type": "integer"}}})
    assert [value for value in good if not validator.is_valid(schema, value)] == []
    assert [value for value in bad if validator.is_valid(schema, value)] == []


def test_the_validator_refuses_what_it_does_not_know() -> None:
    with pytest.raises(KeyError, match="uniqueItems"):
        Validator({}).is_valid({"uniqueItems": True}, [])
    schema = {"type": "object", "properties": {"a": {}}}
    assert Validator({}).is_valid(schema, {"b": 1})
    assert not Validator({}, closed=True).is_valid(schema, {"b": 1})
