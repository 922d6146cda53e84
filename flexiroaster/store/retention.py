"""Retention: what is deleted when, so that no table grows without bound.

Ended executions go with all that belongs to them; other records go by their own age (`RULES`). Rows are deleted in
batches, one transaction each, so that no writer waits long for the lock. Each table is in exactly one of
`WITH_EXECUTION`, `RULES` and `BOUNDED`; a test holds the three against the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, ColumnElement, Table, and_, delete, exists, or_, select, tuple_

from flexiroaster.model.execution import TERMINAL
from flexiroaster.store.database import Database
from flexiroaster.store.safety_tables import (
    decision_overrides,
    decisions,
    insights,
    risk_assessments,
    risk_models,
    run_history,
)
from flexiroaster.store.tables import (
    audit_log,
    commands,
    events,
    executions,
    pipeline_revisions,
    pipelines,
    stage_runs,
    tokens,
)

__all__ = ["BOUNDED", "RULES", "WITH_EXECUTION", "Rule", "delete_expired", "expired", "forget", "unknown"]

NEWEST_MODELS = 10
"""So many trainings stay however old they are: the newest answers, and a process may be reading the one before it."""

WITH_EXECUTION = (events, stage_runs, commands, risk_assessments)
"""Tables whose rows belong to an execution and go with it."""

BOUNDED: Mapping[str, str] = {
    "pipelines": "one row per pipeline id; a deleted one keeps its revision number, which is never given out again",
    "risk_states": "one row per pipeline, per group of pipelines and per error class of a pipeline",
    "risk_progress": "one row",
}
"""Tables that are not pruned, and why they do not grow without bound."""

_rerun = executions.alias("rerun")
_HAS_RERUN = exists().where(_rerun.c.parent_id == executions.c.id)
"""A rerun refers to tables of its parent, and hands them on to its own reruns."""

_IDLE = (executions.c.status.in_(sorted(TERMINAL)), executions.c.claimable_at.is_(None))
"""Neither live nor about to be carried on by a command."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows of `table` for which `expired(before)` holds are deleted, and with them those that refer to one by `beside`.

    `table` has one key column where there is a `beside`.
    """

    table: Table
    expired: Callable[[datetime], ColumnElement[bool]]
    beside: Column[str] | None = None


def _without_execution(execution_id: Column[str]) -> ColumnElement[bool]:
    return ~exists().where(executions.c.id == execution_id)


def _token_is_over(before: datetime) -> ColumnElement[bool]:
    """The newest token always stays: an installation without any token is open to everybody on its machine."""
    newest = select(tokens.c.id).order_by(tokens.c.created_at.desc(), tokens.c.id.desc()).limit(1)
    over = or_(tokens.c.revoked_at < before, tokens.c.expires_at < before)
    return and_(over, tokens.c.id != newest.scalar_subquery())


def _decision_is_over(before: datetime) -> ColumnElement[bool]:
    return and_(decisions.c.at < before, _without_execution(decisions.c.execution_id))


def _insight_is_over(before: datetime) -> ColumnElement[bool]:
    resolved = or_(insights.c.resolved_at.is_(None), insights.c.resolved_at < before)
    return and_(insights.c.last_seen_at < before, resolved)


def _run_is_over(before: datetime) -> ColumnElement[bool]:
    """While the execution is there its row says that it was learned from: without it that would happen again."""
    return and_(run_history.c.finished_at < before, _without_execution(run_history.c.execution_id))


def _model_is_over(before: datetime) -> ColumnElement[bool]:
    """The newest model, which answers, and the last promotion, which says where it comes from, always stay."""
    newest = select(risk_models.c.id).order_by(risk_models.c.id.desc()).limit(NEWEST_MODELS)
    promoted = select(risk_models.c.id).where(risk_models.c.promoted).order_by(risk_models.c.id.desc()).limit(1)
    kept = or_(risk_models.c.id.in_(newest), risk_models.c.id.in_(promoted))
    return and_(risk_models.c.created_at < before, ~kept)


def _revision_is_over(before: datetime) -> ColumnElement[bool]:
    """Replaced, or of a pipeline that was deleted, before that time, and no execution has it."""
    own, newer = pipeline_revisions, pipeline_revisions.alias("newer")
    later = (newer.c.pipeline_id == own.c.pipeline_id, newer.c.revision > own.c.revision)
    replaced = exists().where(*later, newer.c.created_at < before)
    deleted = exists().where(pipelines.c.id == own.c.pipeline_id, pipelines.c.deleted_at < before)
    used = exists().where(executions.c.pipeline_id == own.c.pipeline_id, executions.c.revision == own.c.revision)
    return and_(or_(replaced, deleted), ~used)


RULES: Mapping[str, tuple[Rule, ...]] = {
    "retention_audit_days": (
        Rule(audit_log, lambda before: audit_log.c.at < before),
        Rule(tokens, _token_is_over),
    ),
    "retention_decisions_days": (Rule(decisions, _decision_is_over, decision_overrides.c.decision_id),),
    "retention_insights_days": (Rule(insights, _insight_is_over),),
    "retention_history_days": (Rule(run_history, _run_is_over),),
    "retention_models_days": (Rule(risk_models, _model_is_over),),
    "retention_revisions_days": (Rule(pipeline_revisions, _revision_is_over),),
}
"""By the setting that says how many days records are kept."""


def expired(database: Database, before: datetime, limit: int) -> list[str]:
    """Executions that ended before a time, the oldest first; none that is live or claimable, or that has a rerun."""
    statement = select(executions.c.id).where(*_IDLE, executions.c.completed_at < before, ~_HAS_RERUN)
    with database.read() as connection:
        return list(connection.execute(statement.order_by(executions.c.completed_at).limit(limit)).scalars())


def forget(database: Database, execution_ids: Collection[str]) -> list[str]:
    """Delete executions with all that belongs to them, but for those that are live, claimable or rerun by now; those
    deleted.

    On PostgreSQL the rows are locked first and the reruns looked for by a second statement, which sees a rerun that
    was committed while the first one waited; a rerun that comes later finds no parent (see `store/postgres.py`).
    """
    idle = select(executions.c.id).where(executions.c.id.in_(execution_ids), *_IDLE)
    with database.write() as connection:
        locked = list(connection.execute(idle.order_by(executions.c.id).with_for_update()).scalars())
        ids = list(
            connection.execute(select(executions.c.id).where(executions.c.id.in_(locked), ~_HAS_RERUN)).scalars()
        )
        for table in WITH_EXECUTION:
            connection.execute(delete(table).where(table.c.execution_id.in_(ids)))
        connection.execute(delete(executions).where(executions.c.id.in_(ids)))
    return ids


def delete_expired(database: Database, rule: Rule, before: datetime, limit: int) -> int:
    """Delete up to `limit` rows that a rule says are expired, the lowest keys first; how many."""
    key = list(rule.table.primary_key.columns)
    with database.read() as connection:
        wanted = select(*key).where(rule.expired(before)).order_by(*key).limit(limit)
        keys = [tuple(row) for row in connection.execute(wanted)]
    if not keys:
        return 0
    chosen = (tuple_(*key).in_(keys), rule.expired(before))
    with database.write() as connection:
        if rule.beside is not None:
            these = select(*key).where(*chosen)
            connection.execute(delete(rule.beside.table).where(rule.beside.in_(these)))
        return connection.execute(delete(rule.table).where(*chosen)).rowcount


def unknown(database: Database, execution_ids: Collection[str]) -> list[str]:
    """Those of the ids that no execution has; none where there is no execution at all, as in another database."""
    found = select(executions.c.id).where(executions.c.id.in_(execution_ids))
    with database.read() as connection:
        if connection.execute(select(executions.c.id).limit(1)).first() is None:
            return []
        known = set(connection.execute(found).scalars())
    return [execution_id for execution_id in execution_ids if execution_id not in known]
