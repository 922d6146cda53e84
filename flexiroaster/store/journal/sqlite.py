"""The journal on SQLite: in-process statements and one commit.

It uses plain sqlite3 below SQLAlchemy's engine: at about 10 µs per statement, SQLAlchemy's overhead would dominate.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import cast

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import StoreError
from flexiroaster.model.event import Event
from flexiroaster.model.execution import StageStatus
from flexiroaster.store.database import UnreachableError
from flexiroaster.store.journal.transitions import (
    Applied,
    Change,
    Finding,
    NewAssessment,
    NewDecision,
    NewExecution,
    NewStage,
    Transition,
    decision_id,
    previously_applied,
)
from flexiroaster.store.safety.insights import RECORD, finding_row
from flexiroaster.store.sql import clean, to_json

__all__ = ["SqliteBackend"]

_NOW = "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', ? || ' seconds')"

_CREATE = f"""
INSERT INTO executions (id, pipeline_id, pipeline_name, revision, status, variables, triggered_by, total_stages,
                        completed_stages, created_at, last_seq, fencing_token, lease_owner, claimable_at, claims, goal,
                        queued, slot, idempotency_key, request_digest, parent_id, risk_score)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CASE WHEN ? THEN NULL ELSE {_NOW} END, ?, 'run', ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""  # noqa: S608 - both parts are constants of this file
