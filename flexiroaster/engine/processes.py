"""The parent's ends of its processes: one worker with its channel and output, and the zygote that forks them."""

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

from flexiroaster.engine.failures import clean, describe
from flexiroaster.engine.frames import FrameReader, encode
from flexiroaster.engine.lines import LINE_BYTES, Budget, LineBuffer
from flexiroaster.engine.messages import Log, Task
from flexiroaster.errors import ErrorClass, StageError

__all__ = ["RawOutput", "Worker", "Zygote", "death_of", "out_of_memory"]

BOOTSTRAP = (
    "import gc, sys; gc.disable(); descriptor, *sys.path[:] = sys.argv[1:]; del sys.argv[1:]; "
    "from flexiroaster.engine.zygote import main; main(int(descriptor))"
)
"""What the zygote's `python -c` runs: its arguments are the control socket and our `sys.path`.

Nothing is garbage while it imports, so that looking for it would only take time.
"""

READ_BYTES = 64 * 1024
MAX_READS = 1024
PIPE_BYTES = 64 * 1024
SEND_SECONDS = 5.0
"""How long the zygote may take to read a request that does not fit into the socket; it reads between two forks."""

OUT_OF_MEMORY = b"memory allocation of "
"""What Rust's allocator writes before it aborts the process."""


