"""The fork server: a process with all imports done that forks workers within milliseconds.

It runs no stage and no threads. It receives fork requests over one socket, each with the two descriptors of the worker,
and reports how workers died. When the parent ends, for whatever reason, the fork server, all workers and
their child processes end too.
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

from flexiroaster.workers import preload  # noqa: F401 - must run before any other import of polars
from flexiroaster.workers.protocol import FrameReader, Setup, encode
from flexiroaster.workers.worker import work

__all__ = ["main"]


def main(descriptor: int) -> NoReturn:
    """Serve the parent at the other end of the control socket until it ends."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # these signals reach whole groups; the parent decides
    gc.collect()
    gc.freeze()  # memory pages of imports stay shared between the workers
    gc.enable()
    server = _ForkServer(socket.socket(fileno=descriptor))
    try:
        server.serve()
    except ConnectionError:  # the parent ended while we sent a message
        pass
    finally:
        server.end()


class _ForkServer:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._reader = FrameReader()
        self._descriptors: deque[int] = deque()  # received with the fork requests, two each
        self._children: set[int] = set()
        self._child_ended, self._wakeup = _signal_pipe()
        self._parent = _watched_parent()
        self._setup: Setup | None = None

    def serve(self) -> None:
        """Fork workers on request and report deaths, until the parent ends."""
        watched = [each for each in (self._control, self._child_ended, self._parent) if each is not None]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._child_ended in ready:
                self._report_deaths()
            if self._control in ready and not self._handle_requests():
                return
            if self._parent in ready:
                return

    def end(self) -> NoReturn:
        """Kill all workers, delete their files and exit."""
        for pid in self._children:
            _kill_group(pid)
        if self._setup is not None:
            shutil.rmtree(self._setup.work, ignore_errors=True)
        os._exit(0)

    def _handle_requests(self) -> bool:
        """Handle pending requests; return whether the parent is still alive."""
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
        server_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._control.sendall(encode({"t": "not_forked", "worker": frame["worker"], "error": str(error)}))
        else:
            if pid == 0:
                self._become_worker(setup, frame, channel, output, server_pid)
            with suppress(OSError):  # the child does it too; either can be first
                os.setpgid(pid, pid)
            self._children.add(pid)
            self._control.sendall(encode({"t": "forked", "worker": frame["worker"], "pid": pid}))
        os.close(channel)
        os.close(output)

    def _become_worker(
        self, setup: Setup, frame: Mapping[str, Any], channel: int, output: int, server_pid: int
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
            for folder in frame["clean"]:  # folders of dead workers; here, because no task waits for this process yet
                shutil.rmtree(folder, ignore_errors=True)
            work(setup, frame["worker"], socket.socket(fileno=channel), server_pid)
        except BaseException:  # noqa: BLE001 - no exception may return to the fork server's loop
            traceback.print_exc(file=sys.__stderr__)
        os._exit(1)

    def _report_deaths(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._child_ended, 4096)
        for pid in tuple(self._children):
            if (status := _reap(pid)) is not None:
                self._children.discard(pid)
                self._control.sendall(encode({"t": "died", "pid": pid, "status": status}))


def _signal_pipe() -> tuple[int, int]:
    """Create a pipe that becomes readable when a child dies."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    return readable, writable


def _watched_parent() -> int | None:
    """Open a descriptor that becomes readable when the parent ends, even if a fork of it still has our socket open."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(os.getppid())
    except OSError:  # already ended, or an old kernel: then the end of the socket shows it
        return None


def _reap(pid: int) -> int | None:
    """The exit code, or minus the signal, of a dead child, or None; kills its process group too."""
    if hasattr(os, "waitid"):  # the pid is still reserved, so the kill cannot hit another process
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        _kill_group(pid)
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
