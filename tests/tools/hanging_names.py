"""The exposee in a world where names under .hang.example are never resolved, and *.localhost is 127.0.0.1.

    python tests/tools/hanging_names.py [options of exposee.py]

Some resolvers know *.localhost and some do not (RFC 6761, 6.3), so both are answered here.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from typing import Any

HANG_SECONDS = 120.0  # longer than any measurement

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import exposee  # noqa: E402

resolve = socket.getaddrinfo


def getaddrinfo(host: Any, *more: Any, **options: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name.endswith(".hang.example"):
        threading.Event().wait(HANG_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "the name server does not answer")
    return resolve("127.0.0.1" if name.endswith(".localhost") else host, *more, **options)


if __name__ == "__main__":
    socket.getaddrinfo = getaddrinfo
    sys.exit(exposee.main())
