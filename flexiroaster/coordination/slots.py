"""The duplicate check in front of the database: who probably holds a pipeline's slots.

The unique index over slots decides. A flood of duplicate starts is told "probably taken" here, without a transaction.
"""

from __future__ import annotations

from collections.abc import Collection

from flexiroaster.coordination.redis import RedisLink

__all__ = ["PipelineSlots"]

_NOW = "local time = redis.call('TIME'); local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

_RESERVE = f"""
{_NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_REFRESH = f"""
{_NOW}
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + ARGV[1], ARGV[i + 1])
  redis.call('PEXPIRE', key, ARGV[1])
end
return #KEYS
"""


class PipelineSlots:
    """A sorted set a pipeline: its running executions, each for `ttl` (s) unless refreshed. Thread-safe."""

    def __init__(self, link: RedisLink, ttl: float) -> None:
        self._link = link
        self._milliseconds = int(ttl * 1000)

    def reserve(self, pipeline_id: str, execution_id: str, concurrency: int) -> bool | None:
        """Note the execution if a slot is probably free: True, go on and start it; the database decides.

        False: probably all taken. Never refuse for that alone: an entry may outlive its execution by `ttl`. Confirm it
        with a read, which is still cheaper than the attempt to start. None: Redis cannot say.
        """
        arguments: list[str | int] = [execution_id, self._milliseconds, concurrency]
        free = self._link.script(_RESERVE, [self._key(pipeline_id)], arguments)
        return None if free is None else bool(free)

    def refresh(self, holders: Collection[tuple[str, str]]) -> None:
        """Keep the entries of (pipeline, execution) pairs that hold a slot, all in one round trip."""
        if holders:
            keys = [self._key(pipeline_id) for pipeline_id, _ in holders]
            self._link.script(_REFRESH, keys, [self._milliseconds, *(execution_id for _, execution_id in holders)])

    def free(self, pipeline_id: str, execution_id: str) -> None:
        """The execution holds no slot any more, or could not be started. What cannot be deleted now runs out."""
        self._link.call(lambda client: client.zrem(self._key(pipeline_id), execution_id), 0)

    def _key(self, pipeline_id: str) -> str:
        return self._link.scoped_key("slots", pipeline_id)
