"""The inbox of the driver's loop: what other threads want done there."""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Inbox"]


class Inbox:
    """Any thread may `post`; that wakes the loop, which waits in `selector` and then calls `run`."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._actions: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        selector.register(self._woken, selectors.EVENT_READ, self._drain)

    def post(self, action: Callable[[], None]) -> None:
        """Have the loop call `action`."""
        self._actions.append(action)
        with suppress(OSError):  # a full pipe wakes it as well; a closed one needs no waking
            self._wake.send(b"\0")

    def run(self) -> None:
        """Call all that waits, on the loop's thread."""
        while self._actions:
            self._actions.popleft()()

    def close(self) -> None:
        """Nothing wakes the loop any more."""
        self._wake.close()
        self._woken.close()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
