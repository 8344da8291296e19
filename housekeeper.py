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
        self.closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._stir.set()

    def close(self) -> None:
        """Do what is left, and end."""
        self.closed.set()
        self._stir.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self.closed.is_set():
            if self._do():
                self._stir.wait(FLUSH_SECONDS)
            else:
                self.closed.wait(PAUSE_SECONDS)
            self._stir.clear()
        self._do()

    def _do(self) -> bool:
        """Work; False when it is not to be tried again at once."""
        try:
            return self._work()
        except Exception as error:  # a bug, or a disk that fails: deliveries must go on
            self._log(f"an error on our side: {error!r}")
            return False
