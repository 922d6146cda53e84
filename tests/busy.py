"""Run the tests next to busy loops, several times, and print how long each run took: `make test-busy`.

A test that depends on the speed of the machine fails here sooner or later. The loops compete with the tests for
every core, as other builds do on a shared machine.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

LOOP = "import os, signal\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1_000_000))"
"""Busy until its parent is gone."""


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes that only use a core."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.send_signal(signal.SIGKILL)
            loop.wait()


def main() -> int:
    """Run the tests; exit with 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=6, help="how many busy loops")
    parser.add_argument("--runs", type=int, default=3, help="how many times the tests run")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, after --")
    options = parser.parse_args()
    command = [part for part in options.command if part != "--"]
    lines: list[str] = []
    with busy_loops(options.loops):
        for number in range(1, options.runs + 1):
            began = monotonic()
            status = subprocess.run(command).returncode
            minutes, seconds = divmod(round(monotonic() - began), 60)
            outcome = "passed" if status == 0 else f"failed with exit code {status}"
            lines.append(f"run {number} of {options.runs}: {outcome} after {minutes} min {seconds} s")
            print(lines[-1], flush=True)
    print(f"beside {options.loops} busy loops: {shlex.join(command)}", *lines, sep="\n")
    return int(any("failed" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
