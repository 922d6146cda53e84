"""Stage retry counters: the number of attempts of each stage of an execution, for monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flexiroaster.coordination.redis.link import RedisLink

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RetryCounters"]

TTL_SECONDS = 24 * 3600


class RetryCounters:
    """One Redis hash per execution, `flexiroaster:retries:{execution}`: stage -> attempts, kept a day. Thread-safe.

    The counters mirror `stage_runs.attempt`, which is authoritative. A driver writes them after its transaction, as
    absolute numbers, so a lost or repeated write does no harm.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    def record(self, execution_id: str, attempts: Mapping[str, int]) -> None:
        """Write the attempts of stages, in one round trip and on the link's own thread. Never blocks."""
        if not attempts:
            return
        key, values = self._key(execution_id), dict(attempts)

        def send(client: Redis) -> None:
            with client.pipeline(transaction=False) as pipeline:
                pipeline.hset(key, mapping=values)  # type: ignore[arg-type] # dict is invariant, a str key is fine
                pipeline.expire(key, TTL_SECONDS)
                pipeline.execute()

        self._link.later(send)

    def of(self, execution_id: str) -> dict[str, int] | None:
        """Return the attempts by stage. None means that Redis is unavailable or has none: read the database."""
        values = self._link.call(lambda client: client.hgetall(self._key(execution_id)), None)
        return {_text(stage_id): int(count) for stage_id, count in values.items()} if values else None

    def forget(self, execution_id: str) -> None:
        """Delete the counters of an execution, on the link's own thread."""
        self._link.later(lambda client: client.delete(self._key(execution_id)))

    def _key(self, execution_id: str) -> str:
        return self._link.key("retries", execution_id)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
