"""The parent's handles of its processes: a worker with its channel and output, and the fork server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGABRT, SIGKILL, SIGTERM, Signals
from typing import Any

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.workers.error_classes import clean, describe
from flexiroaster.workers.log_capture import LINE_BYTES, Budget, LineBuffer
from flexiroaster.workers.protocol import FrameReader, Log, Task, encode

__all__ = ["ForkServer", "RawOutput", "Worker", "death_of", "out_of_memory"]

BOOTSTRAP = (
    "import gc, sys; gc.disable(); descriptor, *sys.path[:] = sys.argv[1:]; del sys.argv[1:]; "
    "from flexiroaster.workers.fork_server import main; main(int(descriptor))"
)
"""Code of the fork server's `python -c`; its arguments are the control socket and our `sys.path`.

Imports create no garbage, so garbage collection would only take time.
"""

READ_BYTES = 64 * 1024
MAX_READS = 1024
PIPE_BYTES = 64 * 1024
SEND_SECONDS = 5.0
"""Time limit for sending a request that does not fit into the socket; the fork server reads between two forks."""

OUT_OF_MEMORY = b"memory allocation of "
"""Text that Rust's allocator writes before it aborts the process."""


class RawOutput:
    """Output of a worker and its child processes on descriptors 1 and 2, as lines of the attempt's log."""

    def __init__(self, descriptor: int, redact: Callable[[str], str]) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._redact = redact
        self._lines = LineBuffer(b"\n", b"\r", self._add_line)
        self._completed: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Start the next attempt: reset the limits and discard the unfinished line."""
        self._lines.clear()
        self.budget = Budget()
        self.out_of_memory = False

    def read(self, size: int = PIPE_BYTES) -> tuple[list[str], int]:
        """Read once; return the completed lines and the bytes read: 0 at the end, -1 if no data is available."""
        try:
            data = os.read(self.descriptor, size)
        except BlockingIOError:
            return [], -1
        self.out_of_memory = self.out_of_memory or OUT_OF_MEMORY in data
        self._lines.write(data, self.budget)
        return self._completed_lines(), len(data)

    def rest(self) -> list[str]:
        """Read all output so far, at most the capacity of a pipe, and return the lines."""
        lines, left, size = [], PIPE_BYTES, 1
        while left > 0 and size > 0:
            found, size = self.read(left)
            lines += found
            left -= size
        self._lines.flush()
        return lines + self._completed_lines()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def _add_line(self, line: bytes, cut: int) -> None:
        self.budget.dropped_bytes += cut
        text = clean(self._redact(line.decode(errors="replace")), LINE_BYTES)
        if self.budget.take(len(text.encode())):
            self._completed.append(f"{text} … [{cut:,} bytes cut]" if cut else text)

    def _completed_lines(self) -> list[str]:
        lines, self._completed = self._completed, []
        return lines


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process, from its fork request to its death. `pid` is None until it is forked."""

    number: int
    channel: socket.socket
    output: RawOutput
    pid: int | None = None
    ready: bool = False
    retired: bool = False  # takes no further task
    orphaned: bool = False  # the fork server is dead, so this worker's death is not reported
    finished: bool = False  # its channel is closed
    task: Task | None = None
    kill_error: dict[str, Any] | None = None  # the error it was killed with
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _reader: FrameReader = field(default_factory=FrameReader)
    _unsent: bytearray = field(default_factory=bytearray)
    _signal_due: bool = False

    def assign(self, task: Task) -> None:
        """Send the next task. Raises TypeError, and changes nothing, if the task is not JSON."""
        frame = encode({"t": "task", **{name: getattr(task, name) for name in Task.__slots__}})
        self.task = task
        self.started_at = datetime.now(UTC)
        self.output.begin()
        self._send(frame)

    def cancel(self) -> None:
        """Cancel its stage: send a frame with the attempt's key, then a signal once the frame is sent."""
        if self.task is not None:
            self._signal_due = True
            self._send(encode({"t": "cancel", "key": self.task.key}))

    def kill(self) -> None:
        """Kill the process and its child processes."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, SIGKILL)

    def dismiss(self) -> None:
        """Let the process end once it is idle."""
        self.retired = True
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def _send(self, encoded: bytes) -> None:
        """Send without waiting; `flush` sends the rest later."""
        self._unsent += encoded
        self.flush()

    def flush(self) -> None:
        """Send as much unsent data as the socket accepts."""
        with suppress(BlockingIOError, ConnectionError, ProcessLookupError):  # its death is reported elsewhere
            while self._unsent:
                del self._unsent[: self.channel.send(self._unsent)]
            if self._signal_due and self.pid is not None:
                self._signal_due = False
                os.kill(self.pid, SIGTERM)

    @property
    def waiting(self) -> bool:
        """Whether data is unsent."""
        return bool(self._unsent)

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the available frames; None if the channel is closed. Raises ValueError for invalid frames."""
        return _receive(self.channel, self._reader)

    def drain(self) -> list[dict[str, Any]]:
        """Read all remaining frames, up to MAX_READS reads."""
        frames: list[dict[str, Any]] = []
        with suppress(BlockingIOError, ConnectionError, ValueError):
            for _ in range(MAX_READS):
                if not (data := self.channel.recv(READ_BYTES)):
                    break
                frames += self._reader.feed(data)
        return frames

    def logs(self, lines: Sequence[str]) -> list[Log]:
        """Convert output lines to log messages of its attempt."""
        if self.task is None:
            return []
        at = datetime.now(UTC)
        return [Log(self.task.key, "info", line, at, "stdout") for line in lines]

    def close(self) -> None:
        """Close both descriptors."""
        self.channel.close()
        self.output.close()


