"""Trains in a process of its own: 20 s of arithmetic do not belong into the one that drives executions.

Settings come as one line of JSON on stdin, which then stays open: the process ends with whoever started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Any

from flexiroaster.config import Settings
from flexiroaster.errors import FlexiRoasterError

__all__ = ["LIMIT_SECONDS", "TrainingProcess"]

LIMIT_SECONDS = 600
"""How long a training may take: 100,000 runs take some 20 s of CPU."""

NICENESS = 10
BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from flexiroaster.service.training_process import main; main()"
MOST_SAID = 4096


class TrainingProcess:
    """A training under way in a child process. Not thread-safe."""

    def __init__(self, settings: Settings, limit_seconds: int) -> None:
        """Start it; it ends by itself after that time. Raises OSError."""
        self._output: IO[bytes] = TemporaryFile()  # noqa: SIM115 - it lasts as long as the process
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOTSTRAP, *map(str, sys.path)],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal is for its parent, which ends it
            )
        except OSError:
            self._output.close()
            raise
        order = {"settings": settings.model_dump(mode="json"), "limit_seconds": limit_seconds}
        with suppress(OSError):  # that it died shows when it is asked
            self._stdin.write(json.dumps(order).encode() + b"\n")
            self._stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._process.poll() is not None

    def result(self) -> str | None:
        """How a training that has ended failed, in one line; None when it did not."""
        code = self._process.wait()
        if code == 0:
            return None
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - MOST_SAID))
        said = self._output.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return last if code == 1 and last else how

    def end(self) -> None:
        """Kill it if it still runs, and forget it."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # what it has not read of its order
            self._stdin.close()
        self._output.close()

    @property
    def _stdin(self) -> IO[bytes]:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - for mypy: it was asked for
        return stdin


def main() -> None:
    """Be the child process: train once, exit with 0; or say why not, and exit with 1."""
    os.nice(NICENESS)
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    signal.alarm(order["limit_seconds"])  # which ends it, whatever it does
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train(Settings(**order["settings"]))
    except FlexiRoasterError as error:
        sys.exit(str(error))


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not by sys.stdin, whose lock the end of the interpreter would want
        pass
    os._exit(1)


def _train(settings: Settings) -> None:
    from flexiroaster.service.installation import open_installation
    from flexiroaster.service.training import learn

    with open_installation(settings) as installation:
        learn(installation)
