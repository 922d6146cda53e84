"""Log capture in a worker: prints, logging and warnings of a stage become log lines that are sent to the parent.

Lines are sent in batches, and none waits longer than 0.1 s. The first line after a quiet period is sent at once, so a
stage that prints one line needs no thread. The thread that sends delayed lines starts with the first line that has to
wait. Output of C code and child processes on descriptors 1 and 2 reaches the parent through a pipe.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import AnyStr, Generic, TextIO

from flexiroaster.workers.error_classes import TRACEBACK_BYTES, clean
from flexiroaster.workers.protocol import Cancellation, TaskChannel, encode

__all__ = ["LINE_BYTES", "Budget", "Capture", "LineBuffer"]

# Limits of an attempt's output, so that 100 MB of it do not fill the memory.
MAX_LINES = 2000
MAX_BYTES = 1024 * 1024
LINE_BYTES = 8 * 1024

FLUSH_BYTES = 32 * 1024
FLUSH_SECONDS = 0.1
STAGE_LOGGER = "flexiroaster.stage"

_LEVELS = (
    (logging.CRITICAL, "critical"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warning"),
    (logging.INFO, "info"),
)
_URGENT = frozenset({"critical", "error", "warning"})


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
        """Return whether a line of `size` bytes fits into the budget; otherwise count it as dropped."""
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

    @property
    def dropped(self) -> tuple[int, int]:
        """Number of dropped lines and bytes."""
        return self.dropped_lines, self.dropped_bytes


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
        self._buffered = 0
        self._cut = 0

    def write(self, data: AnyStr, budget: Budget) -> None:
        """Add a chunk and emit the lines that it completes."""
        start = 0
        while not budget.full:
            end = data.find(self._newline, start)
            if end < 0:
                self._buffer(data, start, len(data))
                return
            self._buffer(data, start, end)
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
        self._buffered = self._cut = 0

    def _buffer(self, data: AnyStr, start: int, end: int) -> None:
        restart = data.rfind(self._return, start, end)
        if start <= restart < end - 1:
            self.clear()
            start = restart + 1
        length = min(end - start, LINE_BYTES - self._buffered)
        if length > 0:
            self._parts.append(data[start : start + length])
            self._buffered += length
        self._cut += end - start - max(length, 0)


class Capture:
    """Collects and sends the log lines of one attempt at a time; lines between attempts are dropped."""

    def __init__(self, channel: TaskChannel, cancellation: Cancellation, redact: Callable[[str], str]) -> None:
        self._channel = channel
        self._shield = cancellation
        self._redact = redact
        self._lock = threading.RLock()
        self._key: str | None = None
        self._lines: list[tuple[float, str, str, str, str | None]] = []
        self._size = 0
        self._sent_at = 0.0
        self._flush_wanted: threading.Event | None = None
        self.budget = Budget()
        self._streams = (_Stream(self, "stdout", "info"), _Stream(self, "stderr", "warning"))
        self._handler = _Handler(self)
        os.register_at_fork(after_in_child=self._detach_child)

    def begin(self, key: str) -> None:
        """Start capturing for this attempt. Undoes changes of the last attempt to stdout and logging."""
        sys.stdout, sys.stderr = self._streams
        root = logging.getLogger()
        root.handlers = [self._handler]
        for logger, level in ((root, logging.INFO), (logging.getLogger(STAGE_LOGGER), logging.DEBUG)):
            if logger.level != level:  # setting it clears the caches of all loggers
                logger.setLevel(level)
        if root.manager.disable != logging.NOTSET:
            logging.disable(logging.NOTSET)
        warnings.showwarning = self._show_warning
        self.budget = Budget()
        self._key = key

    def end(self) -> tuple[int, int]:
        """Send the remaining lines; return the number of dropped (lines, bytes)."""
        for stream in self._streams:
            stream.finish()
        with self._shield, self._lock:
            self._send_lines()
            self._key = None
        return self.budget.dropped

    def add(
        self, level: str, logger: str, message: str, trace: str | None = None, at: float | None = None, cut: int = 0
    ) -> None:
        """Add one line. `at` is seconds since the epoch, `cut` the number of characters already cut off."""
        self.budget.dropped_bytes += cut
        if self._key is None or self.budget.full:
            self.budget.drop(1, len(message))
            return
        message = clean(self._redact(message), LINE_BYTES) + (f" … [{cut:,} characters cut]" if cut else "")
        trace = clean(self._redact(trace), TRACEBACK_BYTES, keep_end=True) if trace else None
        size = len(message.encode()) + len((trace or "").encode())
        with self._shield, self._lock:
            if self.budget.take(size):
                self._lines.append((time.time() if at is None else at, level, logger, message, trace))
                self._size += size
                self._send_or_wait(level)

    def progress(self, key: str, fraction: float | None, message: str) -> None:
        """Send the progress of an attempt, unless it has ended."""
        if key == self._key:
            message = clean(self._redact(message), LINE_BYTES)
            self.send(encode({"t": "progress", "key": key, "fraction": fraction, "message": message}))

    def send(self, encoded: bytes) -> None:
        """Send a frame after the pending lines."""
        with self._shield, self._lock:
            self._send_lines()
            self._write(encoded)

    def _send_or_wait(self, level: str) -> None:
        silent = time.monotonic() - self._sent_at
        if level in _URGENT or self._size > FLUSH_BYTES or silent >= FLUSH_SECONDS:
            self._send_lines()
            return
        if self._flush_wanted is None:
            self._flush_wanted = threading.Event()
            threading.Thread(
                target=self._send_late, args=(self._flush_wanted,), name="flexiroaster-log", daemon=True
            ).start()
        self._flush_wanted.set()

    def _send_late(self, wanted: threading.Event) -> None:
        while wanted.wait():
            time.sleep(FLUSH_SECONDS)
            wanted.clear()
            with self._lock:
                self._send_lines()

    def _send_lines(self) -> None:
        if self._lines:
            lines, self._lines, self._size = self._lines, [], 0
            self._sent_at = time.monotonic()
            self._write(encode({"t": "logs", "key": self._key, "lines": lines}))

    def _write(self, encoded: bytes) -> None:
        try:
            self._channel.socket.sendall(encoded)
        except ConnectionError:
            os._exit(1)  # the parent has ended, so the rest has no reader

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG002 - the signature is Python's
        line: str | None = None,  # noqa: ARG002 - the signature is Python's
    ) -> None:
        self.add("warning", "py.warnings", f"{category.__name__}: {message} ({filename}:{lineno})")

    def _detach_child(self) -> None:
        """Detach a process that the stage's code forked: it must not send messages for the worker."""
        self._channel.socket.close()
        self._key = None
        sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - a descriptor that stays open
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - a descriptor that stays open
        logging.getLogger().handlers = [logging.StreamHandler(sys.stderr)]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Stream(io.TextIOBase):
    """Replacement for `sys.stdout` or `sys.stderr` in stage code."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, capture: Capture, name: str, level: str) -> None:
        self._capture = capture
        self._descriptor = 1 if name == "stdout" else 2
        self.name = f"<{name}>"
        self._logger, self._level = name, level
        self._buffer = LineBuffer("\n", "\r", self._emit)
        self._lock = threading.RLock()
        self.buffer = io.FileIO(self._descriptor, "w", closefd=False)

    def write(self, text: str) -> int:
        """Write text: complete lines go to the log, the rest is buffered."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        budget = self._capture.budget
        if budget.full:  # fast path for a stage that prints millions of lines
            budget.drop(text.count("\n"), len(text))
            return len(text)
        with self._lock:
            self._buffer.write(text, budget)
        return len(text)

    def finish(self) -> None:
        """Log the last line if it has no newline."""
        with self._lock:
            self._buffer.flush()

    def fileno(self) -> int:
        """The descriptor for child processes, whose output also goes to the stage's log."""
        return self._descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def _emit(self, line: str, cut: int) -> None:
        self._capture.add(self._level, self._logger, line, cut=cut)


class _Handler(logging.Handler):
    """Logging handler that writes to the stage's log."""

    _formatter = logging.Formatter()

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self._capture = capture

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record; like Python, report a record that cannot be formatted on stderr."""
        try:
            message = record.getMessage()
            trace = self._formatter.formatException(record.exc_info) if record.exc_info else record.stack_info
        except Exception:  # noqa: BLE001 - an exception in a log argument must not end the stage
            self.handleError(record)
            return
        level = next((name for minimum, name in _LEVELS if record.levelno >= minimum), "debug")
        self._capture.add(level, record.name, message, trace, record.created)
