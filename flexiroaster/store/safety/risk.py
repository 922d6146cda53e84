"""The risk models, assessments and learned states of the safety engine, and the lease of the process that trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from flexiroaster.store.database import Database
from flexiroaster.store.sql import TableReader, database_now, database_then
from flexiroaster.store.tables import risk_assessments, risk_models, risk_progress, risk_states

__all__ = [
    "ALARMS",
    "BURST",
    "GROUP",
    "INSTALLATION",
    "ODDS",
    "PIPELINE",
    "STAGES",
    "AssessmentRow",
    "Key",
    "ModelRow",
    "NewModel",
    "Progress",
    "add_model",
    "advance",
    "by_executions",
    "claim_training",
    "claim_training_at_once",
    "forget_states",
    "get_model",
    "list_models",
    "load_states",
    "locked_progress",
    "probabilities",
    "progress",
    "progress_and",
    "release_training",
    "renew_training",
    "save_states",
]


# --- models; the newest is in use ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Training:
    created_at: datetime
    version: str
    rung: str
    reason: str
    promoted: bool
    examples: int
    seed: int
    data_hash: str
    metrics: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class NewModel(_Training):
    """A training to store: `model` has its parameters, `metrics` compare the challenger with the champion."""

    model: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRow(_Training):
    """A stored training, without the parameters of the model."""

    id: int


def add_model(connection: Connection, new: NewModel) -> None:
    """Store a training."""
    connection.execute(insert(risk_models).values(**asdict(new)))


def get_model(database: Database, number: int) -> dict[str, Any]:
    """Return the parameters of a model."""
    with database.read() as connection:
        statement = select(risk_models.c.model).where(risk_models.c.id == number)
        model: dict[str, Any] = connection.execute(statement).scalar_one()
    return model


def list_models(database: Database, limit: int) -> list[ModelRow]:
    """Return the newest trainings, newest first."""
    reader = TableReader(risk_models, ModelRow)
    with database.read() as connection:
        return reader.all(connection, reader.select().order_by(risk_models.c.id.desc()).limit(limit))


# --- assessments, which the journal writes together with the executions ----------------------------------------------


@dataclass(frozen=True, slots=True)
class AssessmentRow:
    """A stored assessment. `acted` is false in shadow mode; `forced` is the reason for overriding the gate."""

    execution_id: str
    pipeline_id: str
    at: datetime
    probability: float
    level: str
    gate: str
    acted: bool
    forced: str | None
    data: dict[str, Any]


def by_executions(database: Database, execution_ids: Collection[str]) -> dict[str, AssessmentRow]:
    """Return the assessments of these executions, by execution id; one without an assessment is missing."""
    reader = TableReader(risk_assessments, AssessmentRow)
    wanted = reader.select(risk_assessments.c.execution_id.in_(list(execution_ids)))
    with database.read() as connection:
        return {row.execution_id: row for row in reader.all(connection, wanted)}


def probabilities(database: Database, execution_ids: Collection[str]) -> list[tuple[str, float]]:
    """Return risk level and failure probability of each of these executions that was assessed."""
    columns = (risk_assessments.c.level, risk_assessments.c.probability)
    with database.read() as connection:
        rows = connection.execute(select(*columns).where(risk_assessments.c.execution_id.in_(list(execution_ids))))
        return [(row.level, row.probability) for row in rows]


# --- the training lease: one process of an installation trains at a time, by the database's clock --------------------


def claim_training(database: Database, owner: str, *, model_id: int | None, lease_seconds: float) -> bool:
    """Claim the next automatic training; return whether the claim succeeded. Raises StoreError.

    The claim fails while another process trains, before the training may begin, and if a model newer than `model_id`
    exists: then another process has trained since this training became due.
    """
    newest = select(func.coalesce(func.max(risk_models.c.id), 0)).scalar_subquery()
    may_begin = or_(risk_progress.c.training_until.is_(None), risk_progress.c.training_until <= database_now())
    return _claim(database, owner, lease_seconds, may_begin, newest == (model_id or 0))


def claim_training_at_once(database: Database, owner: str, *, lease_seconds: float) -> bool:
    """Claim a training that a user requested; return False while another training runs. Raises StoreError."""
    free = or_(risk_progress.c.training_owner.is_(None), risk_progress.c.training_until <= database_now())
    return _claim(database, owner, lease_seconds, free)


def renew_training(database: Database, owner: str, *, lease_seconds: float) -> bool:
    """Renew the lease; return False if another process has claimed the training. Raises StoreError."""
    return _claim(database, owner, lease_seconds, risk_progress.c.training_owner == owner)


def release_training(database: Database, owner: str, *, pause_seconds: float) -> None:
    """Release the lease after a training, whatever its result. Raises StoreError.

    The next automatic training may begin after `pause_seconds`.
    """
    values = {"training_owner": None, "training_until": database_then(pause_seconds)}
    with database.write() as connection:
        connection.execute(update(risk_progress).where(risk_progress.c.training_owner == owner).values(values))


def _claim(database: Database, owner: str, lease_seconds: float, *conditions: ColumnElement[bool]) -> bool:
    values = {"training_owner": owner, "training_until": database_then(lease_seconds)}
    with database.write() as connection:
        return connection.execute(update(risk_progress).where(*conditions).values(values)).rowcount == 1


# --- states: compact summaries of the run history, and the part of it folded into them -------------------------------

Key = tuple[str, str]
"""Scope and name of a state."""

PIPELINE, GROUP, INSTALLATION, BURST = "pipeline", "group", "installation", "burst"
STAGES, ODDS, ALARMS = "stages", "odds", "alarms"
"""Scopes: the stages of a pipeline; the odds of repeated attempts, and the outcomes of alarms (both: empty name)."""

CHUNK = 400


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest end time in the states, the number of completed and failed runs in them, and their version."""

    folded_until: datetime | None
    runs: int
    version: int
    model_id: int | None = None


