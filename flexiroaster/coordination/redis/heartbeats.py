"""Heartbeats of the live workers, with their host, start time and executions; health of the database and Redis."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.coordination.redis.link import RedisLink, RedisState
from flexiroaster.errors import StoreError
from flexiroaster.model.event import utc_now
from flexiroaster.store.database import Database

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["DatabaseState", "Health", "Heartbeats", "Worker", "check", "database_state"]


MAX_EXECUTIONS = 1000
"""The maximum number of executions in a heartbeat."""

FORGET_SECONDS = 3600
"""Silence after which a worker leaves the index; its heartbeat has expired long before."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A heartbeat of a worker. `at` is the time of the heartbeat by the clock of its host."""

    owner: str
    host: str
    pid: int
    since: datetime
    at: datetime
    executions: tuple[str, ...]


class Heartbeats:
    """The heartbeats of one worker, and the list of all live workers. Thread-safe.

    The key `flexiroaster:worker:{owner}` expires after `ttl` (s) of silence; a sorted set is the index.
    """

    def __init__(self, link: RedisLink, owner: str, ttl: float) -> None:
        self._link = link
        self._owner = owner
        self._milliseconds = int(ttl * 1000)
        self._since = utc_now()

    def beat(self, executions: Collection[str] = ()) -> bool:
        """Send a heartbeat; return whether it arrived."""
        worker = Worker(
            owner=self._owner,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=self._since,
            at=utc_now(),
            executions=tuple(executions)[:MAX_EXECUTIONS],
        )
        value, now = orjson.dumps(asdict(worker)), worker.at.timestamp()

        def send(client: Redis) -> bool:
            with client.pipeline(transaction=False) as pipeline:
                pipeline.set(self._key(self._owner), value, px=self._milliseconds)
                pipeline.zadd(self._index, {self._owner: now})
                pipeline.zremrangebyscore(self._index, "-inf", now - FORGET_SECONDS)
                pipeline.expire(self._index, FORGET_SECONDS)
                pipeline.execute()
            return True

        return self._link.call(send, default=False)

    def remove(self) -> None:
        """Remove the heartbeat, at an orderly shutdown."""

        def send(client: Redis) -> None:
            with client.pipeline(transaction=False) as pipeline:
                pipeline.delete(self._key(self._owner))
                pipeline.zrem(self._index, self._owner)
                pipeline.execute()

        self._link.call(send, None)

    def workers(self) -> list[Worker] | None:
        """Return the live workers, by name. None means that Redis is unavailable: read the leases in the database."""
        return self._link.call(self._read, None)

    @property
    def _index(self) -> str:
        return self._link.scoped_key("workers")

    def _key(self, owner: str) -> str:
        return self._link.key("worker", owner)

    def _read(self, client: Redis) -> list[Worker] | None:
        owners = sorted(name for name in client.zrange(self._index, 0, -1) if isinstance(name, bytes))
        if not owners:
            return []
        values = client.mget([self._key(owner.decode()) for owner in owners])
        return [worker for value in values if (worker := _worker(value)) is not None]


def _worker(value: bytes | str | None) -> Worker | None:
    if value is None:
        return None
    try:
        fields: dict[str, Any] = orjson.loads(value)
        times = {name: datetime.fromisoformat(fields[name]) for name in ("since", "at")}
        return Worker(**{**fields, **times, "executions": tuple(fields["executions"])})
    except (ValueError, KeyError, TypeError):
        return None  # written by another version


# --- health ----------------------------------------------------------------------------------------------------------


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
