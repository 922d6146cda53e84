"""Training in a child process, because 20 s of computation must not run in the process that drives executions.

The settings arrive as one line of JSON on stdin. Stdin then stays open, so that the child ends with its parent.
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
"""The time limit of a training; 100,000 runs take about 20 s of CPU."""

NICENESS = 10
BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from flexiroaster.service.training_process import main; main()"
MOST_SAID = 4096


class TrainingProcess:
    """A training in a child process. Not thread-safe."""

    def __init__(self, settings: Settings, limit_seconds: int) -> None:
        """Start the child process; it ends itself after `limit_seconds`. Raises OSError."""
        self._output: IO[bytes] = TemporaryFile()  # noqa: SIM115 - it stays open as long as the process
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOTSTRAP, *map(str, sys.path)],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal must reach only the parent, which ends the child
            )
        except OSError:
            self._output.close()
            raise
        order = {"settings": settings.model_dump(mode="json"), "limit_seconds": limit_seconds}
        with suppress(OSError):  # if the child has died, `ended` and `result` report it
            self._stdin.write(json.dumps(order).encode() + b"\n")
            self._stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether the child process has ended."""
        return self._process.poll() is not None

    def result(self) -> str | None:
        """Return why an ended training failed, in one line; None if it succeeded."""
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
        """Kill the child process if it still runs, and release its resources."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # the child may not have read all of its input
            self._stdin.close()
        self._output.close()

    @property
    def _stdin(self) -> IO[bytes]:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - for mypy: Popen was given a pipe
        return stdin


def main() -> None:
    """Run the child process: train once and exit with 0, or print the error and exit with 1."""
    os.nice(NICENESS)
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    signal.alarm(order["limit_seconds"])  # ends the process, whatever it is doing
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train(Settings(**order["settings"]))
    except FlexiRoasterError as error:
        sys.exit(str(error))


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin, whose lock interpreter shutdown needs
        pass
    os._exit(1)


def _train(settings: Settings) -> None:
    from flexiroaster.service.installation import open_installation
    from flexiroaster.service.safety.training import learn

    with open_installation(settings) as installation:
        learn(installation)
