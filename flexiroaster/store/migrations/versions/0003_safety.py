"""Create the tables of the safety engine: run history, states, models, assessments and insights."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flexiroaster.store.tables import Json, OrderedJson, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TABLES = (
    "insights",
    "risk_assessments",
    "risk_models",
    "risk_progress",
    "risk_states",
    "run_history",
)


def upgrade() -> None:
    op.create_table(
        "run_history",
        sa.Column("execution_id", sa.String(255), nullable=False),
        sa.Column("finished_at", UtcDateTime, nullable=False),
        sa.Column("pipeline_id", sa.String(255), nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("duration_s", sa.Float),
        sa.Column("n_stages", sa.Integer),
        sa.Column("imported", sa.Boolean, nullable=False),
        sa.Column("said", Json),
        sa.PrimaryKeyConstraint("execution_id", "finished_at", name="pk_run_history"),
        sa.CheckConstraint("status IN ('completed', 'failed', 'cancelled')", name=op.f("ck_run_history_status")),
    )
    op.create_index("ix_run_history_finished_at_execution_id", "run_history", ["finished_at", "execution_id"])
    op.create_table(
        "risk_states",
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("state", OrderedJson, nullable=False),
        sa.PrimaryKeyConstraint("scope", "name", name="pk_risk_states"),
    )
    op.create_table(
        "risk_progress",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("folded_until", UtcDateTime),
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_risk_progress"),
    )
    op.execute("INSERT INTO risk_progress (id, runs, version) VALUES (1, 0, 0)")
    op.create_table(
        "risk_models",
        sa.Column("id", BIG, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("rung", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("promoted", sa.Boolean, nullable=False),
        sa.Column("examples", sa.Integer, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("data_hash", sa.String(64), nullable=False),
        sa.Column("metrics", Json),
        sa.Column("model", OrderedJson, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_risk_models"),
    )
    op.create_table(
        "risk_assessments",
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("pipeline_id", sa.String(255), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("probability", sa.Float, nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("gate", sa.String(32), nullable=False),
        sa.Column("acted", sa.Boolean, nullable=False),
        sa.Column("forced", sa.Text),
        sa.Column("said", Json, nullable=False),
        sa.Column("data", OrderedJson, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", name="pk_risk_assessments"),
    )
    op.create_table(
        "insights",
        sa.Column("id", BIG, nullable=False),
        sa.Column("cause", sa.String(768), nullable=False),
        sa.Column("pipeline_id", sa.String(255)),
        sa.Column("execution_id", sa.String(64)),
        sa.Column("stage_id", sa.String(255)),
        sa.Column("insight_type", sa.String(32), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("recommendation", sa.Text),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("risk_score", sa.Float),
        sa.Column("factors", Json, nullable=False),
        sa.Column("explanation", sa.Text),
        sa.Column("action_taken", sa.Text),
        sa.Column("occurrences", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("last_seen_at", UtcDateTime, nullable=False),
        sa.Column("resolved_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_insights"),
    )
    op.create_index("ix_insights_created_at_id", "insights", ["created_at", "id"])
    op.create_index("ix_insights_pipeline_id_id", "insights", ["pipeline_id", "id"])
    op.create_index("ix_insights_execution_id_id", "insights", ["execution_id", "id"])
    open_ones = sa.text("resolved_at IS NULL")
    op.create_index(
        "uq_insights_cause", "insights", ["cause"], unique=True, sqlite_where=open_ones, postgresql_where=open_ones
    )


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
