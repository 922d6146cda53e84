"""Add the training lease, so that one process of an installation trains the risk model at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flexiroaster.store.tables import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("risk_progress", sa.Column("training_owner", sa.String(255)))
    op.add_column("risk_progress", sa.Column("training_until", UtcDateTime))


def downgrade() -> None:
    op.drop_column("risk_progress", "training_until")
    op.drop_column("risk_progress", "training_owner")
