"""Create the tables of pipelines, revisions, executions, stage runs, commands and events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flexiroaster.store.tables import Json, OrderedJson, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EXECUTION_STATES = "'pending', 'running', 'paused', 'completed', 'failed', 'rolled_back', 'cancelled'"
STAGE_STATES = "'pending', 'running', 'waiting', 'completed', 'failed', 'skipped', 'cancelled', 'rolled_back'"
COMMANDS = "'stop', 'pause', 'resume', 'retry', 'rollback'"


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    op.create_table(
        "pipelines",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("schedule", sa.String(255)),
        sa.Column("stage_count", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime),
        sa.Column("deleted_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_pipelines"),
    )
    for column in ("created_at", "name", "updated_at"):
        op.create_index(f"ix_pipelines_{column}_id", "pipelines", [column, "id"])
    op.create_table(
        "pipeline_revisions",
        sa.Column("pipeline_id", sa.String(255), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("definition", OrderedJson, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("pipeline_id", "revision", name="pk_pipeline_revisions"),
    )
    op.create_table(
        "executions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("pipeline_id", sa.String(255), nullable=False),
        sa.Column("pipeline_name", sa.String(255), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("variables", Json, nullable=False),
        sa.Column("triggered_by", sa.String(255), nullable=False),
        sa.Column("total_stages", sa.Integer, nullable=False),
        sa.Column("completed_stages", sa.Integer, nullable=False),
        sa.Column("risk_score", sa.Float),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("started_at", UtcDateTime),
        sa.Column("completed_at", UtcDateTime),
        sa.Column("error", Json),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("claimable_at", UtcDateTime),
        sa.Column("claims", sa.Integer, nullable=False),
        sa.Column("goal", sa.String(16), nullable=False),
        sa.Column("queued", sa.Boolean, nullable=False),
        sa.Column("slot", sa.Integer),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_digest", sa.String(64)),
        sa.Column("parent_id", sa.String(64)),
        sa.Column("pause_deadline", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_executions"),
        sa.CheckConstraint(f"status IN ({EXECUTION_STATES})", name=op.f("ck_executions_status")),
        sa.CheckConstraint("goal IN ('run', 'rollback')", name=op.f("ck_executions_goal")),
    )
    for column in ("pipeline_id", "status"):
        op.create_index(f"ix_executions_{column}_created_at_id", "executions", [column, "created_at", "id"])
    for column in ("created_at", "started_at", "completed_at", "risk_score"):
        op.create_index(f"ix_executions_{column}_id", "executions", [column, "id"])
    op.create_index("uq_executions_idempotency_key", "executions", ["idempotency_key"], unique=True)
    _partial_index("uq_executions_slot", "executions", ["pipeline_id", "slot"], "slot IS NOT NULL", unique=True)
    _partial_index("ix_executions_claimable_at", "executions", ["claimable_at"], "claimable_at IS NOT NULL")
    _partial_index("ix_executions_queue", "executions", ["pipeline_id", "created_at", "id"], "queued")
    op.create_table(
        "commands",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("arguments", Json, nullable=False),
        sa.Column("requested_by", sa.String(255), nullable=False),
        sa.Column("requested_at", UtcDateTime, nullable=False),
        sa.Column("handled_at", UtcDateTime),
        sa.Column("outcome", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_commands"),
        sa.CheckConstraint(f"kind IN ({COMMANDS})", name=op.f("ck_commands_kind")),
    )
    _partial_index("ix_commands_pending", "commands", ["execution_id"], "handled_at IS NULL")
    op.create_table(
        "stage_runs",
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("stage_id", sa.String(255), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("started_at", UtcDateTime),
        sa.Column("completed_at", UtcDateTime),
        sa.Column("retry_at", UtcDateTime),
        sa.Column("output", OrderedJson),
        sa.Column("error", Json),
        sa.Column("is_anomaly", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "stage_id", name="pk_stage_runs"),
        sa.CheckConstraint(f"status IN ({STAGE_STATES})", name=op.f("ck_stage_runs_status")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("stage_id", sa.String(255)),
        sa.Column("attempt", sa.Integer),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", Json),
        sa.PrimaryKeyConstraint("execution_id", "seq", name="pk_events"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in ("commands", "events", "stage_runs", "executions", "pipeline_revisions", "pipelines"):
        op.drop_table(table)
