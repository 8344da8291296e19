"""Whose turn it is: windows, shares, turns, and retries by the time when they are due."""

from __future__ import annotations

import gc
import math
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from support import EVENT, OTHER, Blocking, Desk, each, eventually, exchange, held

import endpoints as module
from endpoints import JITTER, MAX_RETRY_AFTER, PROMPT, RETRY_SCHEDULE, WINDOW
from endpoints import Endpoint, Endpoints, Schedule, retry_after
from messages import DELIVERED, DELIVERING, FAILED, PENDING, Delivery, Message

URL = "http://a.test/hook"


def deliveries(count: int, url: str = URL, body: bytes = b"{}") -> list[Delivery]:
    message = Message("msg_0", EVENT, 0.0, body)
    return [Delivery(message, index, url) for index in range(count)]


def taken(endpoints: Endpoints) -> list[Delivery]:
    """All that may begin now."""
    found = []
    while it := endpoints.take():
        found.append(it)
    return found


def prove(endpoints: Endpoints, url: str) -> None:
    """Let an endpoint have a prompt success behind it."""
    endpoints.add(*deliveries(1, url))
    while it := endpoints.take():
        endpoints.finish(it, True, 0.001)


# --- windows --------------------------------------------------------------------------------------------------------


def test_a_window_opens_with_success_and_closes_with_a_failure() -> None:
    endpoints = Endpoints(1_000)
    endpoint = endpoints.get(URL)
    for delivery in deliveries(200):
        endpoints.add(delivery)
    assert len(taken(endpoints)) == 1, "a receiver that has just started is not met with a flood"

    def finish(success: bool) -> None:
        endpoints.finish(next(iter(endpoint.under_way)), success, 0.1)

    for window in (2, 4, 8, WINDOW, WINDOW):
        finish(True)
        taken(endpoints)
        assert len(endpoint.under_way) == window
    finish(False)
    assert taken(endpoints) == []
    while endpoint.under_way:
        finish(False)
    assert len(taken(endpoints)) == 1


def test_a_url_has_no_more_attempts_under_way_than_its_window(tmp_path: Path) -> None:
    first, second = Blocking(), Blocking()
    with Desk(tmp_path, URL) as desk, held(first), held(second):
        desk.answer = first
        found = [desk.trigger() for _ in range(100)]
        desk.under_way(found[0])
        desk.turn()
        assert desk.dispatcher.counts()["under_way"] == 1
        desk.answer = second
        first.set()
        eventually(lambda: desk.dispatcher.counts()["under_way"] == 2)
        assert [d.state for d in found[:4]] == [DELIVERED, DELIVERING, DELIVERING, PENDING]
        second.set()
        desk.settled(found[-1])


def test_pings_and_redeliveries_go_past_the_window_and_the_backlog() -> None:
    endpoints = Endpoints(1_000)
    for delivery in deliveries(3):
        endpoints.add(delivery)
    assert len(taken(endpoints)) == 1
    urgent = deliveries(2)
    for delivery in urgent:
        endpoints.add(delivery, urgent=True)
    assert taken(endpoints) == urgent


# --- shares ---------------------------------------------------------------------------------------------------------


def fill(endpoints: Endpoints, name: str, count: int, each: int = 1) -> None:
    """Let something wait for so many endpoints."""
    for number in range(count):
        for delivery in deliveries(each, f"http://{name}-{number}.test/"):
            endpoints.add(delivery)


def test_endpoints_that_have_proven_nothing_leave_room_for_those_that_have() -> None:
    endpoints = Endpoints(100)
    prove(endpoints, URL)
    fill(endpoints, "hangs", 500)
    assert 50 <= len(taken(endpoints)) < 100
    endpoints.add(*deliveries(1))
    assert [d.url for d in taken(endpoints)] == [URL]


def test_what_endpoints_have_under_way_beside_their_first_leaves_room_for_the_first_of_others() -> None:
    endpoints = Endpoints(100)
    urls = [f"http://{number}.test/" for number in range(20)]
    for url in urls * 5:
        prove(endpoints, url)
    for url in urls:
        for delivery in deliveries(50, url):
            endpoints.add(delivery)
    begun = len(taken(endpoints))
    assert 20 <= begun <= 75
    fill(endpoints, "new", 5)
    assert len(taken(endpoints)) == 5


