"""Cancellation of a running stage: SIGTERM raises `StageCancelled` in it.

The parent first writes a cancel frame with the attempt's key and then sends the signal; only both together cancel. A
SIGTERM that a service manager sends to the whole process group ends no stage: the parent receives it too and decides.
A request that arrives before the stage starts is read from the channel; a late request has the key of another attempt.
"""

from __future__ import annotations

import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Any

from flexiroaster.engine.frames import FrameReader
from flexiroaster.workers.error_classes import StageCancelled

__all__ = ["Cancellation", "TaskChannel"]


class TaskChannel:
    """The read side of the worker's channel: tasks, and requests to cancel them."""

    def __init__(self, channel: socket.socket) -> None:
        self.socket = channel
        self._reader = FrameReader()
        self._tasks: list[dict[str, Any]] = []
        self._cancelled: set[str] = set()

    def next_task(self) -> dict[str, Any] | None:
        """Wait for the next task; None if the parent has closed the channel."""
        while not self._tasks:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._take(data)
        self._cancelled.intersection_update([self._tasks[0]["key"]])
        return self._tasks.pop(0)

    def is_cancelled(self, key: str) -> bool:
        """Whether a request to cancel this attempt has arrived; does not wait."""
        try:
            while data := self.socket.recv(65536, socket.MSG_DONTWAIT):
                self._take(data)
        except (BlockingIOError, ConnectionError):
            pass
        return key in self._cancelled

    def _take(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            if frame["t"] == "task":
                self._tasks.append(frame)
            else:
                self._cancelled.add(frame["key"])


class Cancellation:
    """Turns SIGTERM into `StageCancelled` while an attempt runs, except inside `with cancellation:`.

    This shield prevents half-written frames. It applies to the main thread, which handles the signals.
    """

    def __init__(self, channel: TaskChannel) -> None:
        self._channel = channel
        self._key: str | None = None
        self._depth = 0
        self._waiting = False
        self._main = threading.get_ident()
        self.raised = False

    def begin(self, key: str) -> None:
        """Start an attempt. Raises StageCancelled if it is already cancelled."""
        self.raised = self._waiting = False
        signal.signal(signal.SIGTERM, self._handle)  # each time, because stage code may have set its own handler
        self._key = key
        self._check()

    def end(self) -> None:
        """End the attempt; from now on nothing is raised."""
        self._key = None

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._waiting and not self._depth:
            self._check()

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self._depth:
            self._waiting = True
        elif self._key is not None:
            self._check()

    def _check(self) -> None:
        """Raise once if the running attempt was cancelled. Signals that arrive meanwhile cause another check."""
        cancelled, self._waiting = False, True
        while self._waiting and not cancelled:
            self._waiting = False
            self._depth += 1
            cancelled = self._key is not None and not self.raised and self._channel.is_cancelled(self._key)
            self._depth -= 1
        if cancelled:
            self.raised = True
            raise StageCancelled
