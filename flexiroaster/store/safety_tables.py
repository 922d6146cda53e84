"""The tables of the safety engine: run history, states, models, assessments, decisions and insights."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Float, Index, Integer, String, Table, Text

from flexiroaster.store.tables import Json, OrderedJson, UtcDateTime, metadata

__all__ = [
    "decision_overrides",
    "decisions",
    "insights",
    "risk_assessments",
    "risk_models",
    "risk_progress",
    "risk_states",
    "run_history",
]

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
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
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
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
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
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
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
Index(
    "uq_insights_cause",
    insights.c.cause,
    unique=True,
    sqlite_where=insights.c.resolved_at.is_(None),
    postgresql_where=insights.c.resolved_at.is_(None),
)
