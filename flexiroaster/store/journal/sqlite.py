"""The journal on SQLite: in-process statements and one commit.

It uses plain sqlite3 below SQLAlchemy's engine: at about 10 µs per statement, SQLAlchemy's overhead would dominate.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from operator import itemgetter
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import StoreError
from flexiroaster.store.database import UnreachableError
from flexiroaster.store.journal import rows
from flexiroaster.store.journal.transitions import (
    Applied,
    Change,
    Finding,
    NewExecution,
    Transition,
    previously_applied,
)
from flexiroaster.store.safety.insights import RECORD, finding_row
from flexiroaster.store.sql import to_json

__all__ = ["SqliteBackend"]

_NOW = "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"
_LEASE_END = "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', :lease || ' seconds')"


class _Statement:
    """A statement with named parameters (`:status`), bound by position: a named one takes twice as long to bind.

    Numbers (`?5`) would do as well, but Python 3.12.0 to 3.12.3 warns of each of them.
    """

    def __init__(self, named: str, columns: Sequence[str]) -> None:
        names = re.findall(r":([a-z]\w*)", named)
        self.named = named
        self.sql = re.sub(r":[a-z]\w*", "?", named)
        self.values: Callable[[rows.Row], rows.Row] = itemgetter(*map(columns.index, names))
        """The parameters, from a row with these columns."""

    def execute(self, cursor: sqlite3.Cursor, row: rows.Row) -> None:
        """Execute it for a row."""
        cursor.execute(self.sql, self.values(row))

    def execute_all(self, cursor: sqlite3.Cursor, each: Iterable[rows.Row]) -> None:
        """Execute it for each row."""
        cursor.executemany(self.sql, map(self.values, each))


def _insert(table: str, columns: Sequence[str]) -> _Statement:
    values = ", ".join(f":{name}" for name in columns)
    return _Statement(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})", columns)  # noqa: S608 - constants


_CREATE = _Statement(
    f"""INSERT INTO executions (id, pipeline_id, pipeline_name, revision, status, variables, triggered_by, total_stages,
                        completed_stages, created_at, last_seq, fencing_token, lease_owner,
                        claimable_at, claims, goal, queued, slot,
                        idempotency_key, request_digest, parent_id, risk_score)
VALUES (:execution_id, :pipeline_id, :pipeline_name, :revision, :status, :variables, :triggered_by, :total_stages,
        :completed_stages, :created_at, :last_seq, :token, CASE WHEN :token THEN :owner END,
        CASE WHEN :queued OR :status = 'paused' THEN NULL ELSE {_LEASE_END} END, :token, 'run', :queued, :slot,
        :idempotency_key, :request_digest, :parent_id, :risk_score)
ON CONFLICT DO NOTHING
""",  # noqa: S608 - all parts are constants of this file
    (*rows.EXECUTION, "token", "queued", "slot"),
)
_PARENT = "SELECT 1 FROM executions WHERE id = ?"
_SLOTS = "SELECT slot FROM executions WHERE pipeline_id = ? AND slot IS NOT NULL"
_QUEUE = "SELECT id FROM executions WHERE pipeline_id = ? AND queued ORDER BY created_at, id LIMIT 1"
_PROMOTE = f"""
UPDATE executions SET queued = 0, slot = ?, claimable_at = {_NOW}, lease_owner = NULL WHERE id = ?
"""  # noqa: S608 - as above
_CREATE_STAGE = _Statement(
    """INSERT INTO stage_runs (execution_id, stage_id, position, name, status, attempt, output, is_anomaly)
VALUES (:execution_id, :stage_id, :position, :name, :status, 0, :output, 0)
""",
    rows.NEW_STAGE,
)
_MOVE = _Statement(
    """UPDATE executions
SET status = :status, completed_stages = :completed_stages, last_seq = :last_seq, started_at = :started_at,
    completed_at = :completed_at, error = :error, goal = :goal, pause_deadline = :pause_deadline,
    lease_owner = CASE WHEN :release THEN NULL ELSE lease_owner END,
    claimable_at = CASE WHEN :release THEN :pause_deadline ELSE claimable_at END,
    slot = CASE WHEN :freed_slot IS NULL THEN slot END, queued = CASE WHEN :ends THEN 0 ELSE queued END,
    claims = CASE WHEN :progress THEN 1 ELSE claims END
WHERE id = :execution_id AND fencing_token = :token AND last_seq = :expected_seq AND status = :expected
  AND (queued OR NOT :must_be_queued)
""",
    rows.TRANSITION,
)
_MOVE_STAGE = _Statement(
    """UPDATE stage_runs
