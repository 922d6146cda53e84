"""An outbox: callers queue items without blocking, and one thread sends all queued items as a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Generic, TypeVar

from flexiroaster.threads import SupervisedThread, Threads

__all__ = ["Outbox"]

T = TypeVar("T", bound=Hashable)

RETRY_SECONDS = 1.0
"""Seconds between a failed send and the next attempt."""


class Outbox(Generic[T]):
    """A bounded queue and its thread, which starts with the first item. Thread-safe; equal items are sent once.

    `send` gets all queued items and returns whether they were sent; if not, they are sent again later. If `send`
    raises, the batch is lost. `pace` (s) is the minimum time between two batches: the first item is sent at once, and a
    flood in a few large batches.
    """

    def __init__(
        self,
        send: Callable[[Sequence[T]], bool],
        *,
        name: str,
        limit: int,
        pace: float = 0.0,
        threads: Threads | None = None,
    ) -> None:
        self._send = send
        self._name = name
        self._limit = limit
        self._pace = pace
        self._threads = threads
        self._items: dict[T, None] = {}
        self._condition = threading.Condition()
        self._thread: SupervisedThread | None = None
        self._closing = threading.Event()

    def put(self, item: T) -> bool:
        """Queue an item; return False if it was dropped because the queue is full or the outbox is closed."""
        with self._condition:
            if self._closing.is_set() or (len(self._items) >= self._limit and item not in self._items):
                return False
            self._items[item] = None
            if self._thread is None:
                self._thread = SupervisedThread(
                    self._turn,
                    name=self._name,
                    closed=self._closing,
                    threads=self._threads,
                    purpose=f"{self._name} lost a batch that it could not send",
                    pause=self._pace,
                ).start()
            else:
                self._condition.notify()
        return True

    def close(self, timeout: float = 2.0) -> None:
        """Try once to send the queued items, and end the thread. Blocks for up to `timeout` (s)."""
        with self._condition:
            self._closing.set()
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _turn(self) -> bool:
        """Wait for items and send them; return False at the end."""
        batch = self._take()
        if not batch:
            return False
        started = monotonic()
        if self._send(batch):
            self._closing.wait(max(0.0, started + self._pace - monotonic()))
        elif not self._closing.is_set():
            self._put_back(batch)
            self._closing.wait(RETRY_SECONDS)
        return True

    def _take(self) -> list[T]:
        """Wait for items and take them all; return none at the end."""
        with self._condition:
            while not self._items and not self._closing.is_set():
                self._condition.wait()
            batch = list(self._items)
            self._items.clear()
            return batch

    def _put_back(self, batch: list[T]) -> None:
        with self._condition:
            self._items = {**dict.fromkeys(batch), **self._items}
