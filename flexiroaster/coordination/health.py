"""Health checks of the database and Redis."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.coordination.redis.link import RedisLink, RedisState
from flexiroaster.errors import StoreError
from flexiroaster.store.database import Database

__all__ = ["DatabaseState", "Health", "check", "database_state"]


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """Whether the database answers, and its latency in milliseconds; `error` is one line."""

    available: bool
    latency_ms: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The states of the database and Redis. The installation is healthy if the database answers: Redis is optional."""

    database: DatabaseState
    redis: RedisState

    @property
    def healthy(self) -> bool:
        """Whether executions can run and be read."""
        return self.database.available


def check(database: Database, link: RedisLink) -> Health:
    """Check the database and Redis. An unavailable database delays the result by up to its connection timeout."""
    link.ping()
    return Health(database_state(database), link.state)


def database_state(database: Database) -> DatabaseState:
    """Check the database with one round trip."""
    started = monotonic()
    try:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
    except (StoreError, SQLAlchemyError) as error:
        return DatabaseState(available=False, error=" ".join(str(error).split()))
    return DatabaseState(available=True, latency_ms=(monotonic() - started) * 1000)
