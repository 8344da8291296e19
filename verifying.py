"""Checks the signatures of a request in both dialects, and explains why one fails.

Standard Webhooks: `v1,` and base64(HMAC-SHA256(key, id.timestamp.body)); the key is the decoded base64 after whsec_.
GitHub: `sha256=` and hex(HMAC-SHA256(secret as text, body)). Always over the raw bytes, compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

TOLERANCE = 300  # seconds that a timestamp may be off (Standard Webhooks); an older request may be a replay
KEY_BYTES = range(24, 65)  # of a key (Standard Webhooks)
MAX_REWRITTEN, MAX_DEPTH = 16_384, 64  # bytes and levels of a body that is written again to explain a failure: a
# forged body of 1 MiB, or of 900 levels, costs more than its sender
LEVEL = {91: 1, 123: 1, 93: -1, 125: -1}  # what the brackets and braces of a body add to its depth


class Check(NamedTuple):
    """Whether the owner of the secret sent a request, and the reasons to say so, each a line for the terminal."""

    good: bool
    reasons: list[str]


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> Check:
    """Check every signature of a request; `headers` have names in lower case, `now` is seconds since 1970.

    No signature may be wrong. With a whsec_ secret, webhook-signature is required: GitHub's covers neither time nor
    id, so it would let a replay pass. A malformed header does not verify; it never raises.
    """
    bad = []
    if "webhook-signature" in headers:
        bad += _standard(secret, headers, body, now)
    if "x-hub-signature-256" in headers:
        bad += _github(secret, headers["x-hub-signature-256"], body)
    elif "webhook-signature" not in headers:
        bad = ["there is no webhook-signature and no X-Hub-Signature-256: was it sent by the exposee?"]
    if not bad and secret.startswith("whsec_") and "webhook-signature" not in headers:
        bad = ["X-Hub-Signature-256 is right, but webhook-signature is missing, and with it the time: a replay?"]
    return Check(not bad, bad or ["signature verified"])


def key_of(secret: str) -> bytes | None:
    """The key of Standard Webhooks; None for what is not whsec_ and base64 of KEY_BYTES."""
    try:
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else b""
    except ValueError:
        return None
    right = len(key) in KEY_BYTES and base64.b64encode(key).decode() == secret[6:]  # b64decode lets too many = pass
    return key if right else None


def _standard(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> list[str]:
    """What is wrong with webhook-signature, a list of `v1,...` with blanks between."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    key, text = key_of(secret), secret.encode("utf-8", "surrogateescape")
    if key is None:
        return ["webhook-signature: our secret is not whsec_ and base64, so it cannot be checked"]
    if not re.fullmatch("[0-9]{1,12}", timestamp) or not message_id:
        return ["webhook-signature: webhook-id or webhook-timestamp is missing or malformed"]
    prefix = f"{message_id}.{timestamp}.".encode("latin-1", "replace")
    signed = prefix + body
    expected, header = _base64(key, signed), headers["webhook-signature"]
    given = [part[3:] for part in header.split(" ") if part.startswith("v1,")]
    if any(_same(candidate, expected) for candidate in given):
        age = now - int(timestamp)
        late = f"webhook-signature is right, but {age:.0f} s old (±{TOLERANCE} allowed): a replay?"
        return [late] if abs(age) > TOLERANCE else []
    mistakes = {
        "whsec_ was not stripped: the sender's key was the secret as text": _base64(text, signed),
        "the base64 after whsec_ was not decoded": _base64(text[6:], signed),
        "hex was written where Standard Webhooks has base64": _hex(key, signed),
        "only the body was signed, as in GitHub's dialect": _base64(key, body),
        "it is GitHub's dialect: hex over the body, the secret as text": _hex(text, body),
        **{why: _base64(key, prefix + form) for why, form in _rewritten(body).items()},
    }
    return [
        f"webhook-signature: signed were these {len(signed)} bytes: {signed[:200]!r}",
        f"with a key of {len(key)} bytes (the base64 after whsec_, decoded): {expected}",
        f"but it says: {header[:200]}" + ("" if given else " (no signature in it begins with v1,)"),
        _known_mistake(mistakes, given, body),
    ]


def _github(secret: str, header: str, body: bytes) -> list[str]:
    """What is wrong with X-Hub-Signature-256."""
    key = secret.encode("utf-8", "surrogateescape")
    expected = "sha256=" + _hex(key, body)
    if _same(header, expected):
        return []
    mistakes = {
        "base64 was written where GitHub has hex": "sha256=" + _base64(key, body),
        "the sender decoded the secret, which GitHub takes as text": "sha256=" + _hex(key_of(secret) or b"", body),
        "sha256= is missing before it": expected.partition("=")[2],
        **{why: "sha256=" + _hex(key, form) for why, form in _rewritten(body).items()},
    }
    return [
        f"X-Hub-Signature-256: signed were the {len(body)} bytes of the body: {body[:200]!r}",
        f"with a key of {len(key)} bytes (the secret as text): {expected}",
        f"but it says: {header[:200]}",
        _known_mistake(mistakes, [header], body),
    ]


def _rewritten(body: bytes) -> dict[str, bytes]:
    """The JSON forms that a small body may have had before a proxy, each with its explanation."""
    if (
        len(body) > MAX_REWRITTEN
        or max(itertools.accumulate(LEVEL.get(byte, 0) for byte in body), default=0) > MAX_DEPTH
    ):
        return {}
    try:
        value = json.loads(body)
        forms = {
            "spaces left out": json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(),
            "spaces put in": json.dumps(value, ensure_ascii=False).encode(),
            "keys sorted": json.dumps(value, separators=(",", ":"), sort_keys=True).encode(),
            "indented": json.dumps(value, indent=2, ensure_ascii=False).encode(),
        }
    except (ValueError, RecursionError):  # not JSON, or half of a character, which cannot be written
        return {}
    why = "the body was parsed and written again on the way ({}): sign and verify the raw bytes"
    return {why.format(how): form for how, form in forms.items()}


def _known_mistake(mistakes: Mapping[str, str], given: list[str], body: bytes) -> str:
    """The mistake that explains one of the given signatures."""
    found = (why for why, wrong in mistakes.items() if any(_same(candidate, wrong) for candidate in given))
    large = f" (a body over {MAX_REWRITTEN:,} bytes is not tried in other spellings)"
    unknown = "no known mistake explains it: another secret, or another body" + large * (len(body) > MAX_REWRITTEN)
    return "  " + next((f"known mistake: {why}" for why in found), unknown)


def _base64(key: bytes, data: bytes) -> str:
    return base64.b64encode(hmac.digest(key, data, hashlib.sha256)).decode()


def _hex(key: bytes, data: bytes) -> str:
    return hmac.digest(key, data, hashlib.sha256).hex()


def _same(given: str, expected: str) -> bool:
    """Compare in constant time; what is not ASCII is never the same (compare_digest would raise)."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
