"""Leases on executions: the driver of an execution and the expiry time, by the database's clock.

A claim is one statement that increments the fencing token, so the previous driver can no longer write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    String,
    and_,
    bindparam,
    case,
    func,
    literal,
    null,
    or_,
    select,
    text,
    tuple_,
    union,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import NotFoundError, StoreError
from flexiroaster.model.command import Command, CommandKind
from flexiroaster.model.event import EventType
from flexiroaster.model.execution import ExecutionStatus, Goal, StageStatus
from flexiroaster.model.pipeline import Pipeline, Stage, StageType
from flexiroaster.store import pipelines
from flexiroaster.store.commands import COMMANDS
from flexiroaster.store.database import Database
from flexiroaster.store.executions import STAGES, StageRow
from flexiroaster.store.sql import TableReader, database_now
from flexiroaster.store.tables import Json, commands, events, executions, risk_assessments, stage_runs

__all__ = [
    "SUSPECT",
    "Claim",
    "Stored",
    "claim",
    "claim_one",
    "claimed_again",
    "count_take_overs",
    "has_claimable",
    "load_execution",
    "outline_execution",
    "release",
    "renew",
    "undo_claims",
]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim on an execution, whose `token` permits writes of its state.

    `claims` is the number of claims since the last progress. `lost_by` is the owner whose lease expired, if any.
    """

    execution_id: str
    token: int
    claims: int
    lost_by: str | None = None


SUSPECT = 2
"""Claims without progress after which an execution is suspect and is claimed separately.

It may crash its drivers. It may also be innocent: it lost them by chance, or to another execution of the same driver.
"""

_NO_LIMIT = 2**31 - 1

_DIALECTS = {
    "sqlite": {
        "now": "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')",
        "then": "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', :lease || ' seconds')",
        "row_lock": "",
    },
    "postgresql": {
        "now": "now()",
        "then": "now() + make_interval(secs => :lease)",
        "row_lock": "FOR NO KEY UPDATE",
    },
}
_CLAIMABLE = """
SELECT id, lease_owner FROM executions
WHERE claimable_at IS NOT NULL AND claimable_at <= {now} AND claims >= :minimum AND claims < :below
ORDER BY claimable_at, id LIMIT :limit
"""
_CLAIMABLE_ONE = """
SELECT id, lease_owner FROM executions WHERE id = :id AND claimable_at IS NOT NULL AND claimable_at <= {now}
"""
_TAKE = """
UPDATE executions AS x
SET fencing_token = fencing_token + 1, claims = claims + 1, lease_owner = :owner, claimable_at = {then}
"""
_TAKE_FOUND = f"""
WITH found AS ({{claimable}}) {_TAKE}
FROM found WHERE x.id = found.id RETURNING x.id, x.fencing_token, x.claims, found.lease_owner
"""
_TAKE_THESE = f"{_TAKE} WHERE id IN :ids RETURNING id, fencing_token, claims"
"""SQLite cannot return the old values, so they are read first; this is safe, since SQLite has one writer at a time."""

_RENEW = """
WITH held (held_id) AS (
  SELECT id FROM executions
  WHERE id IN :ids AND claimable_at IS NOT NULL AND lease_owner = :owner AND claimable_at > {now} ORDER BY id {row_lock}
)
UPDATE executions SET claimable_at = {then} FROM held WHERE id = held_id RETURNING id
"""
_RELEASE = """
WITH held (held_id) AS (
  SELECT id FROM executions WHERE id IN :ids AND lease_owner = :owner AND claimable_at IS NOT NULL
  ORDER BY id {row_lock}
)
UPDATE executions
SET lease_owner = NULL, claimable_at = {now}, claims = CASE WHEN claims > 0 THEN claims - 1 ELSE 0 END
FROM held WHERE id = held_id RETURNING id
"""
"""Both statements lock rows in the order of their ids, as the journal does, to avoid deadlocks."""

_ANY_CLAIMABLE = "SELECT 1 FROM executions WHERE claimable_at IS NOT NULL AND claimable_at <= {now} LIMIT 1"


def claim(database: Database, owner: str, *, limit: int, lease_seconds: float, suspects: bool = False) -> list[Claim]:
    """Claim up to `limit` claimable executions, longest waiting first. Raises StoreError.

    With `suspects`, claim only executions that lost their driver SUSPECT times or more without progress; otherwise
    claim only the others.
    """
    minimum, below = (SUSPECT, _NO_LIMIT) if suspects else (0, SUSPECT)
    found = {"minimum": minimum, "below": below, "limit": limit}
    return _claim(database, owner, lease_seconds, _CLAIMABLE, "FOR UPDATE SKIP LOCKED", found)


