"""No receiver slows another, whatever it does: an exposee as a process, beside receivers that misbehave.

Measured by tests/tools/isolation.py, which the benchmark uses as well. Everything here takes more than a few seconds.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from isolation import SCENARIOS, Scenario, few_descriptors, health_beside_bursts, run
from exposee import MAX_PINGS
from processes import Failed

PATIENCE = 10.0  # seconds to wait for what is late
TIMES, AT_LEAST = 3.0, 0.5  # what the others may cost: a multiple of the quiet run, or seconds, whichever is more
THREADS = 20
CPU_SECONDS = 0.2  # in two seconds beside silent callers

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.what)
def test_healthy_receivers_are_served_as_if_the_others_were_well(tmp_path: Path, scenario: Scenario) -> None:
    try:
        quiet, beside = run(scenario, tmp_path / "run", PATIENCE)
    except Failed as error:
        if "openssl" in str(error):
            pytest.skip(str(error))
        raise
    print(f"{scenario.what}: {beside}, quiet {quiet}")
    assert beside.missing == quiet.missing == 0
    assert beside.p95 <= max(TIMES * quiet.p95, AT_LEAST)
    waiting = MAX_PINGS if scenario.fault == "refuse" else 0  # requests of the stranger, which have a thread each
    assert math.isnan(beside.threads) or beside.threads <= THREADS + waiting


def test_health_is_answered_at_once_beside_bursts(tmp_path: Path) -> None:
    idle, busy = health_beside_bursts(tmp_path / "run", urls=1_000, events=5)
    print(f"GET /health: {busy * 1e3:.1f} ms, idle {idle * 1e3:.1f} ms")
    assert busy < 0.02


@pytest.mark.parametrize("ulimit", ["-S -n 256", "-n 256"])
def test_few_descriptors_lose_no_delivery_and_cost_no_cpu(tmp_path: Path, ulimit: str) -> None:
    """The soft limit can be raised by the exposee itself, the hard one cannot."""
    outcome = few_descriptors(tmp_path / "run", ulimit, count=300, callers=60, patience=PATIENCE)
    print(f"ulimit {ulimit}: {outcome}")
    assert outcome.delivered == 300
    assert math.isnan(outcome.cpu) or outcome.cpu < CPU_SECONDS
