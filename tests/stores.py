"""Webhooks, and what the tests of what is stored do with them."""

from __future__ import annotations

import json

from store import WebhookStore

SECRETS = ["whsec_" + letter * 32 for letter in "ABC"]
A, B, C, D = ENTRIES = [
    {"url": "http://a.example/", "event": "payment_received"},
    {"url": "http://b.example/?x=%22", "event": "payment_received"},
    {"url": "http://a.example/", "event": "invoice_completed"},
    {"url": "https://c.example:8443/d", "event": "payment_processed"},
]


def anyone(secret: str | None) -> None:
    """A permit for everybody."""


def nobody(secret: str | None) -> None:
    raise PermissionError("not yours")


def text_of(*entries: dict[str, str]) -> str:
    """webhooks.json with these entries, as it is always written."""
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n" if entries else "[]\n"


def register(it: WebhookStore, *entries: dict[str, str], secret: str | None = None) -> None:
    for entry in entries:
        it.register(entry["url"], [entry["event"]], secret, anyone)