def test_a_ping_has_the_share_of_a_first_attempt_also_beside_others_of_its_url() -> None:
    endpoints = Endpoints(100)
    prove(endpoints, URL)
    fill(endpoints, "hangs", 500)
    taken(endpoints)
    first, ping = deliveries(2)
    endpoints.add(first)
    assert taken(endpoints) == [first]
    endpoints.add(ping, urgent=True)
    assert taken(endpoints) == [ping]


@pytest.mark.parametrize("success, seconds, proven", [(True, 0.0, True), (True, PROMPT, False), (False, 0.0, False)])
def test_a_prompt_success_is_a_proof_and_the_last_attempt_counts(success: bool, seconds: float, proven: bool) -> None:
    endpoints = Endpoints(10)
    prove(endpoints, URL)
    endpoints.add(*deliveries(1))
    it = endpoints.take()
    assert it
    endpoints.finish(it, success, seconds)
    fill(endpoints, "hangs", 50)
    begun = len(taken(endpoints))
    endpoints.add(*deliveries(1))
    assert begun < 10 and bool(taken(endpoints)) is proven


@pytest.mark.parametrize("success", [True, False])
def test_a_ping_proves_its_url_or_the_opposite(success: bool) -> None:
    endpoints = Endpoints(10)
    if success:
        endpoints.postpone(deliveries(1)[0], 86_400.0)  # what failed before
    else:
        prove(endpoints, URL)
    endpoints.add(*deliveries(1), urgent=True)
    urgent = endpoints.take()
    assert urgent
    endpoints.finish(urgent, success, 0.0)
    fill(endpoints, "hangs", 50)
    taken(endpoints)
    endpoints.add(*deliveries(1))
    assert bool(taken(endpoints)) is success


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_everything_has_its_turn_with_hardly_any_descriptors(limit: int) -> None:
    endpoints = Endpoints(limit)
    fill(endpoints, "a", 5, each=3)
    for delivery in deliveries(3):
        endpoints.add(delivery, urgent=True)
    count = 0
    while it := endpoints.take():
        count += 1
        assert endpoints.under_way <= limit
        endpoints.finish(it, bool(count % 2), 0.0)
    assert count == 18 and endpoints.under_way == 0


# --- turns ----------------------------------------------------------------------------------------------------------


def test_endpoints_take_turns_however_much_waits_for_one() -> None:
    endpoints = Endpoints(1)
    for delivery in deliveries(1_000):
        endpoints.add(delivery)
    fill(endpoints, "others", 10)
    order = []
    for _ in range(25):
        it = endpoints.take()
        assert it
        order.append(it.url)
        endpoints.finish(it, True, 0.0)
    assert len(set(order)) == 11, "some of the others are still waiting"


@pytest.mark.parametrize("urgent", [1, 5_000])
def test_pings_take_turns_with_what_waits(urgent: int) -> None:
    """They have no priority over the others, however many there are."""
    endpoints = Endpoints(10)
    for number in range(5):
        prove(endpoints, f"http://proven-{number}.test/")
    for number in range(urgent):
        endpoints.add(*deliveries(1, f"http://pinged-{number}.test/"), urgent=True)
    fill(endpoints, "proven", 5)
    found = [endpoints.take() for _ in range(10)]
    names = {it.url for it in found if it}
    assert sum("proven" in name for name in names) >= 3


# --- retries --------------------------------------------------------------------------------------------------------


def test_retries_are_due_in_order_over_all_endpoints() -> None:
    endpoints, chance = Endpoints(10), random.Random(1)
    assert endpoints.due() == math.inf
    times = [float(chance.randrange(50)) for _ in range(300)]
    for number, due in enumerate(times):
        endpoints.postpone(deliveries(1, f"http://{number % 7}.test/")[0], due)
    found = []
    while endpoints.due() < math.inf:
        found.append(endpoints.due())
        endpoints.pop_due()
    assert found == sorted(times)


