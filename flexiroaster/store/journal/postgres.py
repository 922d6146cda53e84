"""The journal on PostgreSQL: one statement per kind of change and one round trip, for any number of changes.

Each statement takes its rows as one JSON parameter (`json_to_recordset`), at a tenth of the cost of array parameters.
Rows that depend on the compare-and-set join its result, so a change that does not land writes nothing. A single
statement is its own transaction. Several statements go through psycopg's pipeline, from BEGIN to COMMIT in one round
trip.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, LiteralString

import psycopg
from psycopg import Cursor
from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import StoreError
from flexiroaster.store.database import UnreachableError
from flexiroaster.store.journal import rows
from flexiroaster.store.journal.transitions import Applied, Change, NewExecution, Transition, previously_applied
from flexiroaster.store.safety.insights import COLUMNS, ON_CONFLICT, finding_row
from flexiroaster.store.sql import LOCK, to_json

__all__ = ["PostgresBackend"]

_EVENTS = """
  INSERT INTO events (execution_id, seq, at, type, level, stage_id, attempt, message, data)
  SELECT u.execution_id, u.seq, u.at, u.type, u.level, u.stage_id, u.attempt, u.message, u.data
  FROM json_to_recordset(%(events)s)
       AS u (execution_id text, seq bigint, at timestamptz, type text, level text, stage_id text, attempt int,
             message text, data jsonb)
  JOIN landed ON landed.id = u.execution_id