class RawOutput:
    """What a worker and its child processes write to the descriptors 1 and 2, as lines of the attempt's log."""

    def __init__(self, descriptor: int, redact: Callable[[str], str]) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._redact = redact
        self._lines = LineBuffer(b"\n", b"\r", self._take)
        self._found: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Another attempt: with its own limits, and without a line of the one before."""
        self._lines.clear()
        self.budget = Budget()
        self.starved = False

    def read(self, size: int = PIPE_BYTES) -> tuple[list[str], int]:
        """The lines that are complete now, and the bytes read: 0 at the end, -1 when there is nothing yet."""
        try:
            data = os.read(self.descriptor, size)
        except BlockingIOError:
            return [], -1
        self.starved = self.starved or OUT_OF_MEMORY in data
        self._lines.write(data, self.budget)
        return self._taken(), len(data)

    def rest(self) -> list[str]:
        """Everything that has been written up to now; at most what a pipe holds."""
        lines, left = [], PIPE_BYTES
        while left > 0:
            found, size = self.read(left)
            lines += found
            if size <= 0:
                break
            left -= size
        self._lines.flush()
        return lines + self._taken()

    @property
    def dropped(self) -> tuple[int, int]:
        """Lines and bytes beyond the limits of this attempt."""
        return self.budget.dropped_lines, self.budget.dropped_bytes

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def _take(self, line: bytes, cut: int) -> None:
        self.budget.dropped_bytes += cut
        text = clean(self._redact(line.decode(errors="replace")), LINE_BYTES)
        if self.budget.take(len(text.encode())):
            self._found.append(f"{text} … [{cut:,} bytes cut]" if cut else text)

    def _taken(self) -> list[str]:
        found, self._found = self._found, []
        return found


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process, from the request to fork it to its death. `pid` is None until it is forked."""

    number: int
    channel: socket.socket
    output: RawOutput
    pid: int | None = None
    ready: bool = False
    retired: bool = False  # takes no further task
    orphaned: bool = False  # the zygote is gone, its death will not be reported
    finished: bool = False  # its channel has ended
    task: Task | None = None
    fate: dict[str, Any] | None = None  # the error it was killed with
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _reader: FrameReader = field(default_factory=FrameReader)
    _unsent: bytearray = field(default_factory=bytearray)
    _signal_due: bool = False

    def assign(self, task: Task) -> None:
        """Give it its next attempt. Raises TypeError, and changes nothing, when the task is not JSON."""
        frame = encode({"t": "task", **{name: getattr(task, name) for name in Task.__slots__}})
        self.task = task
        self.started_at = datetime.now(UTC)
        self.output.begin()
        self._send(frame)

    def cancel(self) -> None:
        """Ask its stage to end: with a frame that names it, and a signal when the frame is on its way."""
        if self.task is not None:
            self._signal_due = True
            self._send(encode({"t": "cancel", "key": self.task.key}))

    def kill(self) -> None:
        """End it, and what it started, now."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, SIGKILL)

    def dismiss(self) -> None:
        """Let it end when it has nothing more to do."""
        self.retired = True
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def _send(self, encoded: bytes) -> None:
        """Send without waiting; what does not go now goes with `flush`."""
        self._unsent += encoded
        self.flush()

    def flush(self) -> None:
        """Send what is left to send, as far as it goes."""
        with suppress(BlockingIOError, ConnectionError, ProcessLookupError):  # its death is reported otherwise
            while self._unsent:
                del self._unsent[: self.channel.send(self._unsent)]
            if self._signal_due and self.pid is not None:
                self._signal_due = False
                os.kill(self.pid, SIGTERM)

    @property
    def waiting(self) -> bool:
        """Whether there is something left to send."""
        return bool(self._unsent)

    def receive(self) -> list[dict[str, Any]] | None:
        """The frames that are there; None when there will be no more. Raises ValueError for what is no frame."""
        try:
            data = self.channel.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return self._reader.feed(data) if data else None

    def drain(self) -> list[dict[str, Any]]:
        """All frames that are still there, within reason."""
        frames: list[dict[str, Any]] = []
        with suppress(BlockingIOError, ConnectionError, ValueError):
            for _ in range(MAX_READS):
                if not (data := self.channel.recv(READ_BYTES)):
                    break
                frames += self._reader.feed(data)
        return frames

    def logs(self, lines: Sequence[str]) -> list[Log]:
        """Lines of its output as messages of its attempt."""
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


class Zygote:
    """The zygote's process and the control socket to it."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.control, theirs = socket.socketpair()
        self._reader = FrameReader()
        with theirs:
            self.process = start_fork_server(theirs)
        with suppress(ConnectionError):  # that it died shows when it is read
            self.control.sendall(encode(setup))
        self.control.setblocking(False)

    def fork(self, number: int, clean: Sequence[Path]) -> tuple[socket.socket, int]:
        """Ask for a worker; our ends of its channel and of its output. `clean` are folders it is to remove.

        Raises OSError when there are no descriptors left or the zygote does not listen.
        """
        channel, theirs = socket.socketpair()
        output, output_end = os.pipe()
        channel.setblocking(False)
        request = encode({"t": "fork", "worker": number, "clean": [str(folder) for folder in clean]})
        try:
            with suppress(ConnectionError):  # that it died shows when it is read
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
        """Send all of the request, waiting where the socket is full. Raises TimeoutError, which is an OSError."""
        self.control.settimeout(SEND_SECONDS)
        try:
            sent = socket.send_fds(self.control, [request], descriptors)
            self.control.sendall(memoryview(request)[sent:])
        except TimeoutError:
            self.process.kill()  # part of a request may be there, and whatever followed would be taken for its rest
            raise
        finally:
            self.control.setblocking(False)

    def receive(self) -> list[dict[str, Any]] | None:
        """The frames that are there; None when it is gone."""
        try:
            data = self.control.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return self._reader.feed(data) if data else None

    def close(self, timeout: float) -> int:
        """End it and wait for that, `timeout` seconds for its own doing; its exit code."""
        self.control.close()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def death_of(worker: Worker, status: int | None) -> dict[str, Any]:
    """The error of an attempt whose process died: `status` is its exit code, or minus the signal, if it is known."""
    limit = worker.task.memory_limit if worker.task else None
    if status == -SIGABRT and (worker.output.starved or limit is not None):
        return out_of_memory(limit)
    if status is None:
        message = "the stage's process was killed, because the process that starts the stages' processes died"
        return describe(StageError(message, ErrorClass.CRASH))
    if status >= 0:
        message = f"the stage's process ended with exit code {status}"
        return describe(StageError(message, ErrorClass.CRASH, exit_code=status))
    name = _signal_name(-status)
    hint = " (the kernel's out-of-memory killer does that, too)" if name == "SIGKILL" else ""
    message = f"the stage's process was killed by {name}{hint}"
    return describe(StageError(message, ErrorClass.CRASH, signal=name))


def out_of_memory(limit: int | None) -> dict[str, Any]:
    """The error of an attempt that got no more memory; `limit` is MiB."""
    allowed = "" if limit is None else f": the stage may use {limit} MiB"
    return describe(StageError(f"out of memory{allowed}", ErrorClass.RESOURCE))


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
