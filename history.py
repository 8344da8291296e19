"""What the post office knows of messages: all that are on their way, and the newest of those that are over.

It is in memory only and within limits; after a restart it is made anew from the journal's records.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from messages import (
    OPEN,
    PENDING,
    PING,
    RETRYING,
    Attempt,
    Delivery,
    Message,
    attempt_records,
    body_of,
    message_record,
    state_record,
)
from transport import Exchange

HISTORY = 10_000  # finished deliveries to remember
MAX_PAST = 16_777_216  # bytes of the messages that are remembered only
MAX_RAW = 16_777_216  # bytes of requests and responses to remember
RAW_ATTEMPTS = 2_500  # attempts whose bytes are remembered, if they are short


class History:
    """Messages and their deliveries. Who changes it holds the lock of the office, and `newest` needs it, too.

    `waiting` is how many deliveries are not over, `bodies` how many bytes the messages have that wait for them.
    """

    def __init__(self) -> None:
        self.waiting = self.bodies = 0
        self._messages: dict[str, Message] = {}  # oldest first
        self._finished: deque[Delivery] = deque()  # oldest first
        self._past_bytes = 0  # of the messages of which nothing waits
        self._pings: dict[str, Delivery] = {}  # the newest of each URL
        self._raw: deque[Attempt] = deque()  # those with bytes, oldest first
        self._raw_bytes = 0

    # Messages come, and their deliveries end

    def add(self, message: Message, urls: list[str]) -> None:
        """A new message, with a delivery for each URL."""
        message.deliveries = [Delivery(message, index, url) for index, url in enumerate(urls)]
        message.left = message.open = len(urls)
        if not urls:
            return  # for nobody: nothing to remember
        self._messages[message.id] = message
        self.waiting += len(urls)
        self.bodies += len(message.body)
        if message.event == PING:
            self._pings.update((delivery.url, delivery) for delivery in message.deliveries if delivery)

    def finish(self, delivery: Delivery, state: str) -> None:
        """A delivery is over; what is older than the limits allow is forgotten."""
        delivery.state, delivery.due, delivery.manual = state, 0.0, False
        self._count_as_past(delivery.message)
        self._finished.append(delivery)
        while len(self._finished) > HISTORY or self._past_bytes > MAX_PAST:
            self._forget(self._finished.popleft())

    def _count_as_past(self, message: Message) -> None:
        self.waiting -= 1
        message.open -= 1
        if message.open == 0:
            self.bodies -= len(message.body)
            self._past_bytes += len(message.body)

    def _forget(self, old: Delivery) -> None:
        message = old.message
        message.deliveries[old.index] = None
        message.left -= 1
        if message.left == 0:
            self._past_bytes -= len(message.body)
            del self._messages[message.id]
        if self._pings.get(old.url) is old:
            del self._pings[old.url]

    def reopen(self, delivery: Delivery) -> None:
        """A delivery, over or not, is to be attempted once more."""
        if delivery.state not in OPEN:
            self._finished.remove(delivery)
            self.waiting += 1
            message = delivery.message
            if message.open == 0:
                self._past_bytes -= len(message.body)
                self.bodies += len(message.body)
            message.open += 1
        delivery.state, delivery.manual, delivery.due, delivery.error = PENDING, True, 0.0, None

    def keep_bytes(self, attempt: Attempt, exchange: Exchange) -> None:
        """Remember what passed in an attempt, at the expense of the oldest ones."""
        attempt.request, attempt.response, attempt.received = exchange.request, exchange.response, exchange.received
        self._raw.append(attempt)
        self._raw_bytes += len(exchange.request) + len(exchange.response)
        while self._raw_bytes > MAX_RAW or len(self._raw) > RAW_ATTEMPTS:
            old = self._raw.popleft()
            self._raw_bytes -= len(old.request or b"") + len(old.response or b"")
            old.request = old.response = None

    # Asking

    def find(self, delivery_id: str) -> Delivery | None:
        """The delivery with this id, if it is remembered."""
        name, _, index = delivery_id.removeprefix("dlv_").rpartition("_")
        message = self._messages.get("msg_" + name)
        if message is None or not index.isdecimal() or len(index) > 7 or int(index) >= len(message.deliveries):
            return None
        delivery = message.deliveries[int(index)]
        return delivery if delivery is not None and delivery.id == delivery_id else None

    def newest(self, matches: Callable[[Delivery], bool], limit: int, message_id: str) -> list[Delivery]:
        """The newest `limit` deliveries that match, newest first; of one message, if its id is given."""
        one = self._messages.get(message_id)
        messages = ([one] if one else []) if message_id else reversed(self._messages.values())
        newest = (d for message in messages for d in reversed(message.deliveries))
        return list(itertools.islice((d for d in newest if d is not None and matches(d)), limit))

    def newest_ping(self, url: str) -> Delivery | None:
        return self._pings.get(url)

    def open_deliveries(self) -> Iterator[Delivery]:
        """Those that are not over; they may be finished meanwhile."""
        for message in list(self._messages.values()):
            yield from [d for d in message.deliveries if d is not None and d.state in OPEN]

    # The journal's records, out and in

    def records(self) -> Iterator[bytes]:
        """All that is worth keeping, for a journal that starts anew; what is over in the order in which it ended."""
        finished = dict.fromkeys(self._finished)
        for message in list(self._messages.values()):  # copied in one step, and so are the deliveries of each
            deliveries = list(message.deliveries)
            yield message_record(message, [d.url if d else "" for d in deliveries])
            for delivery in deliveries:
                if delivery is not None:
                    yield from attempt_records(delivery)
                    if delivery not in finished:
                        yield state_record(delivery)
        for delivery in finished:
            yield state_record(delivery)

    def replay(self, record: dict[str, Any]) -> None:
        """Let what a record tells happen again. KeyError, TypeError, ValueError, AttributeError: it is not ours."""
        if "message" in record:
            self._replay_message(record)
        else:
            delivery = self.find(record["delivery"])
            if delivery is not None:  # else it is forgotten already
                self._replay_change(delivery, record)

    def _replay_message(self, record: dict[str, Any]) -> None:
        if record["message"] in self._messages:
            return
        body = record["body"]
        message = Message(record["message"], body["event"], record["time"], body_of(body["event"], body["data"]))
        self.add(message, record["urls"])
        for delivery in list(message.deliveries):
            if delivery is not None and not delivery.url:  # forgotten before the journal started anew
                self._count_as_past(message)
                self._forget(delivery)

    def _replay_change(self, delivery: Delivery, record: dict[str, Any]) -> None:
        if record.get("redeliver"):
            self.reopen(delivery)
        if record.get("attempt", 0) > len(delivery.attempts):  # else the journal had it already when it started anew
            attempt = Attempt(record["time"], record["duration"], record["status"], record["error"])
            delivery.attempts += (attempt,)
        delivery.confirmed = delivery.confirmed or record.get("confirmed", False)
        state = record.get("state")
        if state in OPEN and delivery.state in OPEN:
            delivery.state, delivery.due = state, record.get("due", 0.0)
            delivery.manual = delivery.manual and state != RETRYING  # a redelivery came when an attempt was under way
        elif state is not None and delivery.state in OPEN:
            delivery.error = record.get("error") if "attempt" not in record else None
            self.finish(delivery, state)