"""

_LOCK_PARENTS = "SELECT id FROM executions WHERE id = ANY(%(parents)s) ORDER BY id FOR KEY SHARE"
"""Locks the parents of reruns until the transaction ends. The next statement no longer sees deleted parents."""

_CREATE = f"""
WITH input AS (
  SELECT u.*, row_number() OVER (PARTITION BY u.pipeline_id ORDER BY u.position) AS rank
  FROM json_to_recordset(%(new)s)
       AS u (position int, execution_id text, pipeline_id text, pipeline_name text, revision int, variables jsonb,
             triggered_by text, total_stages int, completed_stages int, created_at timestamptz, owner text,
             lease float8, concurrency int, queue bool, idempotency_key text, request_digest text, parent_id text,
             status text, last_seq bigint, risk_score float8)
  WHERE u.parent_id IS NULL OR EXISTS (SELECT FROM executions AS x WHERE x.id = u.parent_id)
), free AS (
  SELECT p.pipeline_id, s.slot, row_number() OVER (PARTITION BY p.pipeline_id ORDER BY s.slot) AS rank
  FROM (SELECT DISTINCT pipeline_id, concurrency FROM input WHERE concurrency IS NOT NULL) AS p
  CROSS JOIN LATERAL generate_series(1, p.concurrency) AS s (slot)
  WHERE NOT EXISTS (SELECT FROM executions AS x WHERE x.pipeline_id = p.pipeline_id AND x.slot = s.slot)
    AND NOT EXISTS (SELECT FROM executions AS x WHERE x.pipeline_id = p.pipeline_id AND x.queued)
), placed AS (
  SELECT i.*, f.slot, i.concurrency IS NOT NULL AND f.slot IS NULL AS queued
  FROM input AS i LEFT JOIN free AS f ON i.concurrency IS NOT NULL AND f.pipeline_id = i.pipeline_id AND f.rank = i.rank
), landed AS (
  INSERT INTO executions (id, pipeline_id, pipeline_name, revision, status, variables, triggered_by, total_stages,
                          completed_stages, created_at, last_seq, fencing_token, lease_owner, claimable_at, claims,
                          goal, queued, slot, idempotency_key, request_digest, parent_id, risk_score)
  SELECT u.execution_id, u.pipeline_id, u.pipeline_name, u.revision, u.status, u.variables, u.triggered_by,
         u.total_stages, u.completed_stages, u.created_at, u.last_seq, o.token, CASE WHEN o.token = 1 THEN u.owner END,
         CASE WHEN u.queued OR u.status = 'paused' THEN NULL ELSE now() + make_interval(secs => u.lease) END, o.token,
         'run', u.queued, u.slot, u.idempotency_key, u.request_digest, u.parent_id, u.risk_score
  FROM placed AS u CROSS JOIN LATERAL (
    SELECT (u.owner IS NOT NULL AND NOT u.queued AND u.status <> 'paused')::int AS token
  ) AS o
  WHERE u.queue OR NOT u.queued
  ORDER BY u.idempotency_key, u.position
  ON CONFLICT DO NOTHING
  RETURNING id, slot, queued
), stages AS (
  INSERT INTO stage_runs (execution_id, stage_id, position, name, status, attempt, output, is_anomaly)
  SELECT u.execution_id, u.stage_id, u.position, u.name, u.status, 0, u.output, false
  FROM json_to_recordset(%(stages)s)
       AS u (execution_id text, stage_id text, position int, name text, status text, output json)
  JOIN landed ON landed.id = u.execution_id
), assessed AS (
  INSERT INTO risk_assessments (execution_id, pipeline_id, at, probability, level, gate, acted, forced, said, data)
  SELECT u.execution_id, u.pipeline_id, u.at, u.probability, u.level, u.gate, u.acted, u.forced, u.said, u.data
  FROM json_to_recordset(%(assessments)s)
       AS u (execution_id text, pipeline_id text, at timestamptz, probability float8, level text, gate text,
             acted bool, forced text, said jsonb, data json)
  JOIN landed ON landed.id = u.execution_id
), event AS ({_EVENTS})
SELECT id, slot, queued FROM landed
"""  # noqa: S608 - both parts are constants of this file

_MOVE = f"""
WITH landed AS (
  UPDATE executions AS x
  SET status = u.status, completed_stages = u.completed_stages, last_seq = u.last_seq, started_at = u.started_at,
      completed_at = u.completed_at, error = u.error, goal = u.goal, pause_deadline = u.pause_deadline,
      lease_owner = CASE WHEN u.release THEN NULL ELSE x.lease_owner END,
      claimable_at = CASE WHEN u.release THEN u.pause_deadline ELSE x.claimable_at END,
      slot = CASE WHEN u.freed_slot IS NULL THEN x.slot END, queued = x.queued AND NOT u.ends,
      claims = CASE WHEN u.progress THEN 1 ELSE x.claims END
  FROM json_to_recordset(%(moves)s)
       AS u (execution_id text, token bigint, expected text, expected_seq bigint, status text, completed_stages int,
             last_seq bigint, started_at timestamptz, completed_at timestamptz, error jsonb, goal text, release bool,
             freed_slot int, progress bool, pause_deadline timestamptz, ends bool, must_be_queued bool)
  WHERE x.id = u.execution_id AND x.fencing_token = u.token AND x.last_seq = u.expected_seq AND x.status = u.expected
    AND (x.queued OR NOT u.must_be_queued)
  RETURNING x.id
), stages AS (
  UPDATE stage_runs AS r
  SET status = u.status, attempt = u.attempt, started_at = u.started_at, completed_at = u.completed_at,
      retry_at = u.retry_at, output = u.output, error = u.error, is_anomaly = u.is_anomaly
  FROM json_to_recordset(%(stages)s)
       AS u (execution_id text, stage_id text, status text, attempt int, started_at timestamptz,
             completed_at timestamptz, retry_at timestamptz, output json, error jsonb, is_anomaly bool)
  JOIN landed ON landed.id = u.execution_id
  WHERE r.execution_id = u.execution_id AND r.stage_id = u.stage_id
), handled AS (
  UPDATE commands AS c SET handled_at = now(), outcome = u.outcome
  FROM json_to_recordset(%(handled)s) AS u (execution_id text, command_id bigint, outcome text)
  JOIN landed ON landed.id = u.execution_id
  WHERE c.id = u.command_id
), event AS ({_EVENTS})
SELECT id, NULL::int, false FROM landed
"""  # noqa: S608 - both parts are constants of this file
"""Locks its executions in no defined order. This is safe: they are leased to this process, and its lease renewals wait
for the journal (`Journal.paused`). Locking them in order first would increase the cost by half."""

_MAKE_CLAIMABLE = """
UPDATE executions AS x SET claimable_at = now()
WHERE x.id = ANY(%(released)s) AND x.lease_owner IS NULL
  AND EXISTS (SELECT FROM commands AS c WHERE c.execution_id = x.id AND c.handled_at IS NULL)
