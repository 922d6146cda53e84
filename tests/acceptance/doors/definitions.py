"""Small pipelines that run through every interface, each with its own id."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ORDERS", "definition", "python", "sums", "two_steps"]

ORDERS = [{"n": 1}, {"n": 2}, {"n": 3}]
LOAD = {"id": "load", "type": "input", "config": {"source": "api", "data": ORDERS}}
KEEP = {"operation": "filter", "where": "n >= ${least}"}


def definition(*stages: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A definition with a unique id."""
    pipeline_id = f"doors-{uuid.uuid4().hex[:12]}"
    return {"id": pipeline_id, "name": pipeline_id, "stages": [dict(stage) for stage in stages], **fields}


def sums() -> dict[str, Any]:
    """Three rows, filtered to those of at least `${least}`, which is 2."""
    keep = {"id": "keep", "name": "Keep", "type": "transform", "config": KEEP, "dependencies": ["load"]}
    return definition(LOAD, keep, variables={"least": 2, "unused": "x"})


def python(stage_id: str, function: str, dependencies: Sequence[str] = (), **arguments: Any) -> dict[str, Any]:
    """A stage that calls a function of tests/functions.py, with one attempt."""
    config = {"operation": "python", "function": f"tests.functions:{function}", "arguments": arguments}
    return {
        "id": stage_id,
        "type": "transform",
        "config": config,
        "dependencies": list(dependencies),
        "max_retries": 0,
    }


def two_steps(gate: Path) -> dict[str, Any]:
    """Two stages: the first ends once the file exists, then the second begins."""
    return definition(python("wait", "waits", path=str(gate)), python("after", "numbers", ["wait"]))
