"""Random schedules of all that can happen to deliveries: each settles with right counts, and restarts as it was."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest
from support import EVENT, OTHER, Desk, eventually, exchange, mostly_slow

from client import Exchange
from history import delivery_json
from messages import CANCELLED, DELIVERING, FAILED, OPEN, NotPossible

URLS, EVENTS = [f"http://{number}.test/" for number in range(4)], [EVENT, OTHER]


class Schedule:
    """A Desk, and what happens to it by chance. Its receivers answer at once, or when `release` is called."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance, self._held, self._folder, self._kills = random.Random(seed), list[Future[Exchange]](), folder, 0
        (folder / "0").mkdir()
        self.desk = Desk(folder / "0", answer=self._answer, timeout=1e6)
        more = [self.trigger] * 6 + [self.register] * 3 + [self.redeliver, self.pass_time, self.release] * 2
        more += [self.unregister, self.ping, self.recover, self.kill, self.restart, self.lose]
        self.steps: list[Callable[[], None]] = more

    def _answer(self, url: str) -> Exchange | Future[Exchange]:
        if self._chance.random() < 0.6:
            return self._outcome()
        self._held.append(Future())
        return self._held[-1]

    def _outcome(self) -> Exchange:
        return exchange(self._chance.choice([204, 204, 204, 503, 503, 404, 410]))

    def step(self) -> None:
        self._chance.choice(self.steps)()

    def _pair(self) -> tuple[str, str]:
        return self._chance.choice(URLS), self._chance.choice(EVENTS)

    def register(self) -> None:
        self.desk.register(*self._pair())

    def unregister(self) -> None:
        url, event = self._pair()
        if self.desk.store.unregister(url, event, lambda _: None):
            self.desk.dispatcher.cancel(url, event)

    def trigger(self) -> None:
        self.desk.accept(self._chance.choice(EVENTS), self._chance.random())

    def ping(self) -> None:
        self.desk.on_demand.ping()

    def redeliver(self) -> None:
        found = self.desk.all()
        with suppress(NotPossible, IndexError):
            self.desk.on_demand.redeliver(self._chance.choice(found))

    def recover(self) -> None:
        self.desk.on_demand.recover(lambda it: it.state in (FAILED, CANCELLED))

    def pass_time(self) -> None:
        self.desk.pass_time(self._chance.choice([1.0, 6.0, 400.0, 90_000.0]))

    def release(self) -> None:
        held, self._held = self._held, []
        for future in held:
            future.set_result(self._outcome())
        self.desk.turn()

    def kill(self) -> None:
        """Go on with the files as they are now."""
        if self._kills < 3:
            self._kills += 1
            files = self.desk.copy(self._folder / str(self._kills))
            self.stop()
            self.desk = Desk(files, answer=self._answer, timeout=1e6, time=self.desk.clock)

    def restart(self) -> None:
        self.stop()
        self.desk.open(self.desk.folder)

    def lose(self) -> None:
        """The owner empties webhooks.json by mistake."""
        if self._chance.random() < 0.3:
            self.stop()
            (self.desk.folder / "webhooks.json").write_text("[]\n", "utf-8")
            self.desk.open(self.desk.folder)

    def stop(self) -> None:
        stopping = threading.Thread(target=self.desk.stop)
        stopping.start()
        while stopping.is_alive():
            held, self._held = self._held, []
            for future in held:
                future.set_result(self._outcome())
            stopping.join(0.005)

    def settle(self) -> None:
        """Let all retries have been made."""

        def is_settled() -> bool:
            self.desk.pass_time(90_000)
            self.release()
            self.desk.dispatcher.housekeeper.work()
            orphans = sum(self.desk.dispatcher.orphans().values())
            return self.desk.dispatcher.counts() == {"waiting": orphans, "under_way": 0}

        eventually(is_settled)
        found = self.desk.all()
        assert not [delivery for delivery in found if delivery.state == DELIVERING]
        assert sum(d.state in OPEN for d in found) == self.desk.dispatcher.counts()["waiting"]


@pytest.mark.parametrize("seed", mostly_slow(range(25), 5))
def test_whatever_happens_each_delivery_ends_and_a_restart_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("endpoints.UNDER_WAY", 2)  # so that there is always something that waits
    schedule = Schedule(tmp_path, seed)
    try:
        for _ in range(80):
            schedule.step()
        schedule.settle()
        before = list(map(delivery_json, schedule.desk.all()))
        schedule.restart()
        assert list(map(delivery_json, schedule.desk.all())) == before
        for url in schedule.desk.dispatcher.orphans():
            schedule.desk.register(url, *EVENTS)
        schedule.settle()
        assert schedule.desk.dispatcher.orphans() == {}
        assert not [line for line in schedule.desk.log if "on our side" in line]
    finally:
        schedule.stop()