def claim_one(database: Database, owner: str, execution_id: str, *, lease_seconds: float) -> Claim | None:
    """Claim this execution if it is claimable; return None otherwise. Raises StoreError."""
    claims = _claim(database, owner, lease_seconds, _CLAIMABLE_ONE, "FOR UPDATE", {"id": execution_id})
    return claims[0] if claims else None


def renew(database: Database, owner: str, execution_ids: Collection[str], *, lease_seconds: float) -> set[str]:
    """Renew the unexpired leases of `owner` on these executions; return the ids that it holds. Raises StoreError.

    Pass only executions with a driver: a claim that got lost on its way to the driver must expire.
    """
    if not execution_ids:
        return set()
    with _store_errors("renew leases"), database.write() as connection:
        rows = _rows(connection, _RENEW, lease=lease_seconds, owner=owner, ids=list(execution_ids))
        return {row.id for row in rows}


def release(database: Database, owner: str, execution_ids: Collection[str]) -> None:
    """Release executions, so that any worker can claim them at once; that claim does not count. Raises StoreError."""
    if execution_ids:
        with _store_errors("release leases"), database.write() as connection:
            _rows(connection, _RELEASE, owner=owner, ids=list(execution_ids))


def undo_claims(database: Database, owner: str, claims: Collection[Claim], failed: str | None = None) -> None:
    """Undo claims that led to no work, in one statement. Raises StoreError.

    The claims do not count, and the next claim still sees the owner that lost the lease before. `failed` is the
    execution that could not be read: it becomes claimable only when its lease expires, so that it does not delay the
    others. A claim that has expired and was taken by another owner is left unchanged.
    """
    if not claims:
        return
    columns = executions.c
    claimed = tuple_(columns.id, columns.fencing_token).in_([(claim.execution_id, claim.token) for claim in claims])
    owners = {claim.execution_id: literal(claim.lost_by, String) for claim in claims}
    values = {
        "lease_owner": case(owners, value=columns.id),
        "claimable_at": case((columns.id == (failed or ""), columns.claimable_at), else_=database_now()),
        "claims": case((columns.claims > 0, columns.claims - 1), else_=0),
    }
    statement = update(executions).where(claimed, columns.lease_owner == owner, columns.claimable_at.is_not(None))
    with _store_errors("undo claims"), database.write() as connection:
        connection.execute(statement.values(values))


def has_claimable(database: Database) -> bool:
    """Return whether any execution is claimable. Raises StoreError."""
    with _store_errors("look for claimable executions"), database.read() as connection:
        return bool(_rows(connection, _ANY_CLAIMABLE))


def _claim(
    database: Database, owner: str, lease_seconds: float, claimable: str, lock: str, found: Mapping[str, object]
) -> list[Claim]:
    """Claim the executions that the statement `claimable` finds.

    A release clears the owner, so a remaining owner is one whose lease expired.
    """
    with _store_errors("claim executions"), database.write() as connection:
        if not database.is_sqlite:
            statement = _TAKE_FOUND.replace("{claimable}", f"{claimable} {lock}")
            return [Claim(*row) for row in _rows(connection, statement, lease=lease_seconds, owner=owner, **found)]
        owners: dict[str, str | None] = dict(_rows(connection, claimable, **found))
        if not owners:
            return []
        taken = _rows(connection, _TAKE_THESE, lease=lease_seconds, owner=owner, ids=list(owners))
        return [Claim(row.id, row.fencing_token, row.claims, owners[row.id]) for row in taken]


def _rows(connection: Connection, template: str, **parameters: object) -> list[Any]:
    """Execute a statement of this file in the database's dialect."""
    statement = text(template.format(**_DIALECTS[connection.dialect.name]))
    if "ids" in parameters:
        statement = statement.bindparams(bindparam("ids", expanding=True))
    return list(connection.execute(statement, parameters).all())


