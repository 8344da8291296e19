"""A thread for what waits for the disk, as no sender may: unregistering after a 410, writing the journal's notes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from durable import StoreError

if TYPE_CHECKING:
    from delivery import Dispatcher  # which imports this module

FLUSH_SECONDS = 1.0  # after which an outcome is on the disk at the latest
PAUSE_SECONDS = 5.0  # the same when the disk has refused
CLOSE_SECONDS = 5.0  # that `close` waits for the last time it works


class Housekeeper(threading.Thread):
    """Works about once a second, and at once for a URL that is gone; after a pause if the disk has refused."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(name="housekeeper", daemon=True)
        self._dispatcher = dispatcher
        self.gone: dict[str, None] = {}  # URLs that answered 410, until they are unregistered. Guarded by `changed`
        self._woken, self._closed = threading.Event(), threading.Event()

    def unregister(self, url: str) -> None:
        """A receiver has answered 410: it does not want to hear from us again. With the lock held."""
        self.gone[url] = None
        self._woken.set()

    def forget(self, url: str) -> None:
        """A webhook is about to be registered: a 410 that came before does not unregister it."""
        with self._dispatcher.changed:
            self.gone.pop(url, None)

    def close(self) -> None:
        """Work once more, and end."""
        self._closed.set()
        self._woken.set()
        if self.is_alive():
            self.join(CLOSE_SECONDS)

    def run(self) -> None:
        while True:
            closed = self._closed.is_set()  # then this is the last time
            try:
                worked = self.work()
            except Exception as error:  # noqa: BLE001 - a bug, or a disk that fails: deliveries must go on
                worked = False
                self._dispatcher.report(error)
            if closed:
                return
            if worked:
                self._woken.wait(FLUSH_SECONDS)
            else:
                self._closed.wait(PAUSE_SECONDS)
            self._woken.clear()

    def work(self) -> bool:
        """Returns False when the disk has refused."""
        unregistered = self._unregister_gone() if self.gone else True
        journal = self._dispatcher.journal
        journal.compact(self._dispatcher.records)
        try:
            journal.flush()
        except StoreError:
            return False
        return unregistered

    def _unregister_gone(self) -> bool:
        """Unregister all URLs that are gone with one replacement of webhooks.json; cancel what waits for them."""
        store, log = self._dispatcher.store, self._dispatcher.log
        try:
            store.unregister_urls(self.gone)  # which reads them when it is its turn to write
        except StoreError as error:
            log(f"{len(self.gone)} URLs answered 410 Gone, but could not be unregistered: {error}")
            return False
        with self._dispatcher.changed:
            for url in [url for url in self.gone if not store.has(url)]:
                del self.gone[url]
                count = self._dispatcher.withdraw(url)
                log(f"{url} answered 410 Gone: unregistered" + (f", {count} waiting cancelled" if count else ""))
            self._dispatcher.changed.notify_all()
        return True