_PARENT = "SELECT 1 FROM executions WHERE id = ?"
_SLOTS = "SELECT slot FROM executions WHERE pipeline_id = ? AND slot IS NOT NULL"
_QUEUE = "SELECT id FROM executions WHERE pipeline_id = ? AND queued ORDER BY created_at, id LIMIT 1"
_PROMOTE = f"""
UPDATE executions SET queued = 0, slot = ?, claimable_at = {_NOW}, lease_owner = NULL WHERE id = ?
"""  # noqa: S608 - as above
_CREATE_STAGE = """
INSERT INTO stage_runs (execution_id, stage_id, position, name, status, attempt, output, is_anomaly)
VALUES (?, ?, ?, ?, ?, 0, ?, 0)
"""
_MOVE = """
UPDATE executions SET status = ?, completed_stages = ?, last_seq = ?, started_at = ?, completed_at = ?, error = ?,
                      goal = ?, pause_deadline = ?,
                      lease_owner = CASE WHEN ? THEN NULL ELSE lease_owner END,
                      claimable_at = CASE WHEN ? THEN ? ELSE claimable_at END,
                      slot = CASE WHEN ? THEN NULL ELSE slot END, queued = CASE WHEN ? THEN 0 ELSE queued END,
                      claims = CASE WHEN ? THEN 1 ELSE claims END
WHERE id = ? AND fencing_token = ? AND last_seq = ? AND status = ? AND (queued OR NOT ?)
"""
_HANDLED = f"UPDATE commands SET handled_at = {_NOW}, outcome = ? WHERE id = ?"  # noqa: S608 - as above
_WANTED = f"""
UPDATE executions SET claimable_at = {_NOW}
WHERE id = ? AND EXISTS (SELECT 1 FROM commands WHERE execution_id = executions.id AND handled_at IS NULL)
"""  # noqa: S608 - as above
_MOVE_STAGE = """
UPDATE stage_runs SET status = ?, attempt = ?, started_at = ?, completed_at = ?, retry_at = ?, output = ?,
                      error = ?, is_anomaly = ?
WHERE execution_id = ? AND stage_id = ?
"""
_ASSESS = """
INSERT INTO risk_assessments (execution_id, pipeline_id, at, probability, level, gate, acted, forced, said, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_DECIDE = """
INSERT INTO decisions (id, execution_id, seq, pipeline_id, stage_id, attempt, at, error_class, action, taken, mode,
                       data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_EVENT = """
INSERT INTO events (execution_id, seq, at, type, level, stage_id, attempt, message, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_LOOK = "SELECT fencing_token, last_seq, slot, queued FROM executions WHERE id = ?"
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class SqliteBackend:
    """The journal's connection to an SQLite file. For one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        try:
            self._pooled = engine.raw_connection()
        except SQLAlchemyError as error:
            raise StoreError(f"cannot open the database: {error}") from error
        self._connection = cast("sqlite3.Connection", self._pooled.driver_connection)

    def apply(
        self, new: Sequence[NewExecution], transitions: Sequence[Transition], doubtful: Collection[str] = ()
    ) -> dict[str, Applied]:
        """Apply all changes in one transaction; return the results of those that landed. See `Backend`."""
        changes: list[Change] = [*new, *transitions]
        self._roll_back()  # an interrupted writer may have left a transaction open
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            landed = {}
            for item in changes:
                before = _landed_before(cursor, item) if item.execution_id in doubtful else None
                if (written := before or _write(cursor, item)) is not None:
                    landed[item.execution_id] = written
            cursor.execute("COMMIT")
        except Exception as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
                raise UnreachableError(f"the database is busy: {error}") from error
            reason = error if isinstance(error, sqlite3.Error) else repr(error)
            raise StoreError(f"the database rejected a write: {reason}") from error
        finally:
            self._roll_back()
            cursor.close()
        return landed

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # the error that led here matters more
                self._connection.rollback()

    def close(self) -> None:
        """Return the connection to the pool."""
        self._pooled.close()


def _landed_before(cursor: sqlite3.Cursor, item: Change) -> Applied | None:
    row = cursor.execute(_LOOK, (item.execution_id,)).fetchone()
    return None if row is None else previously_applied(item, row)


def _write(cursor: sqlite3.Cursor, item: Change) -> Applied | None:
    return _create(cursor, item) if isinstance(item, NewExecution) else _move(cursor, item)


def _create(cursor: sqlite3.Cursor, item: NewExecution) -> Applied | None:
    if item.parent_id is not None and cursor.execute(_PARENT, (item.parent_id,)).fetchone() is None:
        return None
    slot = _free_slot(cursor, item) if item.concurrency is not None else None
    queued = item.concurrency is not None and slot is None
    if queued and not item.queue:
        return None
    owner = None if queued or item.paused else item.owner
    token = 1 if owner else 0
    done = sum(stage.taken_over for stage in item.stages)
    head = (item.execution_id, item.pipeline_id, clean(item.pipeline_name), item.revision, item.status)
    asked = (to_json(item.variables), clean(item.triggered_by))
    counts = (len(item.stages), done, _time(item.event.at), len(item.events))
    lease = (token, owner, queued or item.paused, item.lease_seconds if owner else 0, token)
    keys = (queued, slot, item.idempotency_key, item.request_digest, item.parent_id)
    risk_score = None if item.assessment is None else item.assessment.risk_score
    cursor.execute(_CREATE, (*head, *asked, *counts, *lease, *keys, risk_score))
    if cursor.rowcount != 1:
        return None
    cursor.executemany(_CREATE_STAGE, [_stage_row(item.execution_id, i, s) for i, s in enumerate(item.stages)])
    cursor.executemany(_ADD_EVENT, map(_event_row, item.events))
    if item.assessment is not None:
        cursor.execute(_ASSESS, _assessment_row(item, item.assessment))
    cursor.executemany(RECORD, [_insight_row(finding, item.event.at) for finding in item.findings])
    return Applied(slot, queued)


def _assessment_row(item: NewExecution, said: NewAssessment) -> tuple[object, ...]:
    head = (item.execution_id, item.pipeline_id, _time(said.at), said.probability, said.level, said.gate, said.acted)
    return (*head, said.forced and clean(said.forced), to_json(said.said), to_json(said.data))


def _insight_row(finding: Finding, at: datetime) -> dict[str, object]:
    row = finding_row(finding, at)
    return {**row, "factors": to_json(row["factors"]), "created_at": _time(at), "last_seen_at": _time(at)}


def _free_slot(cursor: sqlite3.Cursor, item: NewExecution) -> int | None:
    """Return the lowest free slot of the pipeline; None while others queue, since this one must not overtake them."""
    if cursor.execute(_QUEUE, (item.pipeline_id,)).fetchone():
        return None
    taken = {row[0] for row in cursor.execute(_SLOTS, (item.pipeline_id,))}
    return next((slot for slot in range(1, (item.concurrency or 0) + 1) if slot not in taken), None)


def _stage_row(execution_id: str, position: int, stage: NewStage) -> tuple[object, ...]:
    status = StageStatus.COMPLETED if stage.taken_over else StageStatus.PENDING
    return (execution_id, stage.stage_id, position, clean(stage.name), status, to_json(stage.output))


def _move(cursor: sqlite3.Cursor, item: Transition) -> Applied | None:
    started, ended = _time(item.started_at), _time(item.completed_at)
    deadline = _time(item.pause_deadline)
    state = (item.status, item.completed_stages, item.last_seq, started, ended, to_json(item.error), item.goal)
    flags = (deadline, item.release, item.release, deadline, item.freed_slot is not None, item.ends, item.progress)
    guard = (item.execution_id, item.token, item.expected_seq, item.expected, item.waits)
    cursor.execute(_MOVE, state + flags + guard)
    if cursor.rowcount != 1:
        return None
    for s in item.stages:
        times = (_time(s.started_at), _time(s.completed_at), _time(s.retry_at))
        row = (s.status, s.attempt, *times, to_json(s.output), to_json(s.error), s.is_anomaly)
        cursor.execute(_MOVE_STAGE, (*row, item.execution_id, s.stage_id))
    cursor.executemany(_ADD_EVENT, map(_event_row, item.events))
    cursor.executemany(_DECIDE, [_decision_row(item, decision) for decision in item.decisions])
    for command_id, outcome in item.handled:
        cursor.execute(_HANDLED, (0, clean(outcome), command_id))
    if item.release:  # the driver may not have seen the newest command
        cursor.execute(_WANTED, (0, item.execution_id))
    if item.freed_slot is not None and (next_one := cursor.execute(_QUEUE, (item.pipeline_id,)).fetchone()):
        cursor.execute(_PROMOTE, (item.freed_slot, 0, next_one[0]))
    return Applied()


def _decision_row(item: Transition, made: NewDecision) -> tuple[object, ...]:
    key = (decision_id(item.execution_id, made.seq), item.execution_id, made.seq, item.pipeline_id)
    about = (made.stage_id, made.attempt, _time(made.at), made.error_class)
    return (*key, *about, made.action, made.taken, made.mode, to_json(made.data))


def _event_row(event: Event) -> tuple[object, ...]:
    head = (event.execution_id, event.seq, _time(event.at), event.type, event.level, event.stage_id, event.attempt)
    return (*head, clean(event.message), to_json(event.data))


def _time(at: datetime | None) -> str | None:
    return at.isoformat(timespec="microseconds") if at else None
