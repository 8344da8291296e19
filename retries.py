"""When a delivery that failed is attempted again: the retry schedule, and what the receiver asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from client import fields_of

RETRY_SCHEDULE = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
# standardwebhooks.com: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: 75 hours in all
JITTER = 0.2  # of each delay, so that what failed together does not come back together
MAX_RETRY_AFTER = 86_400.0  # a receiver may postpone us, but not for ever


class Schedule(NamedTuple):
    """When the next attempt is made. Planned by the monotonic clock: a step of the other one changes nothing."""

    delays: tuple[float, ...]
    chance: Callable[[], float]
    clock: Callable[[], float]
    monotonic: Callable[[], float]

    def delay(self, tries: int, head: bytes) -> float:
        """Seconds until the next attempt after `tries` retries; `head` is the answer's, which may postpone it."""
        delay = self.delays[tries] * (1 + JITTER * (2 * self.chance() - 1))
        return max(delay, min(retry_after(head, self.clock()), MAX_RETRY_AFTER))

    def left(self, due: float) -> float:
        """Seconds until `due` (Unix), which a journal has from a clock that may have been wrong."""
        longest = max(MAX_RETRY_AFTER, (1 + JITTER) * max(self.delays, default=0.0))
        return min(max(0.0, due - self.clock()), longest)


def retry_after(head: bytes, now: float) -> float:
    """The seconds that a Retry-After field asks for at `now` (RFC 9110, 10.2.3: seconds or a date); 0.0 without one."""
    text = (fields_of(head).get(b"retry-after") or [b""])[0].decode("latin-1")
    try:
        if text.isascii() and text.isdigit():
            return float(text.lstrip("0")[:10] or 0)
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0  # a date that is none: as if the field were absent
