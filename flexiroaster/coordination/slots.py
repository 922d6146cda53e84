"""A duplicate check in front of the database: the executions that probably hold a pipeline's slots.

The unique index over slots in the database decides. During a flood of duplicate starts this check answers "probably
taken"; one read confirms it, and no transaction is written. An entry may outlive its execution by `ttl`, which costs
the next start one read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

from flexiroaster.coordination.redis.link import RedisLink

__all__ = ["PipelineSlots"]

MOST_OWN = 10_000
"""The maximum number of remembered executions whose slots this process reserved."""

_NOW = "local time = redis.call('TIME'); local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

_RESERVE = f"""
{_NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_HOLD = f"""
{_NOW}
redis.call('DEL', KEYS[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""


class PipelineSlots:
    """One sorted set per pipeline: its running executions, each for `ttl` (s). Thread-safe."""

    def __init__(self, link: RedisLink, ttl: float) -> None:
        self._link = link
        self._milliseconds = int(ttl * 1000)
        self._own: OrderedDict[str, str] = OrderedDict()  # execution id -> pipeline id
        self._lock = threading.Lock()

    def reserve(self, pipeline_id: str, execution_id: str, concurrency: int) -> bool | None:
        """Record the execution if a slot is probably free, and return True: start it, and let the database decide.

        False: probably all slots are taken. Confirm this with a read before refusing. None: no answer from Redis.
        """
        arguments: list[str | int] = [execution_id, self._milliseconds, concurrency]
        free = self._link.script(_RESERVE, [self._key(pipeline_id)], arguments)
        if not free:
            return None if free is None else False
        with self._lock:
            self._own[execution_id] = pipeline_id
            if len(self._own) > MOST_OWN:
                self._own.popitem(last=False)
        return True

    def hold(self, pipeline_id: str, execution_ids: Collection[str]) -> None:
        """Set the executions that hold the pipeline's slots, as read from the database."""
        if execution_ids:
            self._link.script(_HOLD, [self._key(pipeline_id)], [self._milliseconds, *execution_ids])

    def free(self, execution_id: str) -> None:
        """Free the slot of an execution if this process reserved it. Never blocks; an entry not deleted expires."""
        with self._lock:
            pipeline_id = self._own.pop(execution_id, None)
        if pipeline_id is not None:
            self._link.later(lambda client: client.zrem(self._key(pipeline_id), execution_id))

    def _key(self, pipeline_id: str) -> str:
        return self._link.scoped_key("slots", pipeline_id)
