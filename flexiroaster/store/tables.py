"""All tables: pipelines, executions, access tokens, the audit log and the safety engine.

Times are UTC; `store.sql` encodes JSON columns.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    types,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from flexiroaster.model.command import CommandKind
from flexiroaster.model.execution import ExecutionStatus, Goal, StageStatus
from flexiroaster.model.viewer import Role

__all__ = [
    "OWN_TABLES",
    "Json",
    "OrderedJson",
    "UtcDateTime",
    "audit_log",
    "commands",
    "decision_overrides",
    "decisions",
    "events",
    "executions",
    "insights",
    "metadata",
    "pipeline_revisions",
    "pipelines",
    "risk_assessments",
    "risk_models",
    "risk_progress",
    "risk_states",
    "run_history",
    "stage_runs",
    "tokens",
]


class UtcDateTime(types.TypeDecorator[datetime]):
    """An aware datetime in UTC: `timestamptz` on PostgreSQL, text of fixed width (so it sorts) on SQLite."""

    impl = String(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """Choose the column type of the database."""
        return dialect.type_descriptor(TIMESTAMP(timezone=True) if dialect.name == "postgresql" else String(32))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401 - the driver's type
        """Convert a value for the database; reject naive datetimes, which would silently mean another time."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("cannot store a naive datetime: give it a time zone")
        return value if dialect.name == "postgresql" else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002 - as above
        """Return the time in UTC."""
        if value is None:
            return None
        return (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)


Json = types.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
OrderedJson = types.JSON(none_as_null=True)
"""JSON that keeps the order of its keys, such as the columns of a table; `jsonb` sorts them."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, allowed: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{member.value}'" for member in allowed)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _add_partial_index(name: str, *columns: Column[Any], where: ColumnElement[bool], unique: bool = False) -> None:
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_SERIAL = BigInteger().with_variant(Integer, "sqlite")

pipelines = Table(
    "pipelines",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("version", String(255), nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("schedule", String(255)),
    Column("stage_count", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime),
    Column("deleted_at", UtcDateTime),
    Index("ix_pipelines_created_at_id", "created_at", "id"),
    Index("ix_pipelines_name_id", "name", "id"),
    Index("ix_pipelines_updated_at_id", "updated_at", "id"),
)

pipeline_revisions = Table(
    "pipeline_revisions",
    metadata,
    Column("pipeline_id", String(255), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("definition", OrderedJson, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

executions = Table(
    "executions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("pipeline_id", String(255), nullable=False),
    Column("pipeline_name", String(255), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("variables", Json, nullable=False),
    Column("triggered_by", String(255), nullable=False),
    Column("total_stages", Integer, nullable=False),
    Column("completed_stages", Integer, nullable=False),
    Column("risk_score", Float),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    Column("error", Json),
    Column("last_seq", BigInteger, nullable=False),
    Column("fencing_token", BigInteger, nullable=False),
    Column("lease_owner", String(255)),
    Column("claimable_at", UtcDateTime),
    Column("claims", Integer, nullable=False),
    Column("goal", String(16), nullable=False),
    Column("queued", Boolean, nullable=False),
    Column("slot", Integer),
    Column("idempotency_key", String(255)),
    Column("request_digest", String(64)),
    Column("parent_id", String(64)),
    Column("pause_deadline", UtcDateTime),
    _one_of("status", ExecutionStatus),
    _one_of("goal", Goal),
    Index("ix_executions_pipeline_id_created_at_id", "pipeline_id", "created_at", "id"),
    Index("ix_executions_status_created_at_id", "status", "created_at", "id"),
    Index("ix_executions_created_at_id", "created_at", "id"),
    Index("ix_executions_started_at_id", "started_at", "id"),
    Index("ix_executions_completed_at_id", "completed_at", "id"),
    Index("ix_executions_risk_score_id", "risk_score", "id"),
    Index("uq_executions_idempotency_key", "idempotency_key", unique=True),
)
_add_partial_index(
    "uq_executions_slot", executions.c.pipeline_id, executions.c.slot, unique=True, where=executions.c.slot.is_not(None)
)
_add_partial_index(
    "ix_executions_claimable_at", executions.c.claimable_at, where=executions.c.claimable_at.is_not(None)
)
_add_partial_index("ix_executions_parent_id", executions.c.parent_id, where=executions.c.parent_id.is_not(None))
_add_partial_index(
    "ix_executions_queue", executions.c.pipeline_id, executions.c.created_at, executions.c.id, where=executions.c.queued
)

stage_runs = Table(
    "stage_runs",
    metadata,
    Column("execution_id", String(64), primary_key=True),
    Column("stage_id", String(255), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("name", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    Column("retry_at", UtcDateTime),
    Column("output", OrderedJson),
    Column("error", Json),
    Column("is_anomaly", Boolean, nullable=False),
    _one_of("status", StageStatus),
    sqlite_with_rowid=False,
)

commands = Table(
    "commands",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("execution_id", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("arguments", Json, nullable=False),
    Column("requested_by", String(255), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("handled_at", UtcDateTime),
    Column("outcome", Text),
    _one_of("kind", CommandKind),
)
_add_partial_index("ix_commands_pending", commands.c.execution_id, where=commands.c.handled_at.is_(None))

events = Table(
    "events",
    metadata,
    Column("execution_id", String(64), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("type", String(64), nullable=False),
    Column("level", String(16), nullable=False),
    Column("stage_id", String(255)),
    Column("attempt", Integer),
    Column("message", Text, nullable=False),
    Column("data", Json),
    sqlite_with_rowid=False,
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("role", String(16), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    _one_of("role", Role),
    Index("uq_tokens_digest", "digest", unique=True),
    Index("ix_tokens_created_at_id", "created_at", "id"),
)
_add_partial_index("uq_tokens_name", tokens.c.name, unique=True, where=tokens.c.revoked_at.is_(None))

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("viewer", String(255), nullable=False),
    Column("role", String(16), nullable=False),
    Column("action", String(255), nullable=False),
    Column("subject", String(255)),
    Column("arguments", Json, nullable=False),
    Column("outcome", String(255), nullable=False),
    Column("request_id", String(255)),
    _one_of("role", Role),
    Index("ix_audit_log_viewer_id", "viewer", "id"),
    Index("ix_audit_log_subject_id", "subject", "id"),
)


# --- the safety engine -----------------------------------------------------------------------------------------------

OUTCOMES = "status IN ('completed', 'failed', 'cancelled')"

run_history = Table(
    "run_history",
    metadata,
    Column("execution_id", String(255), primary_key=True),
    Column("finished_at", UtcDateTime, primary_key=True),
    Column("pipeline_id", String(255), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("status", String(16), nullable=False),
    Column("duration_s", Float),
    Column("n_stages", Integer),
    Column("imported", Boolean, nullable=False),
    Column("said", Json),
    Index("ix_run_history_finished_at_execution_id", "finished_at", "execution_id"),
    CheckConstraint(OUTCOMES, name="status"),
)
"""Every ended run, of this installation and imported: the training data of the safety engine.

