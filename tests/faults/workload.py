"""The pipelines that the fault suite runs, and what they must leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation

__all__ = [
    "FUNCTIONS",
    "OUTPUTS",
    "ROWS",
    "TABLE",
    "outputs_pipeline",
    "python",
    "start",
    "start_again",
    "waiting_pipeline",
]

FUNCTIONS = "tests.faults.functions"
ROWS = 3
TABLE = "saved"
OUTPUTS = ("save", "again", "file")
"""The stages with an effect: two that append `ROWS` rows to `TABLE`, and one that writes them to a file."""

_PATIENT = {
    "max_retries": 50,
    "retry_delay": 0.02,
    "max_retry_delay": 0.1,
    "retry_on": ["transient", "timeout", "crash", "code", "unknown"],
}


def python(stage_id: str, function: str, *dependencies: str, **arguments: Any) -> dict[str, Any]:
    config = {"operation": "python", "function": f"{FUNCTIONS}:{function}", "arguments": arguments, "frames": "polars"}
    return {"id": stage_id, "type": "transform", "config": config, "dependencies": list(dependencies), **_PATIENT}


def outputs_pipeline(folder: Path) -> dict[str, Any]:
    """Two chains from one source: a stage that fails at first and two appends, and a file."""
    append = {"destination": "database", "table": TABLE}
    file = {"destination": "file", "path": str(folder / "files" / "{execution_id}.csv")}
    return {
        "name": "Faults",
        "concurrency": None,
        "stages": [
            python("source", "numbers", rows=ROWS),
            python("flaky", "fails_once", "source", folder=str(folder)),
            {"id": "save", "type": "output", "config": append, "dependencies": ["flaky"], **_PATIENT},
            {"id": "again", "type": "output", "config": append, "dependencies": ["save"], **_PATIENT},
            {"id": "file", "type": "output", "config": file, "dependencies": ["source"], **_PATIENT},
        ],
    }


def waiting_pipeline(path: Path, **fields: Any) -> dict[str, Any]:
    """One stage that ends when the file is there."""
    return {"name": "Waiting", "concurrency": None, "stages": [python("wait", "waits_for", path=str(path))], **fields}


def start(installation: Installation, body: dict[str, Any], count: int) -> list[str]:
    """Store a pipeline and start it so often, for whichever worker claims the executions."""
    return start_again(installation, pipelines.create(installation, body), count)


def start_again(installation: Installation, revision: pipelines.Revision, count: int) -> list[str]:
    """Start a stored pipeline so often."""
    return [executions.start(installation, revision, drive=False) for _ in range(count)]
