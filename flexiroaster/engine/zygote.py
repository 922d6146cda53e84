"""The zygote: a process with everything imported that forks the workers, so that one is there in milliseconds.

It runs no stage and has no thread of its own. Over one socket it is asked for workers, each request with the two
descriptors that are the worker's, and reports which worker died of what. It ends, and all workers with their
child processes end with it, when the parent does, however that happens.
"""

from __future__ import annotations

import gc
import os
import select
import shutil
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from flexiroaster.engine import preload  # noqa: F401 - before anything else imports polars
from flexiroaster.engine.frames import FrameReader, encode
from flexiroaster.engine.setup import Setup
from flexiroaster.engine.worker import work

__all__ = ["main"]


def main(descriptor: int) -> NoReturn:
    """Serve the parent at the other end of the control socket until it is gone."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # they are sent to whole groups; the parent decides
    gc.collect()
    gc.freeze()  # pages of what is imported stay shared between the workers
    gc.enable()
    zygote = _Zygote(socket.socket(fileno=descriptor))
    try:
        zygote.serve()
    except ConnectionError:  # the parent went while we told it something
        pass
    finally:
        zygote.end()


class _Zygote:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._reader = FrameReader()
        self._descriptors: deque[int] = deque()  # come with the fork requests, two each
        self._children: set[int] = set()
        self._child_ended, self._wakeup = _signal_pipe()
        self._parent = _watched_parent()
        self._setup: Setup | None = None

    def serve(self) -> None:
        """Until the parent is gone: fork what is asked for, report what has died."""
        watched: list[Any] = [self._control, self._child_ended]
        watched += [] if self._parent is None else [self._parent]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._child_ended in ready:
                self._report_deaths()
            if self._control in ready and not self._take_requests():
                return
            if self._parent in ready:
                return

    def end(self) -> NoReturn:
        """Leave nothing behind."""
        for pid in self._children:
            _kill_group(pid)
        if self._setup is not None:
            shutil.rmtree(self._setup.work, ignore_errors=True)
        os._exit(0)

    def _take_requests(self) -> bool:
        """Whether the parent is still there."""
        data, descriptors, _, _ = socket.recv_fds(self._control, 65536, 64)
        self._descriptors.extend(descriptors)
        for frame in self._reader.feed(data):
            if self._setup is None:  # the first frame
                self._setup = Setup.of(frame)
            else:
                self._fork(self._setup, frame)
        return bool(data)

    def _fork(self, setup: Setup, frame: Mapping[str, Any]) -> None:
        channel, output = self._descriptors.popleft(), self._descriptors.popleft()
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._control.sendall(encode({"t": "not_forked", "worker": frame["worker"], "error": str(error)}))
        else:
            if pid == 0:
                self._become_worker(setup, frame, channel, output, zygote)
            with suppress(OSError):  # the child does it as well; whoever comes first
                os.setpgid(pid, pid)
            self._children.add(pid)
            self._control.sendall(encode({"t": "forked", "worker": frame["worker"], "pid": pid}))
        os.close(channel)
        os.close(output)

    def _become_worker(
        self, setup: Setup, frame: Mapping[str, Any], channel: int, output: int, zygote: int
    ) -> NoReturn:
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for descriptor in (self._child_ended, self._wakeup, self._parent, *self._descriptors):
                if descriptor is not None:
                    os.close(descriptor)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            for folder in frame["clean"]:  # of workers that died; here, because nobody waits for this process yet
                shutil.rmtree(folder, ignore_errors=True)
            work(setup, frame["worker"], socket.socket(fileno=channel), zygote)
        except BaseException:  # noqa: BLE001 - nothing may get back into the zygote's loop
            traceback.print_exc(file=sys.__stderr__)
        os._exit(1)

    def _report_deaths(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._child_ended, 4096)
        for pid in tuple(self._children):
            status = _death_of(pid)
            if status is not None:
                self._children.discard(pid)
                self._control.sendall(encode({"t": "died", "pid": pid, "status": status}))


def _signal_pipe() -> tuple[int, int]:
    """A pipe that becomes readable when a child has died."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    return readable, writable


def _watched_parent() -> int | None:
    """A descriptor that becomes readable when the parent is gone, even if a fork of it still holds our socket."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(os.getppid())
    except OSError:  # gone already, or a kernel without it: the socket's end tells as well
        return None


def _death_of(pid: int) -> int | None:
    """The exit code, or minus the signal, of a child that has died; what it started is killed as well."""
    if hasattr(os, "waitid"):  # while the pid is still taken, nobody else can be hit
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        _kill_group(pid)
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
