"""Output of executions and stages as JSON documents and as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from flexiroaster.cli.text import console, duration, one_line, rows, styled, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flexiroaster.service.executions.executions import ExecutionRow, StageRow

__all__ = ["document", "print_error", "print_stages", "stage_document", "summary"]


def summary(row: ExecutionRow) -> dict[str, Any]:
    """Return the JSON document of an execution without its stages, for lists and commands."""
    return {
        "execution_id": row.id,
        "pipeline_id": row.pipeline_id,
        "pipeline_name": row.pipeline_name,
        "revision": row.revision,
        "status": row.status,
        "triggered_by": row.triggered_by,
        "risk_score": row.risk_score,
        "completed_stages": row.completed_stages,
        "total_stages": row.total_stages,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "completed_at": row.completed_at,
        "duration": row.duration,
        "error": row.error,
        "pause_deadline": row.pause_deadline,
    }


def document(execution: ExecutionRow, stages: Iterable[StageRow]) -> dict[str, Any]:
    """Return the document of `run --json` and `executions show --json`."""
    return {
        "execution_id": execution.id,
        "pipeline_id": execution.pipeline_id,
        "revision": execution.revision,
        "status": execution.status,
        "duration": execution.duration,
        "error": execution.error,
        "stages": [stage_document(stage) for stage in stages],
    }


def stage_document(stage: StageRow) -> dict[str, Any]:
    """Return the document of a stage; `duration` is that of the last attempt, in seconds."""
    return {
        "id": stage.stage_id,
        "name": stage.name,
        "status": stage.status,
        "attempt": stage.attempt,
        "duration": stage.duration,
        "rows": rows(stage.output),
        "output": stage.output,
        "error": stage.error,
    }


def print_stages(stages: Iterable[StageRow]) -> None:
    """Print a table of stages to stdout."""
    shown = table("stage", "status", "attempt", "duration", "rows", right=("attempt", "duration", "rows"))
    for stage in stages:
        count = rows(stage.output)
        counted = "-" if count is None else f"{count:,}"
        took = duration(stage.duration)
        shown.add_row(stage.stage_id, styled(stage.status), str(stage.attempt or "-"), took, counted)
    console().print(shown)


def print_error(execution: ExecutionRow, *, err: bool) -> None:
    """Print the error of an execution, if any, as one line that names the stage."""
    if execution.error is not None:
        typer.echo(f"Error: {one_line(str(execution.error['message']))}", err=err)
