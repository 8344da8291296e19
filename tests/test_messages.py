"""What is delivered, and how it is written down: bodies, ids, JSON shapes, signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from pathlib import Path

import pytest
from support import Desk, a_delivery, exchange, fields

import messages

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "0",
        '""',
        "[1e9, -0, 1E2]",
        "99999999999999.99",
        '"Zahlung f\\u00fcr Zoë \U0001f4b6"',
        '{"event":"b",  "":"\\n"}',
    ],
    ids=ascii,
)
def test_body_is_exactly_event_and_data_as_it_is_spelled(data: str) -> None:
    body = messages.body_of("payment_received", data.encode())
    assert body == b'{"event": "payment_received", "data": ' + data.encode() + b"}"
    assert list(json.loads(body).items()) == [("event", "payment_received"), ("data", json.loads(data))]


def test_every_message_says_its_length_type_and_id() -> None:
    message = a_delivery().message
    names = fields(messages.request(b"POST / HTTP/1.1\r\n", message, 1_614_265_330, []))
    assert names["content-length"] == str(len(message.body))
    assert names["content-type"] == "application/json"
    assert names["webhook-id"] == message.id
    assert names["bypass-tunnel-reminder"] == "1"
    assert names["user-agent"].startswith("Exposee/")


def test_ids_are_unpredictable_and_unique(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        ids = [desk.accept(data=n).id for n in range(50)]
    assert len(set(ids)) == 50
    assert all(re.fullmatch("msg_[0-9a-f]{24}", name) for name in ids)


def test_delivery_ids_differ_within_a_message_and_lead_back_to_it(tmp_path: Path) -> None:
    with Desk(tmp_path, "http://a.test/", "http://b.test/") as desk:
        desk.answer = exchange(503)
        message = desk.accept()
        found = [desk.dispatcher.history.find(f"dlv_{message.id[4:]}_{index}") for index in (0, 1)]
        assert [d and d.url for d in found] == ["http://a.test/", "http://b.test/"]
        for wrong in ("", "dlv_", message.id, f"dlv_{message.id[4:]}_2", f"dlv_{message.id[4:]}_-1", "dlv_x_0"):
            assert desk.dispatcher.history.find(wrong) is None, wrong
        for spelling in ("00", "²", "1" * 5_000):
            assert desk.dispatcher.history.find(f"dlv_{message.id[4:]}_{spelling}") is None, spelling


def test_signatures_of_both_dialects_cover_the_bytes_sent() -> None:
    body = b'{"event": "ping",   "data": "\xc3\xbc"}'
    old = "whsec_" + base64.b64encode(bytes(24)).decode()
    content = b"msg_1.1700000000." + body
    digests = [hmac.new(key, content, hashlib.sha256).digest() for key in (bytes(range(32)), bytes(24))]
    new, former = (f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
    alone = messages.sign([SECRET], "msg_1", 1_700_000_000, body).decode().split("\r\n")
    assert alone[0] == f"webhook-signature: {new}"
    lines = messages.sign([SECRET, old], "msg_1", 1_700_000_000, body).decode().split("\r\n")
    assert lines[1:] == alone[1:], "GitHub's field has the new one only"
    assert lines == [
        f"webhook-signature: {new} {former}",
        f"X-Hub-Signature-256: sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}",
        "",
    ]
