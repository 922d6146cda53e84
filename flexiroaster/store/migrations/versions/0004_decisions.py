"""Create the tables of the safety engine's decisions and of their overrides by users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flexiroaster.store.tables import OrderedJson, UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(96), nullable=False),
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("pipeline_id", sa.String(255), nullable=False),
        sa.Column("stage_id", sa.String(255)),
        sa.Column("attempt", sa.Integer),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("error_class", sa.String(32)),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("taken", sa.String(16), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("data", OrderedJson, nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("outcome_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_at_id", "decisions", ["at", "id"])
    op.create_index("ix_decisions_pipeline_id_at_id", "decisions", ["pipeline_id", "at", "id"])
    op.create_index("ix_decisions_execution_id_seq", "decisions", ["execution_id", "seq"])
    op.create_table(
        "decision_overrides",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("decision_id", sa.String(96), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("requested_by", sa.String(255), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_decision_overrides"),
    )
    op.create_index("ix_decision_overrides_decision_id_id", "decision_overrides", ["decision_id", "id"])


def downgrade() -> None:
    op.drop_table("decision_overrides")
    op.drop_table("decisions")
