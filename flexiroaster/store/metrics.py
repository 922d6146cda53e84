"""Aggregate figures over all pipelines and executions, with one read per table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, DateTime, Integer, cast, extract, func, select, type_coerce

from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.store.database import Database
from flexiroaster.store.tables import executions, pipelines

__all__ = ["ExecutionFigures", "PipelineFigures", "execution_figures", "pipeline_figures"]


@dataclass(frozen=True, slots=True)
class PipelineFigures:
    """The number of pipelines, and of active pipelines."""

    total: int
    active: int


@dataclass(frozen=True, slots=True)
class ExecutionFigures:
    """The number of executions by status, and the mean duration (s) of completed executions."""

    by_status: dict[ExecutionStatus, int]
    mean_duration: float | None


def pipeline_figures(database: Database) -> PipelineFigures:
    """Return the figures of all pipelines that are not deleted."""
    active = func.coalesce(func.sum(cast(pipelines.c.is_active, Integer)), 0)
    statement = select(func.count(), active).where(pipelines.c.deleted_at.is_(None))
    with database.read() as connection:
        total, switched_on = connection.execute(statement).one()
    return PipelineFigures(total, int(switched_on))


def execution_figures(database: Database, since: datetime) -> ExecutionFigures:
    """Return the figures of the executions created since then."""
    with database.read() as connection:
        statement = select(executions.c.status, func.count(), func.avg(_seconds(connection)))
        rows = connection.execute(statement.where(executions.c.created_at >= since).group_by(executions.c.status)).all()
    means = {status: mean for status, _, mean in rows}
    mean = means.get(ExecutionStatus.COMPLETED)
    counts = {ExecutionStatus(status): number for status, number, _ in rows}
    return ExecutionFigures(counts, None if mean is None else float(mean))


def _seconds(connection: Connection) -> ColumnElement[Any]:
    """Return the duration in seconds, null before the end; SQLite computes in days."""
    started, ended = executions.c.started_at, executions.c.completed_at
    if connection.dialect.name == "sqlite":
        return (func.julianday(ended) - func.julianday(started)) * 86_400.0
    return extract("epoch", type_coerce(ended, DateTime) - type_coerce(started, DateTime))
