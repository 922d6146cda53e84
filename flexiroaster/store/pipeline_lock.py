"""The lock on a pipeline's slots, which serializes assigning and freeing them, even if no row holds them yet."""

from __future__ import annotations

from sqlalchemy import Connection

__all__ = ["LOCK", "lock_pipeline"]

LOCK = """
SELECT pg_advisory_xact_lock(hashtextextended(p.id, 7))
FROM (SELECT unnest(%(pipelines)s::text[]) AS id ORDER BY 1) AS p
"""
"""Locks pipelines until the transaction ends; must precede every lock on a row of `executions`."""


def lock_pipeline(connection: Connection, pipeline_id: str) -> None:
    """Wait for the lock of a pipeline and hold it until the transaction ends. SQLite needs none: it has one writer."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(LOCK, {"pipelines": [pipeline_id]})
