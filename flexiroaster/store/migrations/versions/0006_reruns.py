"""Add an index that finds the reruns of an execution: retention keeps an execution that has a rerun."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    given = sa.text("parent_id IS NOT NULL")
    op.create_index("ix_executions_parent_id", "executions", ["parent_id"], sqlite_where=given, postgresql_where=given)


def downgrade() -> None:
    op.drop_index("ix_executions_parent_id", "executions")
