"""Execution locks and slots of pipelines, which reduce contention of many workers in the database and decide nothing.

The lease and the slot in the database are authoritative and always claimed. A worker that gets the lock claims the
lease. A worker that does not get it leaves the execution to the other. Without an answer from Redis, a worker asks the
database as if there were no locks.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from flexiroaster.coordination.redis.link import LUA_NOW, RedisLink

__all__ = ["ExecutionLocks", "PipelineSlots"]


_ACQUIRE = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_EXTEND = """
local held = {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if not value or value == ARGV[1] then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    held[#held + 1] = i
  end
end
return held
"""
_RELEASE = """
local released = 0
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then released = released + redis.call('DEL', key) end
end
return released
"""


class ExecutionLocks:
    """The locks of one worker: `flexiroaster:lock:{execution}` holds `{owner}:{token}` for `ttl` (s). Thread-safe.

    The token is unique to this object. It identifies our own lock after a lost reply, and keeps us from extending or
    deleting a lock of another worker.
    """

    def __init__(self, link: RedisLink, owner: str, ttl: float) -> None:
        self._link = link
        self._value = f"{owner}:{secrets.token_hex(8)}"
        self._milliseconds = int(ttl * 1000)

    def acquire(self, execution_id: str) -> bool | None:
        """Return whether we hold the lock now; False: another worker does. None: no answer, ask the database."""
        taken = self._run(_ACQUIRE, [execution_id])
        return None if taken is None else bool(taken)

    def extend(self, execution_ids: Collection[str]) -> set[str] | None:
        """Extend the locks of executions whose lease was just claimed or renewed; return those we hold now.

        Takes one round trip. A missing lock is set again: Redis was flushed, or was unavailable at the claim. A lock of
        another worker is left to expire. None: no answer from Redis.
        """
        names = list(execution_ids)
        held = self._run(_EXTEND, names)
        return None if held is None else {names[int(i) - 1] for i in held}

    def release(self, execution_ids: Collection[str]) -> None:
        """Delete the locks that we hold, in one round trip. A lock that cannot be deleted expires."""
        self._run(_RELEASE, list(execution_ids))

    def _run(self, script: str, execution_ids: list[str]) -> Any:  # noqa: ANN401 - what the script returns
        keys = [self._link.key("lock", name) for name in execution_ids]
        return self._link.script(script, keys, [self._value, self._milliseconds]) if keys else []


# --- slots: a duplicate check in front of the database ---------------------------------------------------------------

MAX_RESERVATIONS = 10_000
"""The maximum number of remembered executions whose slots this process reserved."""

_RESERVE = f"""
{LUA_NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_SET_HOLDERS = f"""
{LUA_NOW}
redis.call('DEL', KEYS[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""


class PipelineSlots:
    """The executions that probably hold the slots of each pipeline: a sorted set, each for `ttl` (s). Thread-safe."""

    def __init__(self, link: RedisLink, ttl: float) -> None:
        self._link = link
        self._milliseconds = int(ttl * 1000)
        self._reserved: OrderedDict[str, str] = OrderedDict()  # execution id -> pipeline id
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
            self._reserved[execution_id] = pipeline_id
            if len(self._reserved) > MAX_RESERVATIONS:
                self._reserved.popitem(last=False)
        return True

    def set_holders(self, pipeline_id: str, execution_ids: Collection[str]) -> None:
        """Set the executions that hold the pipeline's slots, as read from the database."""
        if execution_ids:
            self._link.script(_SET_HOLDERS, [self._key(pipeline_id)], [self._milliseconds, *execution_ids])

    def free(self, execution_id: str) -> None:
        """Free the slot of an execution if this process reserved it. Never blocks; an entry not deleted expires."""
        with self._lock:
            pipeline_id = self._reserved.pop(execution_id, None)
        if pipeline_id is not None:
            self._link.enqueue(lambda client: client.zrem(self._key(pipeline_id), execution_id))

    def _key(self, pipeline_id: str) -> str:
        return self._link.scoped_key("slots", pipeline_id)
