"""Programs and fork servers for the tests, forked from one process that has imported the product already.

A fresh interpreter imports for 0.3 s of CPU before it is a fork server, and for a second before it is
`flexiroaster worker`. The tests start hundreds of both, which was most of their time. Here one process a session
imports the same modules once. What it forks has the arguments, environment, working directory and standard streams
that a fresh interpreter would have had, runs the same code from `__main__` on, and is a process of its own that can be
killed and frozen.

`Popen` and `run` stand in for those of `subprocess`, for `[sys.executable, "-m" or "-c", ...]`. What depends on how
the interpreter starts (the console's examples, the demo, `flexiroaster serve`, tests of imports) uses `subprocess`.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flexiroaster.model import failpoints
from flexiroaster.workers import worker_handle

__all__ = ["Popen", "run", "start_fresh", "using_warm_fork_servers"]

MAX_REQUEST = 1 << 20

MEASURED = "COVERAGE_PROCESS_START" in os.environ
"""What is forked would not be measured, so then everything starts afresh."""

SERVE = (
    "import gc, sys; gc.disable(); descriptor, *sys.path[:] = sys.argv[1:]; "
    "from tests.warm import serve; serve(int(descriptor))()"
)

start_fresh = worker_handle.start_fork_server
"""How the product starts a fork server."""


class _Process:
    """The process that everything is forked from, and the socket to it; one a session, started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def fork(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[int, int]:
        """The pid, and a descriptor that gives the wait status once it has ended."""
        status, theirs = os.pipe()
        try:
            with self._lock:
                if self._socket is None:
                    self._socket = _started()
                socket.send_fds(self._socket, [json.dumps(request).encode()], [theirs, *descriptors])
        finally:
            os.close(theirs)
        return int.from_bytes(os.read(status, 4), "big"), status


def _started() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVE, str(theirs.fileno()), *map(str, sys.path)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    process.returncode = 0  # it ends with the session, which waits for nothing
    return ours


_process = _Process()


_STREAMS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


class Popen(subprocess.Popen[Any]):
    """As `subprocess.Popen`, for a Python program: it is forked, with everything imported.

    It always has a session of its own.
    """

    _status: int

    def _execute_child(self, *args: Any) -> None:
        asked = inspect.signature(subprocess.Popen._execute_child).bind(self, *args).arguments  # type: ignore[attr-defined]
        command, environment = list(map(str, asked["args"])), asked["env"]
        assert command[0] == sys.executable, command
        request = {
            "argv": command[1:],
            "cwd": str(asked["cwd"] or Path.cwd()),
            "env": dict(os.environ if environment is None else environment),
        }
        streams = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        given = [own if own != -1 else inherited for inherited, own in enumerate(streams)]
        self.pid, self._status = _process.fork(request, given)
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in _STREAMS))

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        if self.returncode is None:
            self._try_wait(os.WNOHANG)
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """What `wait` is made of: (0, 0) while it runs."""
        found = _wait_status(self._status, 0 if wait_flags & os.WNOHANG else None)
        if found is None:
            return 0, 0
        self.returncode = os.waitstatus_to_exitcode(found)
        return self.pid, found


def _wait_status(descriptor: int, timeout: float | None) -> int | None:
    """The wait status of what was forked, and its descriptor is closed; None while it runs."""
    if not select.select([descriptor], [], [], timeout)[0]:
        return None
    told = os.read(descriptor, 4)
    os.close(descriptor)
    return int.from_bytes(told, "big") if told else int(signal.SIGKILL)


