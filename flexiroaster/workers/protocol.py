"""Messages between the driver and stage processes: tasks to them; log lines, progress and results from them."""

from __future__ import annotations

import signal
import socket
import tempfile
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import orjson

from flexiroaster.artifacts.store import SCRATCH, Artifacts
from flexiroaster.errors import SettingsError
from flexiroaster.operators.base import Access
from flexiroaster.workers.error_classes import StageCancelled

__all__ = [
    "Cancellation",
    "Ended",
    "FrameReader",
    "Log",
    "Message",
    "Progress",
    "Setup",
    "Task",
    "TaskChannel",
    "encode",
]


MAX_FRAME_BYTES = 512 * 1024**2
_PREFIX = 4
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


# --- frames: JSON messages over a stream socket, each prefixed with its length in four bytes ----------------------


def encode(message: Mapping[str, Any]) -> bytes:
    """Encode one frame. Raises TypeError if the message is not JSON; dates, UUIDs and numpy values are allowed."""
    body = orjson.dumps(message, option=_OPTIONS)
    return len(body).to_bytes(_PREFIX, "big") + body


class FrameReader:
    """Reassembles frames from the chunks of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Add a chunk and return the messages it completes. Raises ValueError for invalid frames."""
        self._buffer += data
        messages: list[dict[str, Any]] = []
        start = 0
        while (body := start + _PREFIX) <= len(self._buffer):
            length = int.from_bytes(self._buffer[start:body], "big")
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length:,} bytes is too large")
            end = body + length
            if end > len(self._buffer):
                break
            messages.append(orjson.loads(memoryview(self._buffer)[body:end]))
            start = end
        del self._buffer[:start]
        return messages


# --- messages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt to run. `key` is unique per attempt; all values are JSON.

    `inputs` are the outputs of the upstream stages (with an artifact's summary if they have a table), in the order of
    the dependencies. `memory_limit` is MiB that the attempt may add to an idle worker.
    """

    key: str
    execution_id: str
    pipeline_name: str
    stage_id: str
    attempt: int
    stage_type: str
    config: Mapping[str, Any]
    variables: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]]
    memory_limit: int | None = None
    token: int = 0
    undo: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """A line that a stage printed or logged. `level` is a `Level` value; output of C code has the logger `stdout`."""

    key: str
    level: str
    message: str
    at: datetime
    logger: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress that a stage reports: `fraction` is 0..1, or None if unknown."""

    key: str
    fraction: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last message of an attempt. Exactly one of `output` and `error` is set.

    `output` is the summary of the stage's artifact (empty without a table), plus `report`, `side_tables` (name ->
    summary) and `effect` if the stage has them. `error` is the result of `describe`, or the error that the
    attempt was killed with. `log_dropped` is the number of lines and bytes beyond the limits of a stage's output.
    """

    key: str
    output: dict[str, Any] | None
    error: dict[str, Any] | None
    started_at: datetime
    ended_at: datetime
    log_dropped: tuple[int, int] = (0, 0)


Message = Log | Progress | Ended


# --- tasks and cancellation, in the worker ----------------------------------------------------------------------


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
            self._add(data)
        self._cancelled.intersection_update([self._tasks[0]["key"]])
        return self._tasks.pop(0)

    def is_cancelled(self, key: str) -> bool:
        """Whether a request to cancel this attempt has arrived; does not wait."""
        try:
            while data := self.socket.recv(65536, socket.MSG_DONTWAIT):
                self._add(data)
        except (BlockingIOError, ConnectionError):
            pass
        return key in self._cancelled

    def _add(self, data: bytes) -> None:
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


# --- setup: the fork server's first message, never the environment -----------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup:
    """Configuration of a runner's workers; `work` is the parent folder of their scratch folders."""

    access: Access
    artifacts_url: str
    cache: str
    work: str

    @classmethod
    def new(cls, access: Access, artifacts_url: str) -> Self:
        """Create a setup with a new scratch folder, next to the local artifacts, where large files have space.

        Raises SettingsError if the folder is not writable.
        """
        url = artifacts_url if "://" in artifacts_url else str(Path(artifacts_url).absolute())
        artifacts = Artifacts(url)
        try:
            artifacts.folder.mkdir(parents=True, exist_ok=True)
            work = tempfile.mkdtemp(prefix=SCRATCH, dir=artifacts.folder)
        except OSError as error:
            raise SettingsError(f"ARTIFACTS_URL: cannot write to {artifacts.folder}: {error}") from error
        return cls(access, url, str(artifacts.cache), work)

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Self:
        """Create a setup from the result of `message`."""
        access: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in message["access"].items()}
        return cls(Access(**access), message["artifacts_url"], message["cache"], message["work"])

    def message(self) -> dict[str, Any]:
        """The setup as JSON."""
        access = {field.name: _plain(getattr(self.access, field.name)) for field in fields(self.access)}
        return {"access": access, "artifacts_url": self.artifacts_url, "cache": self.cache, "work": self.work}


def _plain(value: str | Mapping[str, str] | Collection[str]) -> str | dict[str, str] | list[str]:
    if isinstance(value, str):
        return value
    return dict(value) if isinstance(value, Mapping) else list(value)