def progress(connection: Connection) -> Progress:
    """Return the progress of the states, with the id of the newest model."""
    return Progress(*connection.execute(select(*_PROGRESS, _NEWEST)).one())


def progress_and(connection: Connection, condition: ColumnElement[bool]) -> tuple[Progress, bool]:
    """Return the progress, and whether a condition on other tables holds."""
    *values, holds = connection.execute(select(*_PROGRESS, _NEWEST, condition)).one()
    return Progress(*values), bool(holds)


def locked_progress(connection: Connection) -> Progress:
    """Return the progress, locked until the transaction ends, so that only one process folds runs at a time."""
    return Progress(*connection.execute(select(*_PROGRESS, _NEWEST).with_for_update(of=risk_progress)).one())


def advance(connection: Connection, before: Progress, until: datetime | None, runs: int) -> Progress:
    """Record that `runs` runs were folded, the newest of which, if any, ended at `until`; return the new progress."""
    newest = max((at for at in (until, before.folded_until) if at is not None), default=None)
    now = Progress(newest, before.runs + runs, before.version + 1, before.model_id)
    values = {"folded_until": now.folded_until, "runs": now.runs, "version": now.version}
    connection.execute(update(risk_progress).values(**values))
    return now


def load_states(connection: Connection, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
    """Return those of these states that exist, by key."""
    found: dict[Key, dict[str, Any]] = {}
    key, wanted = tuple_(risk_states.c.scope, risk_states.c.name), list(keys)
    for begin in range(0, len(wanted), CHUNK):
        rows = connection.execute(select(risk_states).where(key.in_(wanted[begin : begin + CHUNK])))
        found |= {(row.scope, row.name): row.state for row in rows}
    return found


def save_states(connection: Connection, states: Mapping[Key, dict[str, Any]]) -> None:
    """Insert states, or replace those with the same keys."""
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(risk_states)
    written = insert.on_conflict_do_update(
        index_elements=[risk_states.c.scope, risk_states.c.name], set_={"state": insert.excluded.state}
    )
    rows = [{"scope": scope, "name": name, "state": state} for (scope, name), state in states.items()]
    for begin in range(0, len(rows), CHUNK):
        connection.execute(written, rows[begin : begin + CHUNK])


def forget_states(connection: Connection) -> Progress:
    """Delete the states that come from the run history, so that it can be folded again; takes the lock.

    The newest folded end stays recorded. The states learned from stages stay, since stages have no history.
    """
    before = locked_progress(connection)
    connection.execute(delete(risk_states).where(risk_states.c.scope.not_in((STAGES, ODDS, ALARMS))))
    connection.execute(update(risk_progress).values(runs=0, version=before.version + 1))
    return Progress(before.folded_until, 0, before.version + 1)


_NEWEST = select(risk_models.c.id).order_by(risk_models.c.id.desc()).limit(1).scalar_subquery()
_PROGRESS = (risk_progress.c.folded_until, risk_progress.c.runs, risk_progress.c.version)
