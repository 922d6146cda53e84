"""From nothing: a fresh interpreter that imports the package, and one that runs its first execution."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.bench.conftest import chain

ROOT = Path(__file__).parents[2]


def python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)


def test_interpreter(benchmark) -> None:
    benchmark.pedantic(python, args=("-c", "pass"), rounds=9, warmup_rounds=2)


def test_import_flexiroaster(benchmark) -> None:
    benchmark.pedantic(python, args=("-c", "import flexiroaster"), rounds=9, warmup_rounds=2)


def test_import_polars(benchmark) -> None:
    """What every first execution pays at least."""
    benchmark.pedantic(python, args=("-c", "import polars"), rounds=9, warmup_rounds=2)


def test_first_execution(benchmark, tmp_path: Path) -> None:
    """One no-op stage through `flexiroaster run`, interpreter, fresh database and all."""
    file = tmp_path / "noop.json"
    file.write_text(json.dumps(chain(1)))
    folders = iter(range(1000))

    def run() -> None:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        command = ["-m", "flexiroaster", "run", str(file), "--allow-module", "tests.bench.functions", "--json"]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
        subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=folder, env=environment)

    benchmark.pedantic(run, rounds=9, warmup_rounds=2)
