"""The names of the installation's own tables, which stages can neither read nor write."""

from __future__ import annotations

from flexiroaster.store import safety_tables

__all__ = ["OWN_TABLES"]

OWN_TABLES = tuple(sorted({*safety_tables.decisions.metadata.tables, "alembic_version"}))
"""All tables of the metadata, and Alembic's version table."""
