"""Executions with decisions: a stage that finds bad data, in a pipeline that leaves the action to the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["PAUSE", "decided_pipeline"]

PAUSE = {"pause": True}
"""Somebody looks at what is paused."""

FUNCTION = "tests.integration.stages:fail_on_data_unless"


def decided_pipeline(
    name: str, good: Path, policy: dict[str, Any] | None = None, *, output: bool = False, **stage: Any
) -> dict[str, Any]:
    """`load`, and `check`, which fails with a data error until the file `good` exists.

    With `output`, also `save`, which writes to a database before that.
    """
    load = {"id": "load", "type": "input", "config": {"source": "api", "data": [{"n": 1}, {"n": 2}]}}
    save = {
        "id": "save",
        "type": "output",
        "dependencies": ["load"],
        "config": {"destination": "database", "table": f"t_{name}"},
    }
    config = {"operation": "python", "function": FUNCTION, "arguments": {"path": str(good)}}
    check = {
        "id": "check",
        "type": "transform",
        "dependencies": ["save" if output else "load"],
        "config": config,
        **stage,
    }
    return {
        "id": name,
        "name": name,
        "concurrency": None,
        "stages": [load, *([save] if output else []), check],
        "config": {} if policy is None else {"policy": policy},
    }
