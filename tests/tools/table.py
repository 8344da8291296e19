"""How much the benchmark measures, and the table that it prints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from isolation import ASK_SECONDS, SCENARIOS


class Numbers(NamedTuple):
    """How much of everything."""

    fanout: int = 1_000  # URLs for one event
    stream: int = 2_000  # events for one URL
    register: int = 500
    few: int = 20  # registrations in a store that is full
    stored: tuple[int, ...] = (100, 1_000, 5_000, 10_000, 100_000)
    reached: int = 100  # URLs of those that an event goes to
    hung: int = 200
    well: int = 80
    events: int = 30  # beside those that hang
    burst: int = 5_000
    pairs: int = 3
    past: tuple[int, ...] = (100, 10_000, 100_000)  # deliveries in the journal, and messages in the history
    limit: int = 20_000
    patience: float = 15.0  # seconds to wait for deliveries that are held up
    part: int = 1  # the scenarios of isolation.py have one part in `part` of their URLs


QUICK = Numbers(50, 100, 20, 5, (100, 1_000), 50, 10, 10, 5, 200, 1, (100, 500), 1_000, 0.5, 20)


class Row(NamedTuple):
    """`ours` and `theirs` are names of samples, `unit` how both are shown, `than` what `theirs` is."""

    what: str
    ours: str
    than: str
    theirs: str
    unit: str
    better: str = "low"
    least: bool = False  # whether `ours` was cut off, so that it is at least that


def rows(n: Numbers) -> list[Row]:
    least, most = n.stored[0], n.stored[-1]
    pool, all_urls = "urlopen in a thread pool", n.well + n.hung
    hang = f"{n.events} events, {all_urls} URLs of which {n.hung} hang: the other {n.well}"
    return [
        Row(f"1 event to {n.fanout:,} URLs", "exposee fanout", pool, "naive fanout", "/s", "high"),
        Row("", "exposee fanout", "the limit, prepared bytes", "limit fanout", "/s", "high"),
        Row("the same, signed", "exposee signed", f"{pool}, unsigned", "naive fanout", "/s", "high"),
        Row("", "exposee signed", "the same, unsigned", "exposee fanout", "/s", "high"),
        Row(f"{n.stream:,} events to 1 URL, delivered", "exposee stream", pool, "naive stream", "/s", "high"),
        Row("the same, accepted", "exposee accept", "the same, nothing on disk", "naive accept", "/s", "high"),
        Row(
            f"{n.register} registrations",
            "exposee register",
            "the naive sender, without fsync",
            "naive register",
            "/s",
            "high",
        ),
        *(
            Row(
                f"a registration with {stored:,} stored",
                f"registration at {stored}",
                "bare replacement of the file",
                f"replacement at {stored}",
                "ms",
            )
            for stored in n.stored
            if stored in (least, 5_000, most)
        ),
        *(
            Row(
                f"a delivery with {stored:,} webhooks stored",
                f"delivery at {stored}",
                f"with {least:,}",
                f"delivery at {least}",
                "µs",
            )
            for stored in n.stored
            if stored in (10_000, most)
        ),
        *(
            Row(
                f"a delivery with {past:,} in the journal",
                f"journal at {past}",
                f"with {n.past[0]:,}",
                f"journal at {n.past[0]}",
                "µs",
            )
            for past in n.past[1:]
        ),
        *(
            Row(
                f"one with {past:,} messages in the history",
                f"history at {past}",
                f"with {n.past[0]:,}",
                f"history at {n.past[0]}",
                "µs",
            )
            for past in n.past[1:]
        ),
        Row(hang, "exposee hanging", "all URLs answer", "exposee answering", "s"),
        Row(f"the same, {pool}", "naive hanging", "all URLs answer", "naive answering", "s", least=True),
        *(
            Row(
                f"p95 of latency: {scenario.smaller(n.part).what}",
                f"beside {scenario.fault}",
                "all URLs answer as those do",
                f"quiet {scenario.fault}",
                "ms",
                least=True,
            )
            for scenario in SCENARIOS
        ),
        Row(
            f"`GET /health` every {ASK_SECONDS * 1e3:.0f} ms beside {n.burst:,} deliveries",
            "busy health",
            "beside none",
            "idle health",
            "ms",
        ),
        Row(f"{n.burst:,} deliveries beside a reader of the stream", "watched", "without", "unwatched", "s"),
        Row(f"{n.burst:,} deliveries with `--raw`", "raw", "without", "quiet", "s"),
        Row("memory after fan-out and stream", "exposee memory", pool, "naive memory", "MiB"),
        Row("start to first connection", "exposee ready", pool, "naive ready", "ms"),
    ]


def ratio(samples: dict[str, list[float]], row: Row) -> float:
    pairs = zip(samples[row.ours], samples[row.theirs], strict=False)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def shown(values: Sequence[float], unit: str) -> str:
    value = statistics.median(values) * {"ms": 1e3, "µs": 1e6}.get(unit, 1)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit == '/s' else ' '}{unit}"


def table(samples: dict[str, list[float]], n: Numbers) -> str:
    lines = ["| what | exposee | against | | ratio | better |", "|---|---:|---|---:|---:|---|"]
    for row in rows(n):
        if not samples[row.ours] or any(map(math.isnan, samples[row.ours])):
            continue  # it could not be measured here
        least = "over " if row.least and statistics.median(samples[row.ours]) >= n.patience else ""
        ours, theirs = (shown(samples[name], row.unit) for name in (row.ours, row.theirs))
        cells = (row.what, least + ours, row.than, theirs, f"{least}{ratio(samples, row):.2f}", row.better)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
