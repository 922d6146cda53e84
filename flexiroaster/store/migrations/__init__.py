"""Alembic migrations of the installation's own tables."""