def run(
    args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with `capture_output` and `text`."""
    with Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(args, process.returncode, out, errors)


class _ForkServer:
    """What `subprocess.Popen` is to the product, for a fork server that was forked."""

    def __init__(self, control: socket.socket) -> None:
        request = {"cwd": str(Path.cwd()), "env": dict(os.environ), "path": list(map(str, sys.path))}
        self.pid, self._status = _process.fork(request, [control.fileno(), 2])
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises TimeoutExpired."""
        if self.returncode is None:
            found = _wait_status(self._status, timeout)
            if found is None:
                raise subprocess.TimeoutExpired("fork server", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(found)
        return self.returncode

    def kill(self) -> None:
        """As that of a Popen."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def __del__(self) -> None:
        if self.returncode is None:
            with suppress(OSError):
                os.close(self._status)


@contextmanager
def using_warm_fork_servers() -> Iterator[None]:
    """Let the installations in this process have such fork servers."""
    if not MEASURED:
        worker_handle.start_fork_server = _ForkServer  # type: ignore[assignment, misc] # all that is used of a Popen
    try:
        yield
    finally:
        worker_handle.start_fork_server = start_fresh


if MEASURED:
    Popen = subprocess.Popen  # type: ignore[misc, assignment]


# --- in the process that everything is forked from ------------------------------------------------------------------


def serve(descriptor: int) -> Callable[[], None]:
    """Fork what is asked for until the session is over. In what was forked: what it is to run."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    requests = socket.socket(fileno=descriptor)
    statuses: dict[int, int] = {}
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    while True:
        ready, _, _ = select.select([requests, readable], [], [])
        if readable in ready:
            with suppress(BlockingIOError):
                os.read(readable, 4096)
            _tell_of_ends(statuses)
        if requests not in ready:
            continue
        text, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 4)
        if not text:
            os._exit(0)
        status, *given = descriptors
        pid = os.fork()
        if pid == 0:
            requests.detach()
            return _begin(json.loads(text), given, [descriptor, readable, writable, status, *statuses.values()])
        os.write(status, pid.to_bytes(4, "big"))
        statuses[pid] = status
        for each in given:
            os.close(each)


PRELOADED = (
    "flexiroaster.workers.fork_server",  # first, see flexiroaster/workers/preload.py
    "flexiroaster.cli.app",
    "flexiroaster.service.executions.executions",
    "flexiroaster.service.safety.risk",
    "flexiroaster.service.safety.learner",
    "graphql_api.app",
    "redis",
    "rest_compat.app",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "uvicorn",
)
"""All that a program of the product imports sooner or later."""


def _tell_of_ends(statuses: dict[int, int]) -> None:
    for pid in tuple(statuses):
        found, ended = os.waitpid(pid, os.WNOHANG)
        if found:
            status = statuses.pop(pid)
            with suppress(BrokenPipeError):
                os.write(status, ended.to_bytes(4, "big"))
            os.close(status)


def _begin(request: Mapping[str, Any], given: Sequence[int], ours: Sequence[int]) -> Callable[[], None]:
    """Have what a fresh interpreter would have; what is to be run."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    streams = [os.dup(each) for each in given]  # beyond 2, whatever they are
    for descriptor in (*ours, *given):
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    random.seed()
    failpoints._ARMED.update(failpoints._armed(os.environ.get(failpoints.VARIABLE, "")))
    if "argv" not in request:
        control, errors = streams
        os.dup2(errors, 2)
        os.close(errors)
        sys.path[:] = request["path"]
        return lambda: _be_fork_server(control)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    gc.enable()
    return lambda: _be_program(*request["argv"])


def _be_fork_server(control: int) -> None:
    from flexiroaster.workers.fork_server import main

    os.set_inheritable(control, False)
    main(control)


def _be_program(option: str, what: str, *arguments: str) -> None:
    """As `python -m what` or `python -c what` with these arguments; the interpreter ends as it does after those."""
    sys.path[:0] = [
        "" if option == "-c" else str(Path.cwd()),
        *filter(None, os.environ.get("PYTHONPATH", "").split(":")),
    ]
    sys.argv[:] = [what if option == "-m" else option, *arguments]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(what, "<string>", "exec"), main.__dict__)  # noqa: S102 - what `python -c` does
