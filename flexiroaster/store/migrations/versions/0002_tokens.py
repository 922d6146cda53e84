"""Create the tables of access tokens and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flexiroaster.store.tables import Json, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROLES = "role IN ('viewer', 'operator', 'admin')"


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime),
        sa.Column("revoked_at", UtcDateTime),
        sa.Column("last_used_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.CheckConstraint(ROLES, name=op.f("ck_tokens_role")),
    )
    op.create_index("uq_tokens_digest", "tokens", ["digest"], unique=True)
    op.create_index("ix_tokens_created_at_id", "tokens", ["created_at", "id"])
    in_force = sa.text("revoked_at IS NULL")
    op.create_index("uq_tokens_name", "tokens", ["name"], unique=True, sqlite_where=in_force, postgresql_where=in_force)
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("viewer", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("action", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(255)),
        sa.Column("arguments", Json, nullable=False),
        sa.Column("outcome", sa.String(255), nullable=False),
        sa.Column("request_id", sa.String(255)),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sa.CheckConstraint(ROLES, name=op.f("ck_audit_log_role")),
    )
    op.create_index("ix_audit_log_viewer_id", "audit_log", ["viewer", "id"])
    op.create_index("ix_audit_log_subject_id", "audit_log", ["subject", "id"])


def downgrade() -> None:
    for table in ("audit_log", "tokens"):
        op.drop_table(table)
