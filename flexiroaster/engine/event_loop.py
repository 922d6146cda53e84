"""The inbox: a thread-safe queue of actions for the driver's event loop."""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Inbox"]


class Inbox:
    """Queue of actions. Any thread may `post`, which wakes the loop that waits in `selector` and then calls `run`."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._actions: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        selector.register(self._woken, selectors.EVENT_READ, self._drain)

    def post(self, action: Callable[[], None]) -> None:
        """Queue `action` for the loop and wake it."""
        self._actions.append(action)
        with suppress(OSError):  # a full socket wakes the loop too; a closed one needs no wake-up
            self._wake.send(b"\0")

    def run(self) -> None:
        """Run all queued actions, on the loop's thread."""
        while self._actions:
            self._actions.popleft()()

    def close(self) -> None:
        """Close the wake-up sockets."""
        self._wake.close()
        self._woken.close()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