It outlives the executions. An execution that failed and was retried has ended twice. `said` has the probabilities
predicted at the start.
"""

risk_states = Table(
    "risk_states",
    metadata,
    Column("scope", String(16), primary_key=True),
    Column("name", String(512), primary_key=True),
    Column("state", OrderedJson, nullable=False),
)
"""Compact summaries of past runs: per pipeline, per group, and for the whole installation (empty name)."""

risk_progress = Table(
    "risk_progress",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("folded_until", UtcDateTime),
    Column("runs", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("training_owner", String(255)),
    Column("training_until", UtcDateTime),
)
"""One row: the newest end of `run_history` in the states, and the number of completed and failed runs in them.

The lease of `training_owner` lasts until `training_until`, unless renewed. Without an owner, `training_until` is the
earliest start of the next automatic training.
"""

risk_models = Table(
    "risk_models",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("version", String(32), nullable=False),
    Column("rung", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("promoted", Boolean, nullable=False),
    Column("examples", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("data_hash", String(64), nullable=False),
    Column("metrics", Json),
    Column("model", OrderedJson, nullable=False),
)
"""Every training; the newest is in use. `model` is the champion; `metrics` compare the challenger with it."""

risk_assessments = Table(
    "risk_assessments",
    metadata,
    Column("execution_id", String(64), primary_key=True),
    Column("pipeline_id", String(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("probability", Float, nullable=False),
    Column("level", String(16), nullable=False),
    Column("gate", String(32), nullable=False),
    Column("acted", Boolean, nullable=False),
    Column("forced", Text),
    Column("said", Json, nullable=False),
    Column("data", OrderedJson, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("execution_id", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("pipeline_id", String(255), nullable=False),
    Column("stage_id", String(255)),
    Column("attempt", Integer),
    Column("at", UtcDateTime, nullable=False),
    Column("error_class", String(32)),
    Column("action", String(16), nullable=False),
    Column("taken", String(16), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("data", OrderedJson, nullable=False),
    Column("outcome", String(16)),
    Column("outcome_at", UtcDateTime),
    Index("ix_decisions_at_id", "at", "id"),
    Index("ix_decisions_pipeline_id_at_id", "pipeline_id", "at", "id"),
    Index("ix_decisions_execution_id_seq", "execution_id", "seq"),
)
"""Decisions: the `action` chosen, and the action `taken` instead where the policy only records (`mode`).

`id` combines the execution and the number of the event that reports the decision. A row never changes, except that its
outcome is set once. It outlives its execution.
"""

decision_overrides = Table(
    "decision_overrides",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("decision_id", String(96), nullable=False),
    Column("action", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_by", String(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_decision_overrides_decision_id_id", "decision_id", "id"),
)

insights = Table(
    "insights",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("cause", String(768), nullable=False),
    Column("pipeline_id", String(255)),
    Column("execution_id", String(64)),
    Column("stage_id", String(255)),
    Column("insight_type", String(32), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("recommendation", Text),
    Column("confidence", Float, nullable=False),
    Column("risk_score", Float),
    Column("factors", Json, nullable=False),
    Column("explanation", Text),
    Column("action_taken", Text),
    Column("occurrences", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("resolved_at", UtcDateTime),
    Index("ix_insights_created_at_id", "created_at", "id"),
    Index("ix_insights_pipeline_id_id", "pipeline_id", "id"),
    Index("ix_insights_execution_id_id", "execution_id", "id"),
)
_add_partial_index("uq_insights_cause", insights.c.cause, unique=True, where=insights.c.resolved_at.is_(None))


OWN_TABLES = tuple(sorted({*metadata.tables, "alembic_version"}))
"""The tables that stages can neither read nor write: those of the metadata, and Alembic's version table."""
