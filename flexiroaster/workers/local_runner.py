"""The runner: the pool of worker processes that run stage attempts for the driver.

One thread calls all methods, and none of them blocks: the runner's sockets and pipes are registered in the driver's
selector, with their handler as `data`. Every started attempt ends with exactly one `Ended`, after all its log lines and
progress: when it returns, raises, is cancelled or killed, when its process dies, and when the runner is closed.
"""

from __future__ import annotations

import selectors
import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.redaction import redactor
from flexiroaster.operators.base import Access
from flexiroaster.workers.error_classes import StageCancelled, describe
from flexiroaster.workers.protocol import Ended, Log, Message, Progress, Setup, Task
from flexiroaster.workers.worker_handle import ForkServer, RawOutput, Worker, death_of, out_of_memory

__all__ = ["Runner"]

MAX_FAILED_STARTS = 3
"""Waiting attempts fail after this number of consecutive processes that died before they were ready."""

CLOSE_SECONDS = 2.0
"""Time that killed processes have to exit when the runner is closed."""


class Runner:
    """Runs attempts in `size` worker processes. Starts the fork server that forks them, without waiting for it.

    `artifacts_url` is a folder or fsspec URL. `deliver` is called with every message, from the handlers registered in
    `selector` (`for key, _ in selector.select(): key.data()`) and from `close`. Raises SettingsError if the folder is
    not writable.
    """

    def __init__(
        self,
        *,
        size: int,
        access: Access,
        artifacts_url: str,
        selector: selectors.BaseSelector,
        deliver: Callable[[Message], None],
    ) -> None:
        self._size = size
        self._selector = selector
        self._deliver = deliver
        self._redact = redactor(access)
        self._setup = Setup.new(access, artifacts_url)
        self._fork_server: ForkServer | None = None
        self._workers: dict[int, Worker] = {}
        self._idle: list[Worker] = []  # last in, first out: its caches are warm
        self._running: dict[str, Worker] = {}
        self._waiting: dict[str, Task] = {}
        self._ended_early: deque[Ended] = deque()  # delivered in the next turn, not inside a call
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._deliver_early)
        self._number = 0
        self._clean: list[Path] = []
        self._failed_starts = 0
        self._closing = False
        self._fill()

    @property
    def free(self) -> int:
        """Number of attempts that can start now without waiting for a process.

        While no process can be started, it is the number of unused slots, so that an attempt fails with the reason.
        """
        if self._failed_starts >= MAX_FAILED_STARTS:
            return self._size - len(self._running) - len(self._waiting)
        return len(self._idle)

    def start(self, task: Task) -> None:
        """Run an attempt as soon as a process is free. Raises ValueError if the key already runs."""
        if task.key in self._running or task.key in self._waiting:
            raise ValueError(f"attempt {task.key!r} has already been started")
        self._waiting[task.key] = task
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._failed_starts = 0
        self._assign()
        self._fill()

    def cancel(self, key: str) -> None:
        """Cancel an attempt: `StageCancelled` is raised in it. A no-op if it has ended."""
        if key in self._waiting:
            self._end_early(key, describe(StageCancelled()))
        elif key in self._running:
            worker = self._running[key]
            worker.cancel()
            self._watch_for_writing(worker)

    def kill(self, key: str, error: Mapping[str, Any]) -> None:
        """Kill an attempt's process and its child processes; the attempt ends with `error`.

        A no-op if the attempt has ended.
        """
        if key in self._waiting:
            self._end_early(key, dict(error))
        elif key in self._running:
            worker = self._running[key]
            worker.kill_error = worker.kill_error or dict(error)
            worker.kill()

    def kill_processes(self) -> None:
        """Kill every process that runs an attempt. The only method that any thread may call, as it changes no state."""
        for worker in self._workers.copy().values():  # the driver's thread changes it meanwhile
            if worker.task is not None:
                worker.kill()

    def close(self, grace: float = 1.0) -> None:
        """Close the runner: cancel attempts, kill them after `grace` seconds, remove all processes and files."""
        if self._closing:
            return
        self._closing = True
        self._use_own_selector()
        for key in tuple(self._waiting):
            self._end_early(key, _closed())
        for worker in tuple(self._workers.values()):
            worker.cancel() if worker.task else worker.dismiss()
        self._handle_events_until(lambda: not self._running, grace)
        for worker in tuple(self._workers.values()):
            worker.kill_error = worker.kill_error or _closed()
            worker.kill()
        self._handle_events_until(lambda: not self._workers, CLOSE_SECONDS)
        for worker in tuple(self._workers.values()):
            self._clean_up_dead_worker(worker, None)
        self._deliver_early()
        if self._fork_server is not None:
            self._fork_server.close(timeout=1.0)
            self._fork_server = None
        self._selector.close()
        self._wake.close()
        self._woken.close()
        shutil.rmtree(self._setup.work, ignore_errors=True)

    # --- processes -------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start the missing workers, and first the fork server if there is none."""
        missing = self._size - sum(not worker.retired for worker in self._workers.values())
        try:
            while missing > 0 and not self._closing and self._failed_starts < MAX_FAILED_STARTS:
                if self._fork_server is None:
                    self._fork_server = ForkServer(self._setup.message())
                    self._selector.register(self._fork_server.control, selectors.EVENT_READ, self._handle_fork_server)
                self._fork_worker(self._fork_server)
                missing -= 1
        except OSError as error:
            self._failed_starts = MAX_FAILED_STARTS
            self._fail_waiting(str(error))

    def _fork_worker(self, fork_server: ForkServer) -> None:
        clean, self._clean = self._clean, []
        self._number += 1
        channel, output = fork_server.fork(self._number, clean)
        worker = Worker(self._number, channel, RawOutput(output, self._redact))
        self._workers[worker.number] = worker
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._read_channel(worker))
        self._selector.register(output, selectors.EVENT_READ, lambda: self._read_output(worker))

    def _handle_fork_server(self) -> None:
        frames = self._fork_server.receive() if self._fork_server else None
        if frames is None:
            self._replace_fork_server()
            return
        for frame in frames:
            if frame["t"] == "died":
                dead = next((w for w in self._workers.values() if w.pid == frame["pid"]), None)
                if dead is not None:
                    self._clean_up_dead_worker(dead, frame["status"])
            elif (worker := self._workers.get(frame["worker"])) is not None:
                if frame["t"] == "forked":
                    worker.pid = frame["pid"]
                    self._assign()
                else:
                    self._failed_to_start(frame["error"])
                    self._clean_up_dead_worker(worker, None)

    def _replace_fork_server(self) -> None:
        """Replace a dead fork server. Its workers die with it, which closes their channels."""
        dead, self._fork_server = self._fork_server, None
        if dead is None:
            return
        self._selector.unregister(dead.control)
        status = dead.close(timeout=1.0)
        if not any(worker.ready for worker in self._workers.values()):
            self._failed_to_start(f"exit code {status}")
        for worker in tuple(self._workers.values()):
            worker.orphaned = worker.retired = True
            worker.kill()
            if worker in self._idle:
                self._idle.remove(worker)
            if worker.finished:
                self._clean_up_dead_worker(worker, None)
        self._fill()

    def _failed_to_start(self, why: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._fail_waiting(why)

    def _fail_waiting(self, why: str) -> None:
        error = describe(StageError(f"cannot start a process for the stage: {why}", ErrorClass.CRASH))
        for key in tuple(self._waiting):
            self._end_early(key, error)

    def _clean_up_dead_worker(self, worker: Worker, status: int | None) -> None:
        """Clean up after a dead process: deliver its last messages, end its attempt, replace it."""
        worker.retired = True
        if worker in self._idle:
            self._idle.remove(worker)
        for frame in worker.drain():
            self._handle_frame(worker, frame)
        task, error = worker.task, worker.kill_error or death_of(worker, status)
        if not (worker.ready or worker.orphaned or self._closing):
            self._failed_to_start(error["message"])
        logs = worker.logs(worker.output.rest())
        del self._workers[worker.number]
        for watched in (worker.channel, worker.output.descriptor):
            with suppress(KeyError):
                self._selector.unregister(watched)
        worker.close()
        self._clean.append(Path(self._setup.work) / str(worker.number))
        self._fill()
        if task is not None:
            ended = Ended(task.key, None, error, worker.started_at, datetime.now(UTC), worker.output.budget.dropped)
            self._end(ended, logs)

    # --- messages of workers ---------------------------------------------------------------------------------------

    def _read_channel(self, worker: Worker) -> None:
        if worker.finished or worker.number not in self._workers:
            return  # an earlier event of this turn has removed it
        try:
            frames = worker.receive()
        except ValueError:
            worker.kill_error = worker.kill_error or describe(
                StageError("the stage's code wrote to the internal channel of its process", ErrorClass.CODE)
            )
            worker.kill()
            frames = None
        if frames is None:
            worker.finished = True
            self._selector.unregister(worker.channel)
            if worker.orphaned:
                self._clean_up_dead_worker(worker, None)
            return
        worker.flush()
        self._watch_for_writing(worker)
        for frame in frames:
            self._handle_frame(worker, frame)

    def _read_output(self, worker: Worker) -> None:
        if worker.number not in self._workers:
            return
        lines, size = worker.output.read()
        if size == 0:
            self._selector.unregister(worker.output.descriptor)
        for log in worker.logs(lines):
            self._deliver(log)
        if worker.output.out_of_memory and worker.task and worker.task.memory_limit and not worker.kill_error:
            worker.kill_error = out_of_memory(worker.task.memory_limit)
            worker.kill()  # an abort without memory may hang while it prints a backtrace

    def _handle_frame(self, worker: Worker, frame: Mapping[str, Any]) -> None:
        kind = frame["t"]
        if kind == "ready":
            worker.ready = True
            self._failed_starts = 0
            self._assign()
        elif worker.task is None or frame["key"] != worker.task.key:
            return
        elif kind == "logs":
            for at, level, logger, message, trace in frame["lines"]:
                self._deliver(Log(frame["key"], level, message, _time(at), logger, trace))
        elif kind == "progress":
            self._deliver(Progress(frame["key"], frame["fraction"], frame["message"]))
        elif kind == "stale":
            self._run_in_another(worker, worker.task)
        elif worker.kill_error is None:  # after a kill, only the kill counts
            self._handle_end(worker, worker.task.key, frame)

    def _handle_end(self, worker: Worker, key: str, frame: Mapping[str, Any]) -> None:
        logs = worker.logs(worker.output.rest())
        (lines, size), (more_lines, more_size) = frame["dropped"], worker.output.budget.dropped
        times = _time(frame["started_at"]), _time(frame["ended_at"])
        worker.task = None
        if not frame["stays"]:
            worker.retired = True
            self._fill()
        self._end(Ended(key, frame["output"], frame["error"], *times, (lines + more_lines, size + more_size)), logs)

    def _run_in_another(self, worker: Worker, task: Task) -> None:
        """Run the attempt in another worker, because modules that this one imported were edited."""
        worker.retired, worker.task = True, None
        del self._running[task.key]
        self._waiting = {task.key: task, **self._waiting}
        self._fill()
        self._assign()

    # --- attempts --------------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Mark ready workers as idle and assign waiting tasks to them; dismiss idle workers while closing."""
        for worker in self._workers.values():
            if worker.ready and worker.pid and not worker.task and not worker.retired and worker not in self._idle:
                self._idle.append(worker)
        while self._idle and self._closing:
            self._idle.pop().dismiss()
        while self._idle and self._waiting:
            task, worker = next(iter(self._waiting.values())), self._idle[-1]
            try:
                worker.assign(task)
            except TypeError as error:  # such as a number beyond 64 bits in a pipeline's variables
                message = f"the stage's config or variables cannot be sent to its process: {error}"
                self._end_early(task.key, describe(StageError(message, ErrorClass.CONFIGURATION)))
                continue
            self._running[task.key] = self._idle.pop()
            del self._waiting[task.key]
            self._watch_for_writing(worker)

    def _watch_for_writing(self, worker: Worker) -> None:
        """Watch for free space in the socket while data is unsent (a large task or a slow reader)."""
        key = self._selector.get_map().get(worker.channel)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.waiting else 0)
        if key is not None and key.events != events:
            self._selector.modify(worker.channel, events, key.data)

    def _end(self, ended: Ended, logs: Iterable[Log]) -> None:
        """Assign the process to the next attempt, then deliver the last log lines and the end of this one."""
        del self._running[ended.key]
        self._assign()
        for log in logs:
            self._deliver(log)
        lines, size = ended.log_dropped
        if lines:
            text = f"output truncated: {lines:,} more lines ({size:,} bytes) dropped"
            self._deliver(Log(ended.key, "warning", text, ended.ended_at, "flexiroaster.stage"))
        self._deliver(ended)

    def _end_early(self, key: str, error: dict[str, Any]) -> None:
        """End an attempt that is still waiting for a process."""
        del self._waiting[key]
        now = datetime.now(UTC)
        self._ended_early.append(Ended(key, None, error, now, now))
        with suppress(BlockingIOError):  # full, so the loop wakes up anyway
            self._wake.send(b"\0")

    def _deliver_early(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._ended_early:
            self._deliver(self._ended_early.popleft())

    # --- closing ---------------------------------------------------------------------------------------------------

    def _use_own_selector(self) -> None:
        """Move from the driver's selector to a private one for the last turns."""
        own = selectors.DefaultSelector()
        mine: set[object] = {self._woken, *(w.channel for w in self._workers.values())}
        mine |= {w.output.descriptor for w in self._workers.values()}
        mine |= {self._fork_server.control} if self._fork_server else set()
        for key in [key for key in self._selector.get_map().values() if key.fileobj in mine]:
            self._selector.unregister(key.fileobj)
            own.register(key.fileobj, key.events, key.data)
        self._selector = own

    def _handle_events_until(self, done: Callable[[], bool], seconds: float) -> None:
        end = monotonic() + seconds
        while not done() and (left := end - monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.fd in self._selector.get_map():
                    key.data()


def _closed() -> dict[str, Any]:
    return describe(StageError("the runner was closed before the stage ended", ErrorClass.CANCELLED))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
