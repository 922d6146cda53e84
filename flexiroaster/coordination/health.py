"""How the database and Redis are, asked now."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.coordination.redis import RedisLink, RedisState
from flexiroaster.errors import StoreError
from flexiroaster.store.database import Database

__all__ = ["DatabaseState", "Health", "check", "database_state"]


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """Whether the database answers, and in how many milliseconds; `error` is one line."""

    available: bool
    latency_ms: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Both. The installation is healthy when the database answers: nothing needs Redis."""

    database: DatabaseState
    redis: RedisState

    @property
    def healthy(self) -> bool:
        """Whether executions can run and be seen."""
        return self.database.available


def check(database: Database, link: RedisLink) -> Health:
    """Ask both. Waits for a database that is away as long as a connection to it may take."""
    link.ping()
    return Health(database_state(database), link.state)


def database_state(database: Database) -> DatabaseState:
    """One round trip to the database."""
    started = monotonic()
    try:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
    except (StoreError, SQLAlchemyError) as error:
        return DatabaseState(available=False, error=" ".join(str(error).split()))
    return DatabaseState(available=True, latency_ms=(monotonic() - started) * 1000)