"""
"""Makes a released execution claimable if it has a command that its driver has not seen.

This is a separate statement, because its snapshot is taken once the row is locked: it sees all commands up to then, and
a later command finds the execution without a driver."""

_PROMOTE = """
UPDATE executions AS q SET queued = false, slot = u.slot, claimable_at = now(), lease_owner = NULL
FROM (
  SELECT f.pipeline_id, f.freed_slot AS slot,
         row_number() OVER (PARTITION BY f.pipeline_id ORDER BY f.freed_slot) AS rank
  FROM json_to_recordset(%(freed)s)
       AS f (execution_id text, pipeline_id text, freed_slot int, last_seq bigint, token bigint)
  JOIN executions AS e ON e.id = f.execution_id AND e.last_seq = f.last_seq AND e.fencing_token = f.token
) AS u
JOIN LATERAL (
  SELECT w.id FROM executions AS w WHERE w.pipeline_id = u.pipeline_id AND w.queued
  ORDER BY w.created_at, w.id OFFSET u.rank - 1 LIMIT 1
) AS waiting ON true
WHERE q.id = waiting.id
  AND NOT EXISTS (SELECT FROM executions AS o WHERE o.pipeline_id = u.pipeline_id AND o.slot = u.slot)
"""
"""Skips a slot that is taken: the first of two attempts at the same transaction has passed it on."""

_DECIDE = """
INSERT INTO decisions (id, execution_id, seq, pipeline_id, stage_id, attempt, at, error_class, action, taken, mode,
                       data)
SELECT u.id, u.execution_id, u.seq, u.pipeline_id, u.stage_id, u.attempt, u.at, u.error_class, u.action, u.taken,
       u.mode, u.data
FROM json_to_recordset(%(decisions)s)
     AS u (id text, execution_id text, seq bigint, pipeline_id text, stage_id text, attempt int, at timestamptz,
           error_class text, action text, taken text, mode text, data json, last_seq bigint, token bigint)
JOIN executions AS e ON e.id = u.execution_id AND e.last_seq = u.last_seq AND e.fencing_token = u.token
ON CONFLICT DO NOTHING
"""
"""A separate statement: few transitions have decisions, and planning it with every transition would cost time."""

_RECORD_FINDINGS = f"""
INSERT INTO insights ({COLUMNS}, occurrences)
SELECT DISTINCT ON (cause) {COLUMNS}, count(*) OVER (PARTITION BY cause)
FROM json_populate_recordset(NULL::insights, %(findings)s)
WHERE execution_id IN (SELECT id FROM executions)
ORDER BY cause, id DESC
{ON_CONFLICT}
"""  # noqa: S608 - as above
"""Records the findings about new executions that landed; few executions have any.

