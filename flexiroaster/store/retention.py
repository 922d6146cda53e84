"""Retention: the rules for deleting old rows, so that no table grows without bound.

Ended executions are deleted with all their rows; other records are deleted by their own age (`RULES`). Rows are deleted
in batches, one transaction each, so that no writer waits long for the lock. Each table is in exactly one of
`WITH_EXECUTION`, `RULES` and `BOUNDED`; a test compares the three with the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, ColumnElement, Table, and_, delete, exists, or_, select, tuple_

from flexiroaster.model.execution import TERMINAL
from flexiroaster.store.database import Database
from flexiroaster.store.tables import (
    audit_log,
    commands,
    decision_overrides,
    decisions,
    events,
    executions,
    insights,
    pipeline_revisions,
    pipelines,
    risk_assessments,
    risk_models,
    run_history,
    stage_runs,
    tokens,
)

__all__ = [
    "BOUNDED",
    "RULES",
    "WITH_EXECUTION",
    "Rule",
    "delete_executions",
    "delete_expired",
    "expired",
    "without_execution",
]

NEWEST_MODELS = 10
"""The number of newest trainings kept at any age: the newest is in use, and a process may still read an older one."""

WITH_EXECUTION = (events, stage_runs, commands, risk_assessments)
"""Tables whose rows belong to an execution and are deleted with it."""

BOUNDED: Mapping[str, str] = {
    "pipelines": "one row per pipeline id; a deleted pipeline keeps its revision number, which is never reused",
    "risk_states": "one row per pipeline, per group of pipelines and per error class of a pipeline",
    "risk_progress": "one row",
}
"""Tables that are not pruned, and the reason why their size is bounded."""

_rerun = executions.alias("rerun")
_HAS_RERUN = exists().where(_rerun.c.parent_id == executions.c.id)
"""A rerun refers to artifacts of its parent, and passes them on to its own reruns."""

_IDLE = (executions.c.status.in_(sorted(TERMINAL)), executions.c.claimable_at.is_(None))
"""Neither live nor about to be resumed by a command."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that deletes the rows of `table` for which `expired(before)` holds.

    It also deletes the rows whose column `referencing` refers to a deleted row; `table` then has a single key column.
    """

    table: Table
    expired: Callable[[datetime], ColumnElement[bool]]
    referencing: Column[str] | None = None


def _has_no_execution(execution_id: Column[str]) -> ColumnElement[bool]:
    return ~exists().where(executions.c.id == execution_id)


def _expired_tokens(before: datetime) -> ColumnElement[bool]:
    """Keep the newest token always: an installation without any token is open to every user of its machine."""
    newest = select(tokens.c.id).order_by(tokens.c.created_at.desc(), tokens.c.id.desc()).limit(1)
    over = or_(tokens.c.revoked_at < before, tokens.c.expires_at < before)
    return and_(over, tokens.c.id != newest.scalar_subquery())


def _expired_decisions(before: datetime) -> ColumnElement[bool]:
    return and_(decisions.c.at < before, _has_no_execution(decisions.c.execution_id))


def _expired_insights(before: datetime) -> ColumnElement[bool]:
    resolved = or_(insights.c.resolved_at.is_(None), insights.c.resolved_at < before)
    return and_(insights.c.last_seen_at < before, resolved)


def _expired_runs(before: datetime) -> ColumnElement[bool]:
    """Keep the row while its execution exists: without it the safety engine would learn from that execution again."""
    return and_(run_history.c.finished_at < before, _has_no_execution(run_history.c.execution_id))


def _expired_models(before: datetime) -> ColumnElement[bool]:
    """Keep the newest models, the newest of which is in use, and the last promotion, which records its origin."""
    newest = select(risk_models.c.id).order_by(risk_models.c.id.desc()).limit(NEWEST_MODELS)
    promoted = select(risk_models.c.id).where(risk_models.c.promoted).order_by(risk_models.c.id.desc()).limit(1)
    kept = or_(risk_models.c.id.in_(newest), risk_models.c.id.in_(promoted))
    return and_(risk_models.c.created_at < before, ~kept)


def _expired_revisions(before: datetime) -> ColumnElement[bool]:
    """A revision is over if it was replaced, or its pipeline was deleted, before then and no execution uses it."""
    own, newer = pipeline_revisions, pipeline_revisions.alias("newer")
    later = (newer.c.pipeline_id == own.c.pipeline_id, newer.c.revision > own.c.revision)
    replaced = exists().where(*later, newer.c.created_at < before)
    deleted = exists().where(pipelines.c.id == own.c.pipeline_id, pipelines.c.deleted_at < before)
    used = exists().where(executions.c.pipeline_id == own.c.pipeline_id, executions.c.revision == own.c.revision)
    return and_(or_(replaced, deleted), ~used)


RULES: Mapping[str, tuple[Rule, ...]] = {
    "retention_audit_days": (
        Rule(audit_log, lambda before: audit_log.c.at < before),
        Rule(tokens, _expired_tokens),
    ),
    "retention_decisions_days": (Rule(decisions, _expired_decisions, decision_overrides.c.decision_id),),
    "retention_insights_days": (Rule(insights, _expired_insights),),
    "retention_history_days": (Rule(run_history, _expired_runs),),
    "retention_models_days": (Rule(risk_models, _expired_models),),
    "retention_revisions_days": (Rule(pipeline_revisions, _expired_revisions),),
}
"""The rules by setting; the setting is the number of days for which records are kept."""


def expired(database: Database, before: datetime, limit: int) -> list[str]:
    """Return executions that ended before a time, oldest first, except those that are live, claimable or rerun."""
    statement = select(executions.c.id).where(*_IDLE, executions.c.completed_at < before, ~_HAS_RERUN)
    with database.read() as connection:
        return list(connection.execute(statement.order_by(executions.c.completed_at).limit(limit)).scalars())


def delete_executions(database: Database, execution_ids: Collection[str]) -> list[str]:
    """Delete executions with all their rows, unless they are live, claimable or rerun by now; return the deleted ids.

    On PostgreSQL the first statement locks the rows and a second one looks for reruns, so it sees a rerun that was
    committed while the first one waited. A later rerun finds no parent (see `store/journal/postgres.py`).
    """
    idle = select(executions.c.id).where(executions.c.id.in_(execution_ids), *_IDLE)
    with database.write() as connection:
        locked = list(connection.execute(idle.order_by(executions.c.id).with_for_update()).scalars())
        deletable = select(executions.c.id).where(executions.c.id.in_(locked), ~_HAS_RERUN)
        ids = list(connection.execute(deletable).scalars())
        for table in WITH_EXECUTION:
            connection.execute(delete(table).where(table.c.execution_id.in_(ids)))
        connection.execute(delete(executions).where(executions.c.id.in_(ids)))
    return ids


def delete_expired(database: Database, rule: Rule, before: datetime, limit: int) -> int:
    """Delete up to `limit` rows that are expired by a rule, lowest keys first; return their number."""
    key = list(rule.table.primary_key.columns)
    with database.read() as connection:
        wanted = select(*key).where(rule.expired(before)).order_by(*key).limit(limit)
        keys = [tuple(row) for row in connection.execute(wanted)]
    if not keys:
        return 0
    chosen = (tuple_(*key).in_(keys), rule.expired(before))
    with database.write() as connection:
        if rule.referencing is not None:
            these = select(*key).where(*chosen)
            connection.execute(delete(rule.referencing.table).where(rule.referencing.in_(these)))
        return connection.execute(delete(rule.table).where(*chosen)).rowcount


def without_execution(database: Database, execution_ids: Collection[str]) -> list[str]:
    """Return the ids without an execution; none if there is no execution at all, as in the wrong database."""
    with database.read() as connection:
        if connection.execute(select(executions.c.id).limit(1)).first() is None:
            return []
        known = set(connection.execute(select(executions.c.id).where(executions.c.id.in_(execution_ids))).scalars())
    return [execution_id for execution_id in execution_ids if execution_id not in known]
