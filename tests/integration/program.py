"""The real program, in a process of its own, in the working directory of the test and with a home that is empty."""

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
    """Run it to its end."""
    return warm.run([*COMMAND, *arguments], env=environment(**env), timeout=300)


def flexiroaster_afresh(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end in a fresh interpreter, where what it imports matters."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment(**env), timeout=300)


def started(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start it, in a session of its own, so that signals can be sent to the group as a terminal does."""
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
