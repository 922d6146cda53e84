"""Heartbeats: the live workers, with their host, start time and executions."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.model.event import utc_now

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["Heartbeats", "Worker"]

MOST_EXECUTIONS = 1000
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
            executions=tuple(executions)[:MOST_EXECUTIONS],
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

    def leave(self) -> None:
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
