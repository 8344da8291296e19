"""A thread that does its work about once a second: what blocks, and so no sender may do."""

from __future__ import annotations

import threading
from collections.abc import Callable

FLUSH_SECONDS = 1.0  # after which an outcome is in the journal's file at the latest
PAUSE_SECONDS = 5.0  # the same when the disk has refused
CLOSE_SECONDS = 5.0  # for the last time


class Housekeeper:
    """A thread that does its work about once a second, and at once when it is woken."""

    def __init__(self, work: Callable[[], bool], log: Callable[[str], None]) -> None:
        self._work, self._log = work, log
        self._stir = threading.Event()
        self.closed = False
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._stir.set()

    def close(self) -> None:
        """Do what is left, and end."""
        self.closed = True
        self._stir.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self.closed:
            self._stir.wait(self._do())
            self._stir.clear()
        self._do()

    def _do(self) -> float:
        """Work; the seconds until it is to be done again."""
        try:
            return FLUSH_SECONDS if self._work() else PAUSE_SECONDS
        except Exception as error:  # a bug, or a disk that fails: deliveries must go on
            self._log(f"an error on our side: {error!r}")
            return PAUSE_SECONDS
