"""Worker processes: started, armed with faults, killed, frozen, and all gone at the end of a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from flexiroaster.config import Settings
from flexiroaster.model.failpoints import VARIABLE
from tests import warm
from tests.waiting import eventually

__all__ = ["Fleet", "Process"]

ROOT = Path(__file__).parents[2]
_PASSED = (
    "database_url",
    "output_database_url",
    "artifacts_url",
    "execution_lock_ttl",
    "heartbeat_interval",
    "executor_workers",
    "executor_stop_grace",
    "redis_url",
    "redis_socket_timeout",
)


class Process:
    """One process of a fleet with its log."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log_path = log
        with log.open("ab") as file:
            self._process = warm.Popen(
                [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=file, text=True
            )
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def ended(self) -> int | None:
        """The exit code, minus the signal that killed it; None while it is there."""
        return self._process.poll()

    @property
    def killed(self) -> bool:
        return self.ended == -signal.SIGKILL

    @property
    def frozen(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False

    def wait_until_working(self) -> Process:
        eventually(lambda: "Working;" in self.log or self.ended is not None, what="a worker's start")
        assert self.ended is None, self.log
        return self

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 120.0) -> int:
        return self._process.wait(seconds)

    def said(self) -> str:
        """The next line it writes to its standard output."""
        assert self._process.stdout is not None
        return str(self._process.stdout.readline().strip())

    def answer(self, seconds: float = 300.0) -> str:
        """What it writes to its standard output until it ends."""
        told, _ = self._process.communicate(timeout=seconds)
        return str(told)

    def close(self) -> None:
        """End it, in whatever state it is."""
        if self.ended is None:
            self.thaw()
            self.signal(signal.SIGTERM)
            try:
                self.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
                self.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Fleet:
    """The processes of one test, all with the same settings."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self.processes: list[Process] = []

    def worker(self, faults: str = "", **changes: Any) -> Process:
        """`flexiroaster worker`, armed; `changes` are to the settings."""
        return self.start(["-m", "flexiroaster", "worker"], faults, **changes)

    def start(self, arguments: list[str], faults: str = "", **changes: Any) -> Process:
        """Any Python program with the environment of a worker."""
        values = {name: getattr(self._settings, name) for name in _PASSED} | changes
        environment = {
            **os.environ,
            **{name.upper(): str(value) for name, value in values.items()},
            "PYTHON_MODULES": json.dumps(self._settings.python_modules),
            "FILE_ROOTS": json.dumps(self._settings.file_roots),
            "PYTHONPATH": str(ROOT),
            VARIABLE: faults,
        }
        process = Process(arguments, environment, self._folder / f"process-{len(self.processes)}.log")
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.close()

    def end(self, *processes: Process) -> None:
        """End these now, the frozen and the dead ones too."""
        for process in processes:
            process.close()