Findings with the same cause are counted together, since a statement cannot update a row twice; `id` is their order."""

_LOOK_UP = "SELECT id, fencing_token, last_seq, slot, queued FROM executions WHERE id = ANY(%(ids)s)"

RECONNECT_SECONDS = 8.0
"""How long a write retries while the database is unreachable (s): shorter than a lease."""

Statement = tuple[LiteralString, dict[str, Any]]


class PostgresBackend:
    """The journal's connection to PostgreSQL. For one thread at a time; it reconnects after a lost connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pooled: PoolProxiedConnection | None = None

    def apply(
        self, new: Sequence[NewExecution], transitions: Sequence[Transition], doubtful: Collection[str] = ()
    ) -> dict[str, Applied]:
        """Apply all changes in one transaction; return the results of those that landed, by execution. See `Backend`.

        After a lost connection it is unknown whether the transaction was committed. This method then reconnects, looks
        up which changes landed, and applies the others again.
        """
        changes: list[Change] = [*new, *transitions]
        deadline = monotonic() + RECONNECT_SECONDS
        pause = 0.02
        while True:
            try:
                landed = self._landed_before([c for c in changes if c.execution_id in doubtful])
                new = [n for n in new if n.execution_id not in landed]
                transitions = [t for t in transitions if t.execution_id not in landed]
                landed |= self._apply(_statements(new, transitions))
                # the previous attempt may have been committed while this one waited for its locks
                missing = [c for c in changes if c.execution_id in doubtful and c.execution_id not in landed]
                return landed | self._landed_before(missing)
            except (psycopg.OperationalError, SQLAlchemyError) as error:
                self.close()
                if monotonic() > deadline:
                    raise UnreachableError(f"cannot write to the database: {error}") from error
                doubtful = {c.execution_id for c in changes}
                time.sleep(pause)
                pause = min(2 * pause, 0.25)
            except psycopg.Error as error:
                self.close()
                raise StoreError(f"the database rejected a write: {error}") from error
            except BaseException:  # the connection is in an unknown state
                self.close()
                raise

    def close(self) -> None:
        """Close the connection; the next `apply` opens another."""
        if self._pooled is not None:
            with suppress(psycopg.Error, SQLAlchemyError):  # it may be broken already
                self._pooled.invalidate()
            self._pooled = None

    def _apply(self, statements: Sequence[Statement]) -> dict[str, Applied]:
        if not statements:
            return {}
        connection = self._connect()
        if len(statements) == 1:
            return _landed([connection.execute(*statements[0])])
        with connection.pipeline(), connection.transaction():
            cursors = [connection.execute(*statement) for statement in statements]
        return _landed(cursors)

    def _landed_before(self, changes: Sequence[Change]) -> dict[str, Applied]:
        """Return the results of those changes that are in the database already."""
        if not changes:
            return {}
        stored = self._connect().execute(_LOOK_UP, {"ids": [change.execution_id for change in changes]}).fetchall()
        found = {execution_id: state for execution_id, *state in stored}
        known = {
            c.execution_id: previously_applied(c, found[c.execution_id]) for c in changes if c.execution_id in found
        }
        return {execution_id: landed for execution_id, landed in known.items() if landed is not None}

    def _connect(self) -> psycopg.Connection[Any]:
        if self._pooled is None:
            self._pooled = self._engine.raw_connection()
        connection: psycopg.Connection[Any] = self._pooled.driver_connection  # type: ignore[assignment] # it is psycopg's
        if not connection.autocommit:
            connection.autocommit = True
        return connection


def _statements(new: Sequence[NewExecution], transitions: Sequence[Transition]) -> list[Statement]:
    """Return the statements to execute, in order.

    A pipeline's slots are assigned and freed under its lock, which precedes all row locks.
    """
    freed = [t for t in transitions if t.freed_slot is not None]
    limited = {n.pipeline_id for n in new if n.concurrency is not None} | {t.pipeline_id for t in freed}
    statements: list[Statement] = []
    if limited:
        statements.append((LOCK, {"pipelines": sorted(limited)}))
    if parents := sorted({n.parent_id for n in new if n.parent_id is not None}):
        statements.append((_LOCK_PARENTS, {"parents": parents}))
    statements += [(_CREATE, _creation(part)) for part in _parts(new)]
    if any(n.findings for n in new):
        statements.append((_RECORD_FINDINGS, _findings(new)))
    if transitions:
        statements.append((_MOVE, _moves(transitions)))
    if any(t.decisions for t in transitions):
        statements.append((_DECIDE, _decisions(transitions)))
    if released := [t.execution_id for t in transitions if t.release]:
        statements.append((_MAKE_CLAIMABLE, {"released": released}))
    if freed:
        slots = [rows.transition_row(t, _as_it_is) for t in freed]
        statements.append((_PROMOTE, {"freed": _records(rows.TRANSITION, slots)}))
    return statements


