"""Durable data pipelines for data teams, with live events, rollback and a safety engine that predicts failures.

    import flexiroaster

    result = flexiroaster.run("sales.yaml", {"day": "2026-01-31"})
    result.raise_for_status()
    result.table("by_region")

Public names are imported on first use, which keeps `import flexiroaster` fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexiroaster.errors import DefinitionError, FlexiRoasterError, Problem, StageError
    from flexiroaster.model.pipeline import Pipeline, Stage
    from flexiroaster.service.local import RunResult, run, validate

__version__ = "0.1.0"

__all__ = [
    "DefinitionError",
    "FlexiRoasterError",
    "Pipeline",
    "Problem",
    "RunResult",
    "Stage",
    "StageError",
    "__version__",
    "run",
    "validate",
]

_HOMES = {
    "DefinitionError": "flexiroaster.errors",
    "FlexiRoasterError": "flexiroaster.errors",
    "Pipeline": "flexiroaster.model.pipeline",
    "Problem": "flexiroaster.errors",
    "RunResult": "flexiroaster.service.local",
    "Stage": "flexiroaster.model.pipeline",
    "StageError": "flexiroaster.errors",
    "run": "flexiroaster.service.local",
    "validate": "flexiroaster.service.local",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
