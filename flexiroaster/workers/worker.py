"""The worker process: runs attempts one after the other until its parent closes the channel.

The fork server forks it with all imports done. It ends after 1,000 attempts, and earlier when its memory
exceeds 1 GiB, when a stage left child processes or threads behind, or when a stage was interrupted: an interrupted
import, for example, cannot be repeated in the same process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import resource
import signal
import socket
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from flexiroaster.artifacts.store import Artifacts
from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.redaction import redact_json, redactor
from flexiroaster.workers.attempt import AttemptRunner
from flexiroaster.workers.error_classes import StageCancelled, describe
from flexiroaster.workers.log_capture import Capture
from flexiroaster.workers.protocol import Cancellation, Setup, TaskChannel, encode

__all__ = ["MAX_ATTEMPTS", "MAX_RESIDENT_BYTES", "work"]

MAX_ATTEMPTS = 1000
MAX_RESIDENT_BYTES = 1024**3
MAX_OUTPUT_BYTES = 16 * 1024**2
PROGRESS_SECONDS = 0.1

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OWN = str(Path(__file__).resolve().parents[1])


def work(setup: Setup, number: int, channel: socket.socket, server_pid: int) -> NoReturn:
    """Run as worker `number`: run tasks from the channel until it is closed. Descriptors 0 to 2 are already set."""
    _end_with_parent(server_pid)
    signal.signal(signal.SIGINT, _ignore)  # a handler, because child processes would inherit SIG_IGN
    signal.signal(signal.SIGTERM, _ignore)
    faulthandler.enable(file=2)
    _Worker(setup, number, channel).loop()
    os._exit(0)


class _Worker:
    def __init__(self, setup: Setup, number: int, channel: socket.socket) -> None:
        self._channel = TaskChannel(channel)
        self._cancellation = Cancellation(self._channel)
        self._redact = redactor(setup.access)
        self._capture = Capture(self._channel, self._cancellation, self._redact)
        artifacts = Artifacts(setup.artifacts_url, Path(setup.cache))
        workdir = Path(setup.work) / str(number)
        self._attempts = AttemptRunner(artifacts, setup.access, workdir, self._cancellation)
        self._attempts.prepare()
        self._modules = _UserModules()
        self._folder = os.open(".", os.O_RDONLY)  # a descriptor still works after the folder is renamed
        self._environment = dict(_environment())
        self._memory = _Memory()
        self._ended = 0

    def loop(self) -> None:
        """Run tasks until the channel is closed, or until another worker must run them."""
        self._capture.send(encode({"t": "ready"}))
        while (task := self._channel.next_task()) is not None:
            if self._modules.changed():
                self._capture.send(encode({"t": "stale", "key": task["key"]}))
                return
            if not self._run(task):
                return

    def _run(self, task: Mapping[str, Any]) -> bool:
        """Run one attempt and report its end; return whether this worker takes another one."""
        started_at = time.time()
        self._capture.begin(task["key"])
        with warnings.catch_warnings():  # also shows warnings again that an earlier attempt has shown
            output, error = self._outcome(task)
        _libc.fflush(None)
        dropped = self._capture.end()
        if error is not None:
            gc.collect()  # objects in the traceback can be as large as the memory limit
        stays = self._restore()
        self._send_end({"t": "ended", "key": task["key"], "output": output, "error": error, "started_at": started_at,
                   "ended_at": time.time(), "dropped": dropped, "stays": stays})  # fmt: skip
        return stays

    def _outcome(self, task: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Run the attempt and return its output or its error."""
        try:
            try:
                self._cancellation.begin(task["key"])
                return self._attempts.run(task, _Progress(self._capture, task["key"])), None
            finally:
                self._cancellation.end()
        except BaseException as error:  # noqa: BLE001 - a stage's KeyboardInterrupt or SystemExit is its failure
            self._cancellation.end()
            return None, self._describe(error)

    def _describe(self, error: BaseException) -> dict[str, Any]:
        described = describe(error)
        if self._cancellation.raised and not isinstance(error, StageCancelled):
            described["message"] = (
                f"the stage was cancelled and then raised {described['type']}: {described['message']}"
            )
            described["class"] = ErrorClass.CANCELLED.value
        hidden: dict[str, Any] = redact_json(described, self._redact)
        return hidden

    def _send_end(self, frame: dict[str, Any]) -> None:
        """Report the end; an output that is not JSON or is too large fails the stage."""
        try:
            encoded = encode(frame)
            problem = f"has {len(encoded):,} bytes, at most {MAX_OUTPUT_BYTES:,} are allowed"
        except TypeError as error:
            encoded, problem = None, f"is not JSON: {error}"
        if encoded is None or len(encoded) > MAX_OUTPUT_BYTES:
            failure = StageError(f"the report of the stage {problem}", ErrorClass.CODE)
            encoded = encode({**frame, "output": None, "error": describe(failure)})
        self._capture.send(encoded)

    def _restore(self) -> bool:
        """Undo the stage's changes to the process; return whether the process can run another attempt."""
        self._ended += 1
        self._modules.remember()
        if _environment() != self._environment:
            os.environ.clear()
            os.environ.update({os.fsdecode(name): os.fsdecode(value) for name, value in self._environment.items()})
        os.chdir(self._folder)
        small = self._ended < MAX_ATTEMPTS and self._memory.resident() < MAX_RESIDENT_BYTES
        return small and not self._cancellation.raised and not _has_leftovers()


