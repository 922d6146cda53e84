"""What the command machine plays with: pipelines of a few shapes, an execution, and what its driver knows of it."""

from __future__ import annotations

from typing import Any

from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.engine.state_machine.state import Rollback
from flexiroaster.model.event import Event, EventType
from flexiroaster.model.execution import StageStatus
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.store.journal.transitions import NewExecution, NewStage
from flexiroaster.store.pipelines import Revision

__all__ = ["EFFECT", "SHAPES", "facts", "new_execution", "shaped_pipeline"]

EFFECT = {"rows": 1, "effect": {"kind": "database", "rows": 1}}
"""What an output says when it has ended."""

SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "chain": {"a": (), "b": ("a",), "c": ("b",)},
    "diamond": {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")},
    "wide": {"a": (), "b": (), "c": (), "d": ("a",)},
}


def shaped_pipeline(name: str, shape: str, *, soft: str, slots: bool) -> Pipeline:
    """The stages `b` and `d` have effects, `soft` is not critical; with `slots` each execution holds one."""
    stages = [_stage(i, d, critical=i != soft, output=i in "bd") for i, d in SHAPES[shape].items()]
    body = {"id": name, "name": "Machine", "stages": stages, "concurrency": 1000 if slots else None}
    return Pipeline.model_validate(body)


def _stage(stage_id: str, dependencies: tuple[str, ...], *, critical: bool, output: bool) -> dict[str, Any]:
    kind = "output" if output else "transform" if dependencies else "input"
    common = {"max_retries": 2, "retry_delay": 5.0, "is_critical": critical, "dependencies": list(dependencies)}
    return {"id": stage_id, "type": kind, **common}


def new_execution(execution_id: str, revision: Revision) -> NewExecution:
    """An execution that nobody drives."""
    pipeline = revision.pipeline
    titles = {stage.id: stage.title for stage in pipeline.stages}
    return NewExecution(
        execution_id=execution_id,
        pipeline_id=revision.id,
        pipeline_name=pipeline.name,
        revision=1,
        variables={},
        triggered_by="machine",
        stages=tuple(NewStage(i, titles[i]) for i in pipeline.order()),
        event=Event(execution_id, 1, EventType.EXECUTION_CREATED, "created"),
        concurrency=pipeline.concurrency,
    )


def facts(execution: Execution) -> dict[str, Any]:
    """What two drivers of one execution must agree on."""
    runs = execution.stages.items()
    return {
        "status": execution.status,
        "goal": execution.goal,
        "completed": execution.completed,
        "slot": execution.slot,
        "error": execution.error,
        "ended": execution.ended,
        "paused until": execution.pause_deadline,
        "stages": {i: (r.status, r.attempt, r.output, r.error, r.started_at, r.retry_at) for i, r in runs},
        "missing": {i: r.missing for i, r in runs if r.status is StageStatus.PENDING},
        "ready": sorted(i for i in execution.ready if execution.stages[i].status is StageStatus.PENDING),
        "to undo": None if execution.rollback is None else _to_undo(execution.rollback),
    }


def _to_undo(rollback: Rollback) -> list[str]:
    """What one driver could not undo the next one tries again: an undo may be repeated."""
    return [item["stage_id"] for item in rollback.left] + list(rollback.todo)
