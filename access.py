"""Who is asking: the owner at this machine, or a stranger who came through a tunnel or the network.

What each of them may do is decided in exposee.py, and told to people in SECURITY.md.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable

from addresses import spelled
from wire import Request

PROXY_FIELDS = ("forwarded", "x-forwarded-", "via", "x-real-ip", "cf-")  # what proxies and tunnels add


def is_local(request: Request) -> bool:
    """Whether the caller sits at this machine: see "who may do what" in SECURITY.md.

    Each of the conditions alone can be met from outside: a tunnel's end connects from loopback, a web page in
    the owner's browser too, and a name of the attacker's can resolve to 127.0.0.1.
    """
    origin = request.headers.get("origin")
    return (
        spelled(request.peer) == "loopback"
        and is_loopback(request.authority)
        and is_loopback(request.headers.get("host", request.authority))
        and origin in (None, f"http://{request.authority}")
        and not any(name.startswith(PROXY_FIELDS) for name in request.headers)
    )


def is_loopback(authority: str) -> bool:
    host = authority if authority.endswith("]") else authority.rpartition(":")[0] or authority
    return host != "" and spelled(host.strip("[]")) == "loopback"


def carries(request: Request, token: str) -> bool:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), token.encode())


class Allowance:
    """So many a second on average, and so many in a row (a token bucket), for all strangers together:
    through a tunnel they cannot be told apart."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()  # both guarded by the lock
        self._lock = threading.Lock()

    def take(self) -> float:
        """0.0, or the seconds to wait for the next one."""
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1:
                return (1 - self._left) / self._rate
            self._left -= 1
            return 0.0