def start_fork_server(control: socket.socket) -> subprocess.Popen[bytes]:
    """Start the fork server as a fresh interpreter that serves this end of its control socket."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", BOOTSTRAP, str(control.fileno()), *map(str, sys.path)],
        pass_fds=[control.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


class ForkServer:
    """The fork server and its control socket."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.control, theirs = socket.socketpair()
        self._reader = FrameReader()
        with theirs:
            self.process = start_fork_server(theirs)
        with suppress(ConnectionError):  # `receive` detects its death
            self.control.sendall(encode(setup))
        self.control.setblocking(False)

    def fork(self, number: int, clean: Sequence[Path]) -> tuple[socket.socket, int]:
        """Request a worker and return our ends of its channel and output. The worker deletes the folders in `clean`.

        Raises OSError if no descriptors are left or the fork server does not read.
        """
        channel, theirs = socket.socketpair()
        output, output_end = os.pipe()
        channel.setblocking(False)
        request = encode({"t": "fork", "worker": number, "clean": [str(folder) for folder in clean]})
        try:
            with suppress(ConnectionError):  # `receive` detects its death
                self._send(request, [theirs.fileno(), output_end])
        except OSError:
            channel.close()
            os.close(output)
            raise
        finally:
            theirs.close()
            os.close(output_end)
        return channel, output

    def _send(self, request: bytes, descriptors: Sequence[int]) -> None:
        """Send the whole request, waiting while the socket is full. Raises TimeoutError, which is an OSError."""
        self.control.settimeout(SEND_SECONDS)
        try:
            sent = socket.send_fds(self.control, [request], descriptors)
            self.control.sendall(memoryview(request)[sent:])
        except TimeoutError:
            self.process.kill()  # part of a request may be sent, and the next one would be read as its rest
            raise
        finally:
            self.control.setblocking(False)

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the available frames; None if the fork server has ended."""
        return _receive(self.control, self._reader)

    def close(self, timeout: float) -> int:
        """End the fork server and return its exit code; kill it after `timeout` seconds."""
        self.control.close()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _receive(connection: socket.socket, reader: FrameReader) -> list[dict[str, Any]] | None:
    try:
        data = connection.recv(READ_BYTES)
    except BlockingIOError:
        return []
    except ConnectionError:
        return None
    return reader.feed(data) if data else None


def death_of(worker: Worker, status: int | None) -> dict[str, Any]:
    """The error of an attempt whose process died. `status` is the exit code, minus the signal, or None if unknown."""
    limit = worker.task.memory_limit if worker.task else None
    if status == -SIGABRT and (worker.output.out_of_memory or limit is not None):
        return out_of_memory(limit)
    if status is None:
        message = "the stage's process was killed because the fork server of the stage processes died"
        return describe(StageError(message, ErrorClass.CRASH))
    if status >= 0:
        message = f"the stage's process ended with exit code {status}"
        return describe(StageError(message, ErrorClass.CRASH, exit_code=status))
    name = _signal_name(-status)
    hint = " (possibly by the kernel's out-of-memory killer)" if name == "SIGKILL" else ""
    message = f"the stage's process was killed by {name}{hint}"
    return describe(StageError(message, ErrorClass.CRASH, signal=name))


def out_of_memory(limit: int | None) -> dict[str, Any]:
    """The error of an attempt that ran out of memory; `limit` is in MiB."""
    allowed = "" if limit is None else f": the stage may use {limit} MiB"
    return describe(StageError(f"out of memory{allowed}", ErrorClass.RESOURCE))


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