def _parts(new: Sequence[NewExecution]) -> list[list[NewExecution]]:
    """Split the new executions into as many statements as it takes for each to get a free slot.

    A statement assigns slots before it finds that an idempotency key is taken. The slot of an execution that does not
    land stays free, and the next execution would queue although nothing will promote it. The same happens with two
    revisions that differ in `concurrency`.
    """
    limits: dict[str, set[tuple[str | None, int]]] = {}
    for n in new:
        if n.concurrency is not None:
            limits.setdefault(n.pipeline_id, set()).add((n.idempotency_key, n.concurrency))
    parts: list[list[NewExecution]] = []
    turns: dict[str, int] = {}
    for n in new:
        alone = n.concurrency is not None and limits[n.pipeline_id] != {(None, n.concurrency)}
        turn = turns[n.pipeline_id] = turns.get(n.pipeline_id, -1) + 1 if alone else 0
        if turn == len(parts):
            parts.append([])
        parts[turn].append(n)
    return parts


def _landed(cursors: Sequence[Cursor[Any]]) -> dict[str, Applied]:
    """Return the results of the statements that return (id, slot, queued)."""
    returned = [row for c in cursors if c.description and len(c.description) == 3 for row in c.fetchall()]
    return {execution_id: Applied(slot, queued) for execution_id, slot, queued in returned}


def _creation(new: Sequence[NewExecution]) -> dict[str, str | None]:
    executions = [(i, *rows.execution_row(n, _as_it_is)) for i, n in enumerate(new)]
    assessments = [rows.assessment_row(n, n.assessment, _as_it_is) for n in new if n.assessment is not None]
    return {
        "new": _records(("position", *rows.EXECUTION), executions),
        "stages": _records(rows.NEW_STAGE, [row for n in new for row in rows.new_stage_rows(n, _as_it_is)]),
        "events": _records(rows.EVENT, [row for n in new for row in rows.event_rows(n, _as_it_is)]),
        "assessments": _records(rows.ASSESSMENT, assessments),
    }


def _findings(new: Sequence[NewExecution]) -> dict[str, str | None]:
    found = [finding_row(finding, n.event.at) for n in new for finding in n.findings]
    return {"findings": to_json([{**row, "id": i} for i, row in enumerate(found)])}


def _moves(transitions: Sequence[Transition]) -> dict[str, str | None]:
    return {
        "moves": _records(rows.TRANSITION, [rows.transition_row(t, _as_it_is) for t in transitions]),
        "stages": _records(rows.STAGE, [row for t in transitions for row in rows.stage_rows(t, _as_it_is)]),
        "handled": _records(rows.HANDLED_COMMAND, [row for t in transitions for row in rows.handled_command_rows(t)]),
        "events": _records(rows.EVENT, [row for t in transitions for row in rows.event_rows(t, _as_it_is)]),
    }


def _decisions(transitions: Sequence[Transition]) -> dict[str, str | None]:
    found = [(t.last_seq, t.token, *row) for t in transitions for row in rows.decision_rows(t, _as_it_is)]
    return {"decisions": _records(("last_seq", "token", *rows.DECISION), found)}


def _records(columns: Sequence[str], values: Sequence[rows.Row]) -> str | None:
    return to_json([dict(zip(columns, row, strict=True)) for row in values])


def _as_it_is(value: Any) -> Any:  # noqa: ANN401 - `_records` encodes all values of a statement together
    return value
