"""Log lines: splits the output of a stage into lines within limits, so that 100 MB of output do not fill the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import AnyStr, Generic

__all__ = ["LINE_BYTES", "Budget", "LineBuffer"]

MAX_LINES = 2000
MAX_BYTES = 1024 * 1024
LINE_BYTES = 8 * 1024


class Budget:
    """Output limit of one attempt: 2,000 lines and 1 MiB; anything beyond is only counted."""

    __slots__ = ("bytes_left", "dropped_bytes", "dropped_lines", "full", "lines_left")

    def __init__(self) -> None:
        self.lines_left = MAX_LINES
        self.bytes_left = MAX_BYTES
        self.full = False
        self.dropped_lines = 0
        self.dropped_bytes = 0

    def take(self, size: int) -> bool:
        """Return whether a line of `size` bytes is kept; otherwise count it as dropped."""
        if self.full or self.lines_left < 1 or size > self.bytes_left:
            self.full = True
            self.drop(1, size)
            return False
        self.lines_left -= 1
        self.bytes_left -= size
        return True

    def drop(self, lines: int, size: int) -> None:
        """Count dropped lines and bytes."""
        self.dropped_lines += lines
        self.dropped_bytes += size


class LineBuffer(Generic[AnyStr]):
    """Splits text or bytes into lines. A carriage return restarts the line, as in a terminal.

    It buffers at most LINE_BYTES. `emit(line, cut)` is called with each line and the number of characters (or bytes)
    beyond that limit. Once the budget is used up, lines are only counted.
    """

    def __init__(self, newline: AnyStr, carriage_return: AnyStr, emit: Callable[[AnyStr, int], None]) -> None:
        self._newline: AnyStr = newline
        self._return: AnyStr = carriage_return
        self._empty: AnyStr = newline[:0]
        self._emit: Callable[[AnyStr, int], None] = emit
        self._parts: list[AnyStr] = []
        self._held = 0
        self._cut = 0

    def write(self, data: AnyStr, budget: Budget) -> None:
        """Add a chunk and emit the lines that it completes."""
        start = 0
        while not budget.full:
            end = data.find(self._newline, start)
            if end < 0:
                self._hold(data, start, len(data))
                return
            self._hold(data, start, end)
            self.flush(ended=True)
            start = end + 1
        budget.drop(data.count(self._newline, start), len(data) - start)

    def flush(self, *, ended: bool = False) -> None:
        """Emit the buffered line if it `ended` or is not empty."""
        if not (ended or self._parts):
            return
        line, cut = self._empty.join(self._parts), self._cut
        self.clear()
        self._emit(line.rstrip(self._return).rpartition(self._return)[2], cut)

    def clear(self) -> None:
        """Discard the buffered line."""
        self._parts.clear()
        self._held = self._cut = 0

    def _hold(self, data: AnyStr, start: int, end: int) -> None:
        restart = data.rfind(self._return, start, end)
        if start <= restart < end - 1:
            self.clear()
            start = restart + 1
        kept = min(end - start, LINE_BYTES - self._held)
        if kept > 0:
            self._parts.append(data[start : start + kept])
            self._held += kept
        self._cut += end - start - max(kept, 0)
