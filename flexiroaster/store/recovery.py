"""Reads of everything that a driver needs to resume an execution that it has claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import NotFoundError, StoreError
from flexiroaster.model.command import Command, CommandKind
from flexiroaster.model.event import EventType
from flexiroaster.model.execution import ExecutionStatus, Goal, StageStatus
from flexiroaster.model.pipeline import Pipeline, Stage, StageType
from flexiroaster.store import pipelines
from flexiroaster.store.clock import database_now
from flexiroaster.store.database import Database
from flexiroaster.store.queries import StageRow
from flexiroaster.store.safety_tables import risk_assessments
from flexiroaster.store.tables import commands, events, executions, stage_runs

__all__ = ["Stored", "load", "outline"]

_BEGINNINGS = (EventType.EXECUTION_STARTED, EventType.EXECUTION_RESUMED, EventType.EXECUTION_RETRIED)


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored execution with its definition, its stages and its pending commands.

    `running_since` is the time of the last start, resume or retry. `overdue` tells whether the pause deadline has
    passed by the database's clock. `risk_level` and `model_version` come from the assessment at the start, if any.
    """

    execution_id: str
    pipeline: Pipeline
    variables: dict[str, Any]
    status: ExecutionStatus
    goal: Goal
    queued: bool
    slot: int | None
    last_seq: int
    started_at: datetime | None
    completed_at: datetime | None
    running_since: datetime | None
    error: dict[str, Any] | None
    stages: list[StageRow]
    commands: list[Command]
    pause_deadline: datetime | None = None
    overdue: bool = False
    risk_level: str | None = None
    model_version: str | None = None
    revision: int = 0


def load(database: Database, execution_id: str, definition: Callable[[str, int], Pipeline] | None = None) -> Stored:
    """Read an execution in one transaction, except for its definition, which never changes.

    `definition` returns the definition of a pipeline at a revision, for callers with a cache. Raises NotFoundError,
    StoreError and DefinitionError, and errors such as ValueError when a row cannot be read.
    """
    definition = definition or partial(pipelines.definition, database)
    key = executions.c.id == execution_id
    try:
        with database.read() as connection:
            overdue = (executions.c.pause_deadline <= database_now()).label("overdue")
            assessed = (
                risk_assessments.c.level.label("risk_level"),
                risk_assessments.c.data["model_version"].as_string().label("model_version"),
            )
            joined = executions.outerjoin(risk_assessments, risk_assessments.c.execution_id == executions.c.id)
            row = connection.execute(select(executions, overdue, *assessed).select_from(joined).where(key)).first()
            if row is None:
                raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
            stages = connection.execute(
                select(*[stage_runs.c[name] for name in StageRow.__slots__])
                .where(stage_runs.c.execution_id == execution_id)
                .order_by(stage_runs.c.position)
            ).all()
            pending = connection.execute(
                select(commands)
                .where(commands.c.execution_id == execution_id, commands.c.handled_at.is_(None))
                .order_by(commands.c.id)
            ).all()
            since = connection.execute(
                select(func.max(events.c.at)).where(
                    events.c.execution_id == execution_id, events.c.type.in_(_BEGINNINGS)
                )
            ).scalar()
    except SQLAlchemyError as error:
        raise StoreError(f"cannot read execution {execution_id}: {error}") from error
    return Stored(
        execution_id=execution_id,
        pipeline=definition(row.pipeline_id, row.revision),
        variables=row.variables,
        status=ExecutionStatus(row.status),
        goal=Goal(row.goal),
        queued=row.queued,
        slot=row.slot,
        last_seq=row.last_seq,
        started_at=row.started_at,
        completed_at=row.completed_at,
        running_since=since,
        error=row.error,
        stages=[StageRow(**{**s._mapping, "status": StageStatus(s.status)}) for s in stages],
        commands=[Command(c.id, c.execution_id, CommandKind(c.kind), c.arguments, c.requested_by) for c in pending],
        pause_deadline=row.pause_deadline,
        overdue=bool(row.overdue),
        risk_level=row.risk_level,
        model_version=row.model_version,
        revision=row.revision,
    )


def outline(database: Database, execution_id: str) -> Stored:
    """Read only the safe columns of an execution with unreadable rows or definition: enough to end it, not to run it.

    Its pipeline is made from its stage rows, without dependencies and configs. Raises NotFoundError and StoreError.
    """
    head = ("pipeline_id", "pipeline_name", "revision", "status", "goal", "queued", "slot", "last_seq")
    times = ("started_at", "completed_at", "pause_deadline")
    unread = {"output": None, "error": None}
    try:
        with database.read() as connection:
            row = connection.execute(
                select(*(executions.c[name] for name in (*head, *times))).where(executions.c.id == execution_id)
            ).first()
            if row is None:
                raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
            stages = connection.execute(
                select(*(stage_runs.c[name] for name in StageRow.__slots__ if name not in unread))
                .where(stage_runs.c.execution_id == execution_id)
                .order_by(stage_runs.c.position)
            ).all()
            pending = connection.execute(
                select(commands.c.id, commands.c.kind)
                .where(commands.c.execution_id == execution_id, commands.c.handled_at.is_(None))
                .order_by(commands.c.id)
            ).all()
    except SQLAlchemyError as error:
        raise StoreError(f"cannot read execution {execution_id}: {error}") from error
    made_of = tuple(Stage.model_construct(id=s.stage_id, name=s.name, type=StageType.TRANSFORM) for s in stages)
    return Stored(
        execution_id=execution_id,
        pipeline=Pipeline.model_construct(id=row.pipeline_id, name=row.pipeline_name, stages=made_of),
        variables={},
        status=ExecutionStatus(row.status),
        goal=Goal(row.goal),
        queued=row.queued,
        slot=row.slot,
        last_seq=row.last_seq,
        started_at=row.started_at,
        completed_at=row.completed_at,
        running_since=None,
        error=None,
        stages=[StageRow(**{**s._mapping, **unread, "status": StageStatus(s.status)}) for s in stages],
        commands=[Command(c.id, execution_id, CommandKind(c.kind)) for c in pending],
        pause_deadline=row.pause_deadline,
        revision=row.revision,
    )
