"""Schema upgrades: migrate the database to this version under a lock, once even if many processes start together."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import StoreError
from flexiroaster.store.database import Database

__all__ = ["HEAD", "current", "upgrade"]

HEAD = "0006"
"""The newest migration; a test compares it with the migrations. The constant saves the import of Alembic at startup."""

_LOCK = 0x666C657869  # "flexi": the key of PostgreSQL's advisory lock, held until the transaction ends


def current(database: Database) -> str | None:
    """Return the schema version of the database; None if it has no tables of this project. Raises StoreError."""
    with database.read() as connection:
        return _version(connection)


def upgrade(database: Database) -> bool:
    """Upgrade to HEAD; return whether this call changed the schema.

    Raises StoreError when the database is newer than this code, is unreachable or rejects the upgrade.
    """
    if current(database) == HEAD:
        return False
    try:
        with database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if _version(connection) == HEAD:  # another process upgraded it while we waited
                return False
            _run_alembic(connection)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot upgrade the database: {error.__cause__ or error}") from error
    return True


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def _run_alembic(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        message = f"the database is at version {_version(connection)!r}, which this release does not know: {error}"
        raise StoreError(message) from error
