"""The real program, in its own process, with the working directory of the test and an empty home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests import warm

COMMAND = (sys.executable, "-m", "flexiroaster")

ORDERS = {
    "id": "orders",
    "type": "input",
    "config": {"source": "api", "data": [{"order": 1, "amount": 12.5}, {"order": 2, "amount": 3.0}]},
}
BIG = {
    "id": "big",
    "type": "transform",
    "config": {"operation": "filter", "where": "amount > ${least}"},
    "dependencies": ["orders"],
}
DAILY = {"name": "Daily sales", "variables": {"least": 5}, "stages": [ORDERS, BIG]}


def environment(**extra: str) -> dict[str, str]:
    home = Path("home")
    home.mkdir(exist_ok=True)
    names = ("PATH", "XDG_RUNTIME_DIR", "COVERAGE_PROCESS_START", "OMP_NUM_THREADS")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    patient = {"EXECUTION_LOCK_TTL": "60"}  # no lease is lost because the machine is busy
    return {**kept, "HOME": str(home.resolve()), "COLUMNS": "120", **patient, **extra}


def flexiroaster(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return warm.run([*COMMAND, *arguments], env=environment(**env), timeout=300)


def flexiroaster_afresh(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a fresh interpreter, for tests of its imports."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment(**env), timeout=300)


def started(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start the program in its own session, so that signals reach the group as from a terminal."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return warm.Popen(
        [*COMMAND, *arguments], text=True, env=environment(**env or {}), start_new_session=True, **streams
    )


def write_definition(definition: dict[str, Any], name: str = "pipeline.yaml") -> str:
    text = json.dumps(definition) if name.endswith(".json") else yaml.safe_dump(definition, sort_keys=False)
    Path(name).write_text(text)
    return name


def python_stage(stage_id: str, function: str, *dependencies: str, **fields: Any) -> dict[str, Any]:
    arguments = fields.pop("arguments", {})
    config = {"operation": "python", "function": function, "arguments": arguments}
    return {"id": stage_id, "type": "transform", "config": config, "dependencies": list(dependencies),
            "max_retries": 0, **fields}  # fmt: skip
