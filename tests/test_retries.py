"""When an attempt is made again: the schedule, its jitter, and what the receiver asks for."""

from __future__ import annotations

import time

import pytest
from support import each

from retries import JITTER, MAX_RETRY_AFTER, RETRY_SCHEDULE, Schedule, retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
DATES: list[tuple[str, float]] = [
    ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
    ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
    ("Sun Nov  6 08:50:37 1994", 60),
    ("Sun, 06 Nov 1994 08:48:37 GMT", 0),
    ("Sun, 06 Nov 1994 09:50:37 +0100", 60),
    ("Sun, 99 Nov 99999999999 99:99:99 GMT", 0),
    ("Mon, 01 Jan 0001 00:00:00 +9999", 0),
    ("Fri, 31 Dec 9999 23:59:59 -2359", 252_618_275_362),
    (",", 0),
    ("0 0 0", 0),
]
FIELDS: list[tuple[bytes, float]] = [
    (b"Retry-After: 120", 120),
    (b"Retry-After: 0000000000120", 120),
    (b"Retry-After: " + b"0" * 5_000 + b"7", 7),
    (b"retry-after:\t3 ", 3),
    (b"Retry-After:\r\n 5", 5),
    (b"Retry-After: 0", 0),
    (b"Retry-After: 000", 0),
    (b"Retry-After: 4\r\nRetry-After: 9", 4),
    (b"Retry-After: -5", 0),
    (b"Retry-After: 1.5", 0),
    (b"Retry-After: 1e9", 0),
    (b"Retry-After: 1_0", 0),
    (b"Retry-After: soon", 0),
    (b"Retry-After: \xb2\xff", 0),
    (b"Retry-After:", 0),
    (b"Retry-After-Original: 5", 0),
    (b"X-Retry-After: 5", 0),
    (b"X: Retry-After: 5", 0),
    (b"X: y\r\n Retry-After: 5", 0),
    *((b"Retry-After: " + date.encode(), seconds) for date, seconds in DATES),
]


def head(field: bytes) -> bytes:
    return b"HTTP/1.1 503 Busy\r\n" + field + b"\r\nX: y\r\n"


@pytest.mark.parametrize("field, seconds", FIELDS)
def test_retry_after_is_seconds_or_a_date(field: bytes, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert retry_after(head(field), NOW) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


def test_without_a_head_nothing_was_asked_for() -> None:
    assert retry_after(b"", NOW) == 0.0


def test_an_absurd_retry_after_is_a_long_time() -> None:
    assert retry_after(head(b"Retry-After: " + b"9" * 5_000), NOW) > 1e9


@each(
    "value",
    [
        b"x" + b" " * 60_000 + b"x",
        b" " * 30_000 + b"\r x",
        b" \t" * 30_000,
        b"\r\n " * 20_000 + b"x",
        b"0" * 60_000 + b"x",
    ],
)
def test_a_hostile_retry_after_costs_no_time(value: bytes) -> None:
    began = time.process_time()
    assert retry_after(head(b"Retry-After:" + value), 0.0) == 0.0
    assert time.process_time() - began < 0.5


def schedule(chance: float = 0.5, now: float = NOW) -> Schedule:
    return Schedule(RETRY_SCHEDULE, lambda: chance, lambda: now, lambda: 0.0)


def test_the_delays_are_those_of_the_schedule() -> None:
    delays = [schedule().delay(tries, b"") for tries in range(len(RETRY_SCHEDULE))]
    assert delays == [pytest.approx(delay) for delay in (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)]


@each("chance, factor", [(0.0, 1 - JITTER), (1.0, 1 + JITTER)])
def test_each_delay_is_a_little_shorter_or_longer(chance: float, factor: float) -> None:
    for tries, delay in enumerate(RETRY_SCHEDULE):
        assert schedule(chance).delay(tries, b"") == pytest.approx(delay * factor)


@each("asked, delay", [(b"60", 60), (b"1", 5), (b"0", 5), (b"9" * 20, MAX_RETRY_AFTER)])
def test_a_receiver_may_postpone_the_next_attempt_but_not_for_ever(asked: bytes, delay: float) -> None:
    assert schedule().delay(0, head(b"Retry-After: " + asked)) == pytest.approx(delay)


@each(
    "due, left",
    [(NOW + 60, 60.0), (NOW - 60, 0.0), (NOW, 0.0), (0.0, 0.0), (NOW + 31_536_000, MAX_RETRY_AFTER * (1 + JITTER))],
)
def test_a_retry_that_was_planned_under_a_wrong_clock_is_not_a_year_away(due: float, left: float) -> None:
    assert schedule().left(due) == pytest.approx(left)


def test_a_schedule_without_retries_knows_how_long_a_planned_one_may_take() -> None:
    assert Schedule((), lambda: 0.5, lambda: NOW, lambda: 0.0).left(NOW + 1e9) == MAX_RETRY_AFTER
