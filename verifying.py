"""Checks the signatures of a request in both dialects, and explains why one fails.

Standard Webhooks: `v1,` and base64(HMAC-SHA256(key, id.timestamp.body)); the key is the decoded base64 after whsec_.
GitHub: `sha256=` and hex(HMAC-SHA256(secret as text, body)). Always over the raw bytes, compared in constant time.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping

TOLERANCE = 300  # seconds that a timestamp may be off (Standard Webhooks); an older request may be a replay
KEY_BYTES = range(24, 65)  # of a key (Standard Webhooks)
MAX_REWRITTEN = 16_384  # bytes of a body that is written again to explain a failure: a forged one of 1 MiB cost seconds
UNSIGNED = "  not sent by the exposee, or the URL was registered without a secret (register again with --secret)"


def faults(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> list[str]:
    """What is wrong with the signatures of a request, as lines for the terminal; none if its sender knows the secret.

    `headers` have names in lower case, `now` is seconds since 1970. Neither field may be wrong. With a whsec_ secret,
    webhook-signature is required: GitHub's covers neither time nor id, so it would let a replay pass. While a secret is
    replaced, webhook-signature has more than one signature and decides alone. A malformed header is a fault; it never
    raises.
    """
    standard, github = headers.get("webhook-signature"), headers.get("x-hub-signature-256")
    if standard is None and github is None:
        return ["there is no webhook-signature and no X-Hub-Signature-256:", UNSIGNED]
    bad = [] if standard is None else _standard(secret, standard, headers, body, now)
    rotating = standard is not None and standard.count("v1,") > 1  # GitHub's field has room for the new secret only
    bad += [] if github is None or rotating else _github(secret, github, body)
    if not bad and standard is None and secret.startswith("whsec_"):
        bad = ["X-Hub-Signature-256 is right, but webhook-signature is missing, and with it the time: a replay?"]
    return bad


def new_secret() -> str:
    """A secret for Standard Webhooks: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes | None:
    """The key of Standard Webhooks; None for what is not whsec_ and base64 of KEY_BYTES."""
    try:
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else b""
    except ValueError:
        return None
    right = len(key) in KEY_BYTES and base64.b64encode(key).decode() == secret[6:]  # b64decode lets too many = pass
    return key if right else None


def _standard(secret: str, header: str, headers: Mapping[str, str], body: bytes, now: float) -> list[str]:
    """What is wrong with webhook-signature, a list of `v1,...` with blanks between."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    key, text = key_of(secret), secret.encode("utf-8", "surrogateescape")
    if key is None:
        return ["webhook-signature: our secret is not whsec_ and base64, so it cannot be checked"]
    if not re.fullmatch("[0-9]{1,12}", timestamp) or not message_id:
        return ["webhook-signature: webhook-id or webhook-timestamp is missing or malformed"]
    prefix = f"{message_id}.{timestamp}.".encode("latin-1", "replace")
    signed, given = prefix + body, [part[3:] for part in header.split(" ") if part.startswith("v1,")]
    if _among(given, expected := _base64(key, signed)):
        age = now - int(timestamp)
        off, why = (f"{age:.0f} s old", "replay") if age > 0 else (f"{-age:.0f} s ahead of our clock", "wrong clock")
        late = f"webhook-signature is right, but {off} (±{TOLERANCE} allowed): a {why}?"
        return [late] if abs(age) > TOLERANCE else []
    mistakes = {
        "whsec_ was not stripped: the sender's key was the secret as text": _base64(text, signed),
        "the base64 after whsec_ was not decoded": _base64(text[6:], signed),
        "hex was written where Standard Webhooks has base64": _hex(key, signed),
        "only the body was signed, as in GitHub's dialect": _base64(key, body),
        "it is GitHub's dialect: hex over the body, the secret as text": _hex(text, body),
        **_rewritten(body, lambda form: _base64(key, prefix + form)),
    }
    return [
        f"webhook-signature: signed were these {len(signed)} bytes: {signed[:200]!r}",
        f"with a key of {len(key)} bytes (the base64 after whsec_, decoded) they give v1,{expected}",
        f"but the request says {header[:200]}" + ("" if given else " (no signature in it begins with v1,)"),
        _known(mistakes, given, body),
    ]


def _github(secret: str, header: str, body: bytes) -> list[str]:
    """What is wrong with X-Hub-Signature-256."""
    key = secret.encode("utf-8", "surrogateescape")
    expected = _hex(key, body)
    if _among([header], "sha256=" + expected):
        return []
    mistakes = {
        "base64 was written where GitHub has hex": _base64(key, body),
        "the sender decoded the secret, which GitHub takes as text": _hex(key_of(secret) or b"", body),
        **_rewritten(body, lambda form: _hex(key, form)),
    }
    mistakes = {why: "sha256=" + wrong for why, wrong in mistakes.items()} | {"sha256= is missing before it": expected}
    return [
        f"X-Hub-Signature-256: signed were the {len(body)} bytes of the body: {body[:200]!r}",
        f"with a key of {len(key)} bytes (the secret as text) they give sha256={expected}",
        f"but the request says {header[:200]}",
        _known(mistakes, [header], body),
    ]


def _rewritten(body: bytes, sign: Callable[[bytes], str]) -> dict[str, str]:
    """The signatures of the JSON forms that a small body may have had before a proxy, each with its explanation."""
    try:
        value = json.loads(body if len(body) <= MAX_REWRITTEN else b"")
        forms = {
            "spaces left out": json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(),
            "spaces put in": json.dumps(value, ensure_ascii=False).encode(),
            "keys sorted": json.dumps(value, separators=(",", ":"), sort_keys=True).encode(),
        }
    except (ValueError, RecursionError):  # not JSON, or half of a character, which cannot be written
        return {}
    why = "the body was parsed and written again on the way ({}): sign and verify the raw bytes"
    return {why.format(how): sign(form) for how, form in forms.items()}


def _known(mistakes: Mapping[str, str], given: list[str], body: bytes) -> str:
    """The mistake that explains one of the given signatures."""
    for why, wrong in mistakes.items():
        if _among(given, wrong):
            return f"  known mistake: {why}"
    large = f" (a body over {MAX_REWRITTEN:,} bytes is not tried in other spellings)" * (len(body) > MAX_REWRITTEN)
    return f"  no known mistake explains it: another secret, or another body{large}"


def _base64(key: bytes, data: bytes) -> str:
    return base64.b64encode(hmac.digest(key, data, "sha256")).decode()


def _hex(key: bytes, data: bytes) -> str:
    return hmac.digest(key, data, "sha256").hex()


def _among(given: list[str], digest: str) -> bool:
    """Compare in constant time; what is not ASCII is never the same (compare_digest would raise)."""
    return any(hmac.compare_digest(candidate.encode("utf-8", "replace"), digest.encode()) for candidate in given)
