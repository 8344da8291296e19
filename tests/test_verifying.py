"""Signatures of both dialects: what verifies, what does not, and which known mistake explains it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import tracemalloc

import pytest
from support import each
import support  # noqa: F401  (it makes the modules importable)

from messages import sign
from verifying import MAX_REWRITTEN, TOLERANCE, faults, key_of

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of the Standard Webhooks specification
ID, TIME, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
COMPACT_SIGNATURE = "v1,Vif40peJBP7Iyl0XGmu61n4MwdrcHov5CFREBpE0svs="  # of BODY without its space
STANDARD = {"webhook-id": ID, "webhook-timestamp": str(TIME), "webhook-signature": SIGNATURE}
GITHUB_SECRET, GITHUB_BODY = "It's a Secret to Everybody", b"Hello, World!"  # the example of GitHub's documentation
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
KEY = base64.b64decode(SECRET[6:])


def signature(key: bytes, data: bytes) -> str:
    return base64.b64encode(hmac.new(key, data, hashlib.sha256).digest()).decode()


def hexadecimal(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def standard(value: str, timestamp: object = TIME) -> dict[str, str]:
    return {"webhook-id": ID, "webhook-timestamp": str(timestamp), "webhook-signature": value}


def signed(body: bytes) -> bytes:
    return f"{ID}.{TIME}.".encode() + body


@each(
    "secret, body, headers",
    [
        (SECRET, BODY, STANDARD),
        (SECRET, BODY.replace(b" ", b""), standard(COMPACT_SIGNATURE)),
        (SECRET, BODY, standard(f"v1,AAAA v1a,ed25519 {SIGNATURE} v2,x")),
        (GITHUB_SECRET, GITHUB_BODY, {"x-hub-signature-256": GITHUB_SIGNATURE}),
        (SECRET, BODY, {**STANDARD, "x-hub-signature-256": "sha256=" + hexadecimal(SECRET.encode(), BODY)}),
        (SECRET, b"\xff\x00", standard("v1," + signature(KEY, signed(b"\xff\x00")))),
    ],
)
def test_what_the_specifications_sign_verifies(secret: str, body: bytes, headers: dict[str, str]) -> None:
    assert faults(secret, headers, body, TIME) == []


@each(
    "secret, body, field",
    [
        (SECRET, BODY, f"webhook-signature: {SIGNATURE}"),
        (SECRET, BODY.replace(b" ", b""), f"webhook-signature: {COMPACT_SIGNATURE}"),
    ],
)
def test_the_exposee_signs_as_the_specifications_do(secret: str, body: bytes, field: str) -> None:
    assert field in sign([secret], ID, TIME, body).decode().split("\r\n")


def test_what_the_exposee_signs_verifies() -> None:
    lines = sign([SECRET], ID, TIME, BODY).decode().splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    found = faults(SECRET, {**headers, "webhook-id": ID, "webhook-timestamp": str(TIME)}, BODY, TIME)
    assert not found and len(headers) == 2


@pytest.mark.parametrize("mine", ["new", "old"])
def test_while_a_secret_is_replaced_a_receiver_may_have_either(mine: str) -> None:
    secrets = [SECRET, "whsec_" + base64.b64encode(bytes(32)).decode()]
    lines = sign(secrets, ID, TIME, BODY).decode().splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    headers |= {"webhook-id": ID, "webhook-timestamp": str(TIME)}
    secret = secrets[mine == "old"]
    assert not faults(secret, headers, BODY, TIME)
    assert faults(secret, headers, BODY + b" ", TIME)
    assert faults("whsec_" + base64.b64encode(b"x" * 32).decode(), headers, BODY, TIME)
    alone = {name: value for name, value in headers.items() if name != "webhook-signature"}
    assert faults(secret, alone, BODY, TIME)


STRANGE = [
    "", " ", ",", "v1", "v1,", "v1,,", "v1,=", "é", "v1,é", "\udcff", "v1,\udcff", "€", "\0", "sha256", "sha256=",
    "sha256=é", "sha256=\udcff", "sha1=" + GITHUB_SIGNATURE[7:], "sha256=sha256=", "=" * 100, "x" * 100_000,
    "v1," * 20_000, "-1", "1e9", "１６１４２６５３３０", "1614265330.0", " 1614265330", "+1614265330", "9" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("name", [*STANDARD, "x-hub-signature-256"])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: ascii(value[:20]))
def test_a_malformed_field_does_not_verify_and_does_not_raise(name: str, value: str) -> None:
    found = faults(SECRET, {**STANDARD, name: value}, BODY, TIME)
    assert found and max(map(len, found)) < 2_000


@each("name", STANDARD)
def test_a_field_that_is_missing_does_not_verify(name: str) -> None:
    assert faults(SECRET, {key: value for key, value in STANDARD.items() if key != name}, BODY, TIME)


@pytest.mark.parametrize("secret", ["x", "whsec_", "whsec_!", "whsec_é", "\udcff", "whsec_\udcff", SECRET[6:]])
@pytest.mark.parametrize("headers", [STANDARD, {"x-hub-signature-256": GITHUB_SIGNATURE}])
def test_another_secret_does_not_verify_and_does_not_raise(secret: str, headers: dict[str, str]) -> None:
    assert faults(secret, headers, BODY, TIME)


def test_one_right_signature_does_not_excuse_a_wrong_one() -> None:
    assert faults(SECRET, {**STANDARD, "x-hub-signature-256": GITHUB_SIGNATURE}, BODY, TIME)
    right = "sha256=" + hexadecimal(SECRET.encode(), BODY)
    assert faults(SECRET, {**standard("v1,AAAA"), "x-hub-signature-256": right}, BODY, TIME)


def test_an_old_request_without_its_standard_signature_is_not_a_new_one() -> None:
    """Who recorded a delivery can cut that one off: what is left says nothing of the time or of the id."""
    left = {"webhook-id": "msg_other", "x-hub-signature-256": "sha256=" + hexadecimal(SECRET.encode(), BODY)}
    assert "webhook-signature is missing" in faults(SECRET, left, BODY, TIME + 86_400)[0]


@each("age", [0, TOLERANCE, -TOLERANCE, TOLERANCE + 1, -TOLERANCE - 1, 10**8])
def test_a_timestamp_may_be_five_minutes_off(age: int) -> None:
    found = faults(SECRET, STANDARD, BODY, TIME + age)
    assert (found == []) == (abs(age) <= TOLERANCE)
    if found:
        off, why = (f"{age} s old", "replay") if age > 0 else (f"{-age} s ahead of our clock", "wrong clock")
        assert found == [f"webhook-signature is right, but {off} (±{TOLERANCE} allowed): a {why}?"]


@each("field", ["webhook-id", "webhook-timestamp"])
def test_id_and_time_are_part_of_what_is_signed(field: str) -> None:
    other = {"webhook-id": "msg_other", "webhook-timestamp": str(TIME + 1)}[field]
    assert faults(SECRET, {**STANDARD, field: other}, BODY, TIME)


SORTED = b'{"b": 1, "a": {"d": [2], "c": "\xc3\xa9"}}'
MISTAKES: list[tuple[str, bytes, dict[str, str]]] = [
    ("whsec_ was not stripped", BODY, standard("v1," + signature(SECRET.encode(), signed(BODY)))),
    ("was not decoded", BODY, standard("v1," + signature(SECRET[6:].encode(), signed(BODY)))),
    ("hex was written", BODY, standard("v1," + hexadecimal(KEY, signed(BODY)))),
    ("only the body was signed", BODY, standard("v1," + signature(KEY, BODY))),
    ("GitHub's dialect", BODY, standard("v1," + hexadecimal(SECRET.encode(), BODY))),
    ("begins with v1,", BODY, standard(SIGNATURE[3:])),
    ("spaces left out", BODY, standard(COMPACT_SIGNATURE)),
    ("spaces put in", BODY.replace(b" ", b""), standard(SIGNATURE)),
    ("keys sorted", SORTED, standard("v1," + signature(KEY, signed(b'{"a":{"c":"\\u00e9","d":[2]},"b":1}')))),
    ("a replay", BODY, standard("v1," + signature(KEY, f"{ID}.{TIME - 301}.".encode() + BODY), TIME - 301)),
    ("another secret, or another body", BODY, standard("v1," + signature(b"another", signed(BODY)))),
    ("base64 was written", BODY, {"x-hub-signature-256": "sha256=" + signature(SECRET.encode(), BODY)}),
    ("GitHub takes as text", BODY, {"x-hub-signature-256": "sha256=" + hexadecimal(KEY, BODY)}),
    ("sha256= is missing", BODY, {"x-hub-signature-256": hexadecimal(SECRET.encode(), BODY)}),
    ("spaces left out", BODY, {"x-hub-signature-256": "sha256=" + hexadecimal(SECRET.encode(), BODY[:8] + BODY[9:])}),
    ("another secret, or another body", BODY, {"x-hub-signature-256": GITHUB_SIGNATURE}),
    ("no webhook-signature and no X-Hub-Signature-256", BODY, {"webhook-id": ID, "webhook-timestamp": str(TIME)}),
]  # fmt: skip


@each(
    "headers, digest, length",
    [
        (standard("v1,AAAA"), SIGNATURE[3:], len(KEY)),
        ({"x-hub-signature-256": "sha256=00"}, hexadecimal(SECRET.encode(), BODY), len(SECRET)),
    ],
)
def test_a_refusal_shows_what_was_signed_and_both_digests(headers: dict[str, str], digest: str, length: int) -> None:
    text = "\n".join(faults(SECRET, headers, BODY, TIME))
    assert repr(BODY)[2:-1] in text and digest in text and list(headers.values())[-1] in text
    assert f"{length} bytes" in text
    assert SECRET not in text and SECRET[6:] not in text


@each("size", [23, 65, 0])
def test_a_key_of_another_length_is_no_key(size: int) -> None:
    secret = "whsec_" + base64.b64encode(b"k" * size).decode()
    value = "v1," + signature(b"k" * size, signed(BODY))
    assert key_of(secret) is None and faults(secret, standard(value), BODY, TIME)


@each("size", [24, 32, 64])
def test_a_key_of_the_usual_lengths_is_one(size: int) -> None:
    assert key_of("whsec_" + base64.b64encode(b"k" * size).decode()) == b"k" * size


BOTH = {**standard("v1,AAAA"), "x-hub-signature-256": "sha256=00"}


@each(
    "body",
    [
        b"[" * 400 + b"1," * 520_000,
        b"[" * 400 + b"1," * 520_000 + b"1" + b"]" * 400,
        b'{"a":"' + b"\\u00e9" * 170_000 + b'"}',
        b"[" * 400 + b"1," * (MAX_REWRITTEN // 2 - 401) + b"1" + b"]" * 400,
        b"[" * 900 + b"{}," * (MAX_REWRITTEN // 3 - 601) + b"1" + b"]" * 900,
    ],
    ids=["broken", "nested", "escapes", "small and nested", "small and deep"],
)
def test_a_forged_request_costs_little_to_explain(body: bytes) -> None:
    """Anyone can send one: 1 MiB would cost seconds and more than a GiB to be written in other spellings."""
    began = time.process_time()
    assert faults(SECRET, BOTH, body, TIME)
    assert time.process_time() - began < 0.5
    tracemalloc.start()
    try:
        faults(SECRET, BOTH, body, TIME)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_a_large_body_is_explained_but_not_in_other_spellings() -> None:
    body = b'{"a": "' + b"x" * MAX_REWRITTEN + b'"}'
    compact = "v1," + signature(KEY, signed(body.replace(b" ", b"")))
    assert "is not tried in other spellings" in faults(SECRET, standard(compact), body, TIME)[-1]
    text = "v1," + signature(SECRET.encode(), signed(body))
    assert "whsec_ was not stripped" in faults(SECRET, standard(text), body, TIME)[-1]