def test_what_is_withdrawn_is_neither_due_nor_taken_nor_counted() -> None:
    endpoints = Endpoints(10)
    endpoint = endpoints.get(URL)
    waiting, retrying = deliveries(3, body=b"x" * 10), deliveries(3, body=b"x" * 10)
    for number, (one, other) in enumerate(zip(waiting, retrying)):
        endpoints.add(one)
        endpoints.postpone(other, 10.0 + number)
    assert endpoint.size == 60 and set(endpoint.planned()) == {*waiting, *retrying}
    endpoints.withdraw(URL, {waiting[0], retrying[0]})
    assert endpoint.size == 40
    assert endpoints.due() == 11.0
    assert endpoints.pop_due() is retrying[1]
    assert taken(endpoints) == [waiting[1]]
    endpoints.withdraw(URL, {waiting[2], retrying[2]})
    assert endpoint.size == 0 and endpoint.planned() == []
    assert endpoints.due() == math.inf
    endpoints.finish(waiting[1], True, 0.0)
    assert taken(endpoints) == []


def test_retries_that_are_withdrawn_take_no_memory() -> None:
    """One that is due before them is no reason to keep them."""
    endpoints = Endpoints(10)
    early, *others = deliveries(101)
    endpoints.postpone(early, 5.0)
    tracemalloc.start()
    try:
        for _ in range(100):
            for delivery in others:
                endpoints.postpone(delivery, 100.0)
            endpoints.withdraw(URL, set(others))
        assert tracemalloc.get_traced_memory()[0] < 200_000  # all 10,000 would have over a million bytes
    finally:
        tracemalloc.stop()
    assert endpoints.due() == 5.0 and endpoints.pop_due() is early


def test_an_earlier_retry_is_due_first_also_when_it_is_planned_later() -> None:
    endpoints = Endpoints(10)
    late, early = deliveries(2)
    endpoints.postpone(late, 100.0)
    endpoints.postpone(early, 5.0)
    assert endpoints.due() == 5.0 and endpoints.pop_due() is early
    assert endpoints.due() == 100.0 and endpoints.pop_due() is late
    assert endpoints.due() == math.inf


# --- what is remembered of an endpoint ------------------------------------------------------------------------------


def endpoints_of(name: str) -> int:
    """How many endpoints there are in this process whose URL has `name` in it."""
    gc.collect()
    return sum(isinstance(it, Endpoint) and name in it.url for it in gc.get_objects())


def test_urls_that_come_and_go_leave_nothing_behind() -> None:
    """Also when their retries would have been due in a day."""
    endpoints = Endpoints(10)
    for number in range(3_000):
        (delivery,) = deliveries(1, f"http://comes-and-goes-{number}.test/")
        endpoints.postpone(delivery, 86_400.0)
        endpoints.withdraw(delivery.url, {delivery})
    assert endpoints_of("comes-and-goes") < 300


def test_many_retries_of_one_url_cost_what_they_are() -> None:
    endpoints = Endpoints(10)
    found = deliveries(5_000)
    for delivery in found:
        endpoints.postpone(delivery, 5.0)
    assert [endpoints.pop_due() for _ in found] == found
    assert endpoints.due() == math.inf


@pytest.mark.parametrize("answer", [204, 503, 410])
def test_an_endpoint_that_is_unregistered_with_attempts_under_way_is_forgotten_after_them(
    tmp_path: Path, answer: int
) -> None:
    url = f"http://forgotten-{answer}.test/"
    with Desk(tmp_path, url) as desk:
        _unregister_with_attempts_under_way(desk, url, Blocking(exchange(answer)))
        desk.register(URL, OTHER)
        desk.answer = exchange()
        assert desk.settled(desk.trigger(OTHER)).state == DELIVERED
        eventually(lambda: endpoints_of(url) == 0)


def _unregister_with_attempts_under_way(desk: Desk, url: str, blocking: Blocking) -> None:
    with held(blocking):
        desk.answer = blocking
        delivery = desk.under_way(desk.trigger())
        (ping,) = desk.on_demand.ping()
        desk.under_way(ping)
        desk.trigger()
        desk.unregister(url, EVENT)
    desk.settled(delivery)
    assert desk.settled(ping).state in (DELIVERED, FAILED)


def test_shares_add_up() -> None:
    assert max(module.SHARES) == 1.0 and list(module.SHARES) == sorted(module.SHARES, reverse=True)


# --- the schedule ---------------------------------------------------------------------------------------------------

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