@contextmanager
def _store_errors(action: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(f"cannot {action}: {error}") from error


# --- takeovers: executions claimed from a worker whose lease expired -------------------------------------------------

_CHUNK = 100


def claimed_again(database: Database, ended_after: datetime) -> dict[str, int]:
    """Return the last event number of each execution that was claimed twice or more.

    Includes only executions that are driven or paused, or that ended after `ended_after`.
    """
    around = (
        executions.c.claimable_at.is_not(None),
        executions.c.status == ExecutionStatus.PAUSED,
        executions.c.completed_at > ended_after,
    )
    again = select(executions.c.id, executions.c.last_seq).where(executions.c.fencing_token > 1)
    statement = union(*(again.where(each) for each in around))  # each part uses its own index; an OR would use none
    with database.read() as connection:
        return {row.id: row.last_seq for row in connection.execute(statement)}


def count_take_overs(database: Database, spans: Mapping[str, tuple[int, int]], after: datetime | None = None) -> int:
    """Count the takeovers in the events of these executions.

    `spans` gives, per execution, the range of event numbers: after the first number, up to the second. With `after`,
    only events after that time count.
    """
    found, all_spans = 0, list(spans.items())
    for first in range(0, len(all_spans), _CHUNK):
        within = [
            and_(events.c.execution_id == execution_id, events.c.seq > behind, events.c.seq <= last)
            for execution_id, (behind, last) in all_spans[first : first + _CHUNK]
        ]
        statement = select(func.count()).select_from(events)
        statement = statement.where(or_(*within), events.c.type == EventType.EXECUTION_CLAIMED)
        if after is not None:
            statement = statement.where(events.c.at > after)
        with database.read() as connection:
            found += connection.execute(statement).scalar_one()
    return found


# --- loading an execution to resume it -------------------------------------------------------------------------------

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


_ALWAYS_READABLE = (
    *("id", "pipeline_id", "pipeline_name", "revision", "status", "goal", "queued", "slot", "last_seq"),
    *("started_at", "completed_at", "pause_deadline"),
)


def load_execution(
    database: Database, execution_id: str, definition: Callable[[str, int], Pipeline] | None = None
) -> Stored:
    """Read an execution in one transaction, except for its definition, which never changes.

    `definition` returns the definition of a pipeline at a revision, for callers with a cache. Raises NotFoundError,
    StoreError and DefinitionError, and errors such as ValueError when a row cannot be read.
    """
    definition = definition or partial(pipelines.definition, database)
    begun = (events.c.execution_id == execution_id, events.c.type.in_(_BEGINNINGS))
    columns = (
        *(executions.c.variables, executions.c.error),
        select(func.max(events.c.at)).where(*begun).scalar_subquery().label("running_since"),
        (executions.c.pause_deadline <= database_now()).label("overdue"),
        risk_assessments.c.level.label("risk_level"),
        risk_assessments.c.data["model_version"].as_string().label("model_version"),
    )
    row, stages, commands = _read(database, execution_id, columns, STAGES, COMMANDS)
    return _stored(
        row,
        pipeline=definition(row.pipeline_id, row.revision),
        variables=row.variables,
        running_since=row.running_since,
        error=row.error,
        stages=stages,
        commands=commands,
        overdue=bool(row.overdue),
        risk_level=row.risk_level,
        model_version=row.model_version,
    )


_STAGE_OUTLINES = TableReader(stage_runs, StageRow, {"output": null(), "error": null()}, status=StageStatus)
_COMMAND_OUTLINES = TableReader(
    commands, Command, {"arguments": literal({}, Json), "requested_by": literal("")}, kind=CommandKind
)


def outline_execution(database: Database, execution_id: str) -> Stored:
    """Read only the safe columns of an execution with unreadable rows or definition: enough to end it, not to run it.

    Its pipeline is made from its stage rows, without dependencies and configs. Raises NotFoundError and StoreError.
    """
    row, stages, commands = _read(database, execution_id, (), _STAGE_OUTLINES, _COMMAND_OUTLINES)
    made_of = tuple(Stage.model_construct(id=s.stage_id, name=s.name, type=StageType.TRANSFORM) for s in stages)
    pipeline = Pipeline.model_construct(id=row.pipeline_id, name=row.pipeline_name, stages=made_of)
    return _stored(
        row, pipeline=pipeline, variables={}, running_since=None, error=None, stages=stages, commands=commands
    )


def _read(
    database: Database,
    execution_id: str,
    columns: Sequence[ColumnElement[Any]],
    stage_reader: TableReader[StageRow],
    command_reader: TableReader[Command],
) -> tuple[Row[Any], list[StageRow], list[Command]]:
    """Read an execution, with `columns` in addition, its stages and its pending commands in one transaction."""
    joined = executions.outerjoin(risk_assessments, risk_assessments.c.execution_id == executions.c.id)
    statement = select(*(executions.c[name] for name in _ALWAYS_READABLE), *columns).select_from(joined)
    pending = (commands.c.execution_id == execution_id, commands.c.handled_at.is_(None))
    stages = stage_reader.select(stage_runs.c.execution_id == execution_id).order_by(stage_runs.c.position)
    with _store_errors(f"read execution {execution_id}"), database.read() as connection:
        row = connection.execute(statement.where(executions.c.id == execution_id)).first()
        if row is None:
            raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
        found = stage_reader.all(connection, stages)
        return row, found, command_reader.all(connection, command_reader.select(*pending).order_by(commands.c.id))


def _stored(row: Row[Any], **others: Any) -> Stored:  # noqa: ANN401 - the other fields
    names = ("queued", "slot", "last_seq", "started_at", "completed_at", "pause_deadline", "revision")
    state = {name: row._mapping[name] for name in names}
    return Stored(execution_id=row.id, status=ExecutionStatus(row.status), goal=Goal(row.goal), **state, **others)
