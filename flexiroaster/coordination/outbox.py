"""An outbox: whoever has something to send goes on at once; one thread sends all that waits together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Generic, TypeVar

__all__ = ["Outbox"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Hashable)

RETRY_SECONDS = 1.0
"""How long what could not be sent waits for the next attempt."""


class Outbox(Generic[T]):
    """A bounded queue and its thread, which starts with the first item. Thread-safe; equal items are sent once.

    `send` gets all that waits and answers whether it could be sent; if not, it is tried again. `pace` (s) is the
    least time between two sendings: the first item goes out at once, and a flood in a few large batches.
    """

    def __init__(self, send: Callable[[Sequence[T]], bool], *, name: str, limit: int, pace: float = 0.0) -> None:
        self._send = send
        self._name = name
        self._limit = limit
        self._pace = pace
        self._items: dict[T, None] = {}
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def put(self, item: T) -> bool:
        """Leave an item to be sent; False when it was dropped, because too many wait or the outbox is closed."""
        with self._condition:
            if self._closing.is_set() or (len(self._items) >= self._limit and item not in self._items):
                return False
            self._items[item] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            else:
                self._condition.notify()
        return True

    def close(self, timeout: float = 2.0) -> None:
        """Send what waits, once, and end the thread; waits up to `timeout` (s) for that."""
        with self._condition:
            self._closing.set()
            self._condition.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while batch := self._take():
            started = monotonic()
            if self._sent(batch):
                self._closing.wait(max(0.0, started + self._pace - monotonic()))
            elif not self._closing.is_set():
                self._put_back(batch)
                self._closing.wait(RETRY_SECONDS)

    def _take(self) -> list[T]:
        """All that waits, once something does; nothing at the end."""
        with self._condition:
            while not self._items and not self._closing.is_set():
                self._condition.wait()
            batch = list(self._items)
            self._items.clear()
            return batch

    def _sent(self, batch: list[T]) -> bool:
        try:
            return self._send(batch)
        except Exception:  # whatever it was, the thread has to live
            logger.exception("%s: a batch of %d was lost", self._name, len(batch))
            return True

    def _put_back(self, batch: list[T]) -> None:
        with self._condition:
            self._items = {**dict.fromkeys(batch), **self._items}
