"""The receiver's page and what it shows: the newest requests, and what was found out about each. In memory only.

    GET /           the page (inbox.html)
    GET /requests   {"requests": [{"number", "time", "verified", "duplicate", "status", "notes", "payload", "raw"}, …]},
                    newest first; with ?after=N it waits, WAIT at most, until another one than number N is the newest

Both are for local callers (addresses.py): what strangers have sent is nothing for other strangers.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import strict_json
from addresses import is_local
from server import Handler, Routes, as_problem, page
from terminal import masked, printable, transcript
from wire import Answer, Problem, Request

KEPT = 100  # requests; each takes some 50 KiB at most, because its parts are cut: by wire.py, and to these
SHOWN_PAYLOAD, SHOWN_NOTE = 8_192, 1_000  # bytes of a body, characters of a note
WAIT = 20.0  # seconds
PAGE = Path(__file__).with_name("inbox.html")


class Entry:
    """One request: what came, what its handler finds out about it, and what it is answered."""

    number = 0  # 1 for the first request since the start
    verified: bool | None = None  # whether its signature is right; None without a secret to verify it with
    duplicate = False
    status: int | None = None  # None when the URL asked for something that is no answer, such as respond=hang

    def __init__(self, request: Request, time: float) -> None:
        self.notes: list[str] = []  # what was found out, or why it was refused; a line each
        self._time = datetime.fromtimestamp(time, timezone.utc)
        self._received, self._received_size = request.received, request.size
        body = request.body or b""
        self._body, self._body_size = body[:SHOWN_PAYLOAD], len(body)

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "time": self._time.isoformat(),
            "verified": self.verified,
            "duplicate": self.duplicate,
            "status": self.status,
            "notes": self.notes,
            "payload": self._payload(),
            "raw": "\n".join(line for _, line in transcript("", self._received, self._received_size)),
        }

    def _payload(self) -> str:
        """The body, indented if it is JSON; secrets are masked, and what is too long is cut."""
        try:
            text = json.dumps(strict_json.loads(self._body), ensure_ascii=False, indent=2)
        except ValueError:
            text = self._body.decode("utf-8", "backslashreplace")
        shown = masked(text[:SHOWN_PAYLOAD].encode()).decode()
        is_cut = self._body_size > len(self._body) or len(text) > SHOWN_PAYLOAD
        return shown + f"\n... the beginning of {self._body_size:,} bytes" * is_cut


class Inbox:
    """The newest requests. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()  # guards the two below
        self._entries: deque[Entry] = deque(maxlen=KEPT)  # oldest first
        self._count = 0  # requests since the start
        self.routes: Routes = {"/": {"GET": self.page}, "/requests": {"GET": self.requests}}

    def recording(self, receive: Callable[[Request, Entry], Answer]) -> Handler:
        """`receive` as the handler of a route: each request is kept, with what `receive` notes in its entry."""

        def handler(request: Request) -> Answer:
            entry = Entry(request, self._clock())
            try:
                answer = receive(request, entry)
            except BaseException as error:  # also what asyncio and sys.exit raise
                problem = as_problem(error)
                entry.notes += problem.notes or [problem.detail]
                self._keep(entry, problem.status)
                del problem  # else it refers to this frame, which keeps the request in memory for a while
                raise
            self._keep(entry, None if answer.takeover else answer.status)
            return answer

        return handler

    def _keep(self, entry: Entry, status: int | None) -> None:
        entry.status, entry.notes = status, [printable(note[:SHOWN_NOTE]) for note in entry.notes]
        with self._changed:
            self._count += 1
            entry.number = self._count
            self._entries.append(entry)
            self._changed.notify_all()

    def page(self, request: Request) -> Answer:
        local_only(request)
        return page(PAGE)

    def requests(self, request: Request) -> Answer:
        local_only(request)
        with self._changed:
            self._changed.wait_for(lambda: str(self._count) != request.query.get("after"), WAIT)
            entries = list(self._entries)
        found = [entry.to_json() for entry in reversed(entries)]
        return Answer(200, {"requests": found}, {"Cache-Control": "no-store"})


def local_only(request: Request) -> None:
    if not is_local(request):
        raise Problem(403, "for local callers only: on the receiver's own machine, open the URL that it has printed")
