"""docs/openapi.json as the tests look at it: its operations, and what it says about an answer or a delivery."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from schema import Validator
from support import ROOT, Response

TEXT = (ROOT / "docs" / "openapi.json").read_text("utf-8")
DOCUMENT: dict[str, Any] = json.loads(TEXT)
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
OF_EVERY_ANSWER = {"date", "content-length", "content-type", "connection"}  # fields that HTTP brings along
OF_EVERY_REQUEST = {"host", "content-length", "content-type"}
VALIDATOR = Validator(DOCUMENT, closed=True)
OPEN = Validator(DOCUMENT)  # for requests, whose unknown members are ignored


class Operation(NamedTuple):
    """A method of a path, or of a webhook's name."""

    method: str
    path: str
    spec: dict[str, Any]

    @property
    def statuses(self) -> set[str]:
        return set(self.spec["responses"])

    def response(self, status: int) -> dict[str, Any]:
        """What is said about a status: by itself, by its class, or by default."""
        known = self.spec["responses"]
        found = known.get(str(status)) or known.get(f"{status // 100}XX") or known["default"]
        resolved: dict[str, Any] = VALIDATOR.resolve(found)
        return resolved

    def parameters(self, place: str) -> dict[str, dict[str, Any]]:
        """The parameters in the path, the query or the header, by name."""
        found = map(VALIDATOR.resolve, self.spec.get("parameters", []))
        return {parameter["name"]: parameter for parameter in found if parameter["in"] == place}

    def body(self) -> dict[str, Any] | None:
        """The media type object of the request's body; None if it takes none."""
        found: dict[str, Any] | None = self.spec.get("requestBody", {}).get("content", {}).get("application/json")
        return found


def operations(part: str) -> list[Operation]:
    """Of `paths` or of `webhooks`."""
    items = DOCUMENT[part].items()
    return [Operation(name.upper(), path, item[name]) for path, item in items for name in METHODS if name in item]


@functools.cache
def find(method: str, target: str) -> Operation | None:
    """The operation that a request belongs to. With a wrong method any of its path, because of its default."""
    path = target.partition("?")[0]
    paths = sorted({operation.path for operation in operations("paths")}, key=lambda path: "{" in path)
    for template in paths:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            here = [operation for operation in operations("paths") if operation.path == template]
            return next((operation for operation in here if operation.method == method), here[0])
    return None


def answer_problems(operation: Operation, answer: Response, validator: Validator = VALIDATOR) -> Iterator[str]:
    """How an answer differs from what is said about it."""
    response = operation.response(answer.status)
    kind, content = answer.headers.get("content-type", "").partition(";")[0], response.get("content", {})
    if kind not in content:
        yield f"Content-Type is {kind}, expected one of {list(content)}"
        return
    body = answer.json() if kind.endswith("json") else answer.body.decode()
    yield from validator.problems(content[kind]["schema"], body, "the body")
    headers = {name.lower(): VALIDATOR.resolve(header) for name, header in response.get("headers", {}).items()}
    yield from field_problems(headers, answer.headers, OF_EVERY_ANSWER)


def field_problems(known: dict[str, Any], fields: dict[str, str], others: set[str]) -> Iterator[str]:
    """How header fields differ from the header or parameter objects that say what they are. All names in lower case."""
    for name, header in known.items():
        if name in fields:
            yield from VALIDATOR.problems(header["schema"], read(header["schema"], fields[name]), name)
        elif header.get("required"):
            yield f"the field {name} is missing"
    yield from (f"the field {name} is not documented" for name in fields.keys() - known - others)


def read(schema: dict[str, Any], text: str) -> str | int:
    """The value of a field or of a query parameter, which is a number if the schema says so."""
    is_number = VALIDATOR.resolve(schema).get("type") == "integer" and re.fullmatch("-?[0-9]+", text)
    return int(text) if is_number else text


def schemas(part: Any, is_schema: bool = False) -> Iterator[dict[str, Any]]:
    """Every schema in a part of the document, also those within others."""
    if isinstance(part, list):
        for item in part:
            yield from schemas(item, is_schema)
    elif isinstance(part, dict) and is_schema:
        yield part
        for inner in (*part.get("properties", {}).values(), part.get("items"), *part.get("oneOf", [])):
            yield from schemas(inner, is_schema=True)
    elif isinstance(part, dict):
        for name, item in part.items():
            if name == "schemas":
                yield from schemas(list(item.values()), is_schema=True)
            elif name not in ("example", "examples"):
                yield from schemas(item, name == "schema")


FIELDS = {  # of OpenAPI's objects; its specification knows a few more
    "operation": set("tags summary description operationId security parameters requestBody responses".split()),
    "parameter": {"name", "in", "description", "required", "schema", "example"},
    "body": {"description", "required", "content"},
    "response": {"description", "headers", "content"},
    "header": {"description", "required", "schema", "example"},
    "content": {"schema", "example", "examples"},
}


def unknown_fields() -> Iterator[str]:
    """What OpenAPI's objects have that it does not know, or that FIELDS does not."""
    shared = DOCUMENT["components"]
    objects = [("operation", operation.spec) for operation in [*operations("paths"), *operations("webhooks")]]
    objects += [("parameter", it) for it in shared["parameters"].values()]
    objects += [("response", it) for it in shared["responses"].values()]
    objects += [("header", it) for it in shared["headers"].values()]
    for kind, it in objects:  # which grows meanwhile
        if "$ref" not in it:
            yield from (f"{field} of a {kind}" for field in it.keys() - FIELDS[kind])
            objects += [("parameter", inner) for inner in it.get("parameters", [])]
            objects += [("body", inner) for inner in [it.get("requestBody")] if inner]
            for field, of in (("responses", "response"), ("headers", "header"), ("content", "content")):
                objects += [(of, inner) for inner in it.get(field, {}).values()]


def references(part: Any) -> Iterator[str]:
    """Every $ref in a part of the document."""
    for name, item in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if name == "$ref":
            yield item
        else:
            yield from references(item)