SET status = :status, attempt = :attempt, started_at = :started_at, completed_at = :completed_at,
    retry_at = :retry_at, output = :output, error = :error, is_anomaly = :is_anomaly
WHERE execution_id = :execution_id AND stage_id = :stage_id
""",
    rows.STAGE,
)
_HANDLE_COMMAND = _Statement(
    f"UPDATE commands SET handled_at = {_NOW}, outcome = :outcome WHERE id = :command_id",  # noqa: S608 - as above
    rows.HANDLED_COMMAND,
)
_MAKE_CLAIMABLE = f"""
UPDATE executions SET claimable_at = {_NOW}
WHERE id = ? AND EXISTS (SELECT 1 FROM commands WHERE execution_id = executions.id AND handled_at IS NULL)
"""  # noqa: S608 - as above
_ADD_EVENT = _insert("events", rows.EVENT)
_ADD_ASSESSMENT = _insert("risk_assessments", rows.ASSESSMENT)
_ADD_DECISION = _insert("decisions", rows.DECISION)
_LOOK_UP = "SELECT fencing_token, last_seq, slot, queued FROM executions WHERE id = ?"
_ENCODED = {"factors", "created_at", "last_seen_at"}
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
            for change in changes:
                written = _landed_before(cursor, change) if change.execution_id in doubtful else None
                if written is None:
                    written = _create(cursor, change) if isinstance(change, NewExecution) else _move(cursor, change)
                if written is not None:
                    landed[change.execution_id] = written
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


def _landed_before(cursor: sqlite3.Cursor, change: Change) -> Applied | None:
    row = cursor.execute(_LOOK_UP, (change.execution_id,)).fetchone()
    return None if row is None else previously_applied(change, row)


def _create(cursor: sqlite3.Cursor, new: NewExecution) -> Applied | None:
    if new.parent_id is not None and cursor.execute(_PARENT, (new.parent_id,)).fetchone() is None:
        return None
    slot = _free_slot(cursor, new) if new.concurrency is not None else None
    queued = new.concurrency is not None and slot is None
    if queued and not new.queue:
        return None
    claimed = new.owner is not None and not new.paused and not queued
    _CREATE.execute(cursor, (*rows.execution_row(new, _encode), int(claimed), queued, slot))
    if cursor.rowcount != 1:
        return None
    _CREATE_STAGE.execute_all(cursor, rows.new_stage_rows(new, _encode))
    _ADD_EVENT.execute_all(cursor, rows.event_rows(new, _encode))
    if new.assessment is not None:
        _ADD_ASSESSMENT.execute(cursor, rows.assessment_row(new, new.assessment, _encode))
    cursor.executemany(RECORD, [_finding_row(finding, new.event.at) for finding in new.findings])
    return Applied(slot, queued)


def _free_slot(cursor: sqlite3.Cursor, new: NewExecution) -> int | None:
    """Return the lowest free slot of the pipeline; None while others queue, since this one must not overtake them."""
    if cursor.execute(_QUEUE, (new.pipeline_id,)).fetchone():
        return None
    taken = {row[0] for row in cursor.execute(_SLOTS, (new.pipeline_id,))}
    return next((slot for slot in range(1, (new.concurrency or 0) + 1) if slot not in taken), None)


def _move(cursor: sqlite3.Cursor, transition: Transition) -> Applied | None:
    _MOVE.execute(cursor, rows.transition_row(transition, _encode))
    if cursor.rowcount != 1:
        return None
    _MOVE_STAGE.execute_all(cursor, rows.stage_rows(transition, _encode))
    _ADD_EVENT.execute_all(cursor, rows.event_rows(transition, _encode))
    _ADD_DECISION.execute_all(cursor, rows.decision_rows(transition, _encode))
    _HANDLE_COMMAND.execute_all(cursor, rows.handled_command_rows(transition))
    if transition.release:  # the driver may not have seen the newest command
        cursor.execute(_MAKE_CLAIMABLE, (transition.execution_id,))
    if transition.freed_slot is not None:
        waiting = cursor.execute(_QUEUE, (transition.pipeline_id,)).fetchone()
        if waiting is not None:
            cursor.execute(_PROMOTE, (transition.freed_slot, waiting[0]))
    return Applied()


def _finding_row(finding: Finding, at: datetime) -> dict[str, Any]:
    return {name: _encode(value) if name in _ENCODED else value for name, value in finding_row(finding, at).items()}


def _encode(value: Any) -> str | None:  # noqa: ANN401 - a time or any JSON value
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else to_json(value)
