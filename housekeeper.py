"""A thread for work that blocks, and so no sender may do."""

from __future__ import annotations

import threading
from collections.abc import Callable

FLUSH_SECONDS = 1.0  # after which an outcome is in the journal's file at the latest
PAUSE_SECONDS = 5.0  # the same when the disk has refused
CLOSE_SECONDS = 5.0  # for the last time


class Housekeeper(threading.Thread):
    """Calls `work` about once a second, and at once when it is woken; after a pause if it returned False."""

    def __init__(self, work: Callable[[], bool], log: Callable[[str], None]) -> None:
        super().__init__(name="housekeeper", daemon=True)
        self._work, self._log = work, log
        self._woken, self._closed = threading.Event(), threading.Event()
        self.wake = self._woken.set

    def close(self) -> None:
        """Work once more, and end."""
        self._closed.set()
        self.wake()
        if self.is_alive():
            self.join(CLOSE_SECONDS)

    def run(self) -> None:
        while True:
            closed = self._closed.is_set()  # then this is the last time
            try:
                worked = self._work()
            except Exception as error:  # noqa: BLE001 - a bug, or a disk that fails: deliveries must go on
                worked = False
                self._log(f"an error on our side: {error!r}")
            if closed:
                return
            if worked:
                self._woken.wait(FLUSH_SECONDS)
            else:
                self._closed.wait(PAUSE_SECONDS)
            self._woken.clear()