class _Progress:
    """The stage's `report_progress`: sends at most ten times a second, and always at 100 %."""

    def __init__(self, capture: Capture, key: str) -> None:
        self._capture = capture
        self._key = key
        self._sent_at = 0.0

    def __call__(self, fraction: float | None, message: str = "") -> None:
        now = time.monotonic()
        known = None if fraction is None or fraction != fraction else min(max(float(fraction), 0.0), 1.0)
        if known != 1.0 and now - self._sent_at < PROGRESS_SECONDS:
            return
        self._sent_at = now
        self._capture.progress(self._key, known, message)


def _ignore(_signal: int, _frame: object) -> None:
    """Ignore signals outside of a stage, and signals that the parent did not announce."""


def _end_with_parent(server_pid: int) -> None:
    """Make this process end with the fork server, even while a stage runs native code."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(server_pid,), name="flexiroaster-lifeline", daemon=True).start()
    if os.getppid() != server_pid:
        os._exit(1)


def _watch_parent(server_pid: int) -> None:
    while os.getppid() == server_pid:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _environment() -> dict[bytes, bytes]:
    """The environment as raw bytes: a comparison takes 1 µs, with decoding 100 µs."""
    raw: dict[bytes, bytes] = vars(os.environ)["_data"]
    return raw


class _UserModules:
    """Source files of all modules imported since creation, except installed modules and FlexiRoaster.

    The worker detects their edits, so that no stage runs outdated code.
    """

    def __init__(self) -> None:
        self._seen = set(sys.modules)
        self._files: dict[str, int] = {}

    def remember(self) -> None:
        """Record newly imported modules with the modification times of their files."""
        if len(sys.modules) == len(self._seen):
            return
        for name in sys.modules.keys() - self._seen:
            file = getattr(sys.modules[name], "__file__", None)
            if isinstance(file, str) and not file.startswith((_OWN, *_INSTALLED)):
                self._files[file] = _changed_at(file)
        self._seen = set(sys.modules)

    def changed(self) -> bool:
        """Whether a file has changed since its import."""
        return any(_changed_at(file) != at for file, at in self._files.items())


def _changed_at(file: str) -> int:
    """Modification time in nanoseconds since the epoch; 0 if the file does not exist."""
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return 0


class _Memory:
    """Memory of this process: the current size, or the peak on systems without procfs."""

    def __init__(self) -> None:
        statm = Path("/proc/self/statm")
        self._statm = os.open(statm, os.O_RDONLY) if statm.exists() else None

    def resident(self) -> int:
        """Resident memory in bytes."""
        if self._statm is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(os.pread(self._statm, 100, 0).split()[1]) * resource.getpagesize()


def _has_leftovers() -> bool:
    """Whether child processes or non-daemon threads still exist."""
    if any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate()):
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except AttributeError:  # macOS before Python 3.13
        return False
    return True
