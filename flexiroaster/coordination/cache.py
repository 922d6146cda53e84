"""Cached reads: the state of executions, and definitions.

What may be served from here, and what never is:

- A value is put only by who has read it from the database, so none was ever newer than the database.
- A value carries the execution's `last_seq`. A put with a lower number than the key has seen is refused, and so is
  one after `advanced` with a higher number: who reads slowly cannot bring old state back.
- A value is served for `STATE_SECONDS` at most. That bounds how old it can be when a writer could not reach Redis.
- Who has seen an event asks for state that is at least as new as that (`at_least`).
- A definition of one revision never changes, so it is kept longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from flexiroaster.coordination.redis import RedisLink

__all__ = ["DefinitionCache", "StateCache"]

STATE_SECONDS = 2.0
SEQUENCE_SECONDS = 60.0
"""How long a key remembers the highest number; longer than anybody takes from the read to the put."""

DEFINITION_SECONDS = 3600
MOST_BYTES = 1_000_000
"""Larger values are not cached."""

_NOW = "local time = redis.call('TIME'); local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

_PUT = f"""
{_NOW}
local seen = tonumber(redis.call('HGET', KEYS[1], 'seq') or '0')
if tonumber(ARGV[1]) < seen then return 0 end
redis.call('HSET', KEYS[1], 'seq', ARGV[1], 'value', ARGV[2], 'until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
_GET = f"""
{_NOW}
local found = redis.call('HMGET', KEYS[1], 'value', 'seq', 'until')
if not found[1] or tonumber(found[2]) < tonumber(ARGV[1]) or tonumber(found[3]) <= now then return false end
return found[1]
"""
_ADVANCED = """
for i, key in ipairs(KEYS) do
  if tonumber(ARGV[i + 1]) > tonumber(redis.call('HGET', key, 'seq') or '0') then
    redis.call('HDEL', key, 'value', 'until')
    redis.call('HSET', key, 'seq', ARGV[i + 1])
    redis.call('PEXPIRE', key, ARGV[1])
  end
end
return #KEYS
"""


class StateCache:
    """The state of executions as its readers render it, any JSON object. Thread-safe; see the rules above."""

    def __init__(self, link: RedisLink, seconds: float = STATE_SECONDS) -> None:
        self._link = link
        self._milliseconds = int(seconds * 1000)

    def get(self, execution_id: str, at_least: int = 0) -> dict[str, Any] | None:
        """The cached state, if its number is at least that; None: read the database, and `put` what it says."""
        return _decoded(self._link.script(_GET, [self._key(execution_id)], [at_least]))

    def put(self, execution_id: str, seq: int, value: Mapping[str, Any]) -> None:
        """Cache what was read from the database in one transaction together with its `last_seq`."""
        data = orjson.dumps(value)
        if len(data) <= MOST_BYTES:
            limits = (self._milliseconds, int(SEQUENCE_SECONDS * 1000))
            self._link.script(_PUT, [self._key(execution_id)], [seq, data, *limits])

    def advanced(self, sequences: Mapping[str, int]) -> None:
        """Executions have been written up to these numbers: drop what is older. One round trip, never waits."""
        if not sequences:
            return
        keys = [self._key(name) for name in sequences]
        arguments = [int(SEQUENCE_SECONDS * 1000), *sequences.values()]
        self._link.later(lambda client: client.register_script(_ADVANCED)(keys=keys, args=arguments))

    def _key(self, execution_id: str) -> str:
        return self._link.key("execution", execution_id)


class DefinitionCache:
    """Definitions by pipeline and revision, as their JSON. Thread-safe."""

    def __init__(self, link: RedisLink, seconds: int = DEFINITION_SECONDS) -> None:
        self._link = link
        self._seconds = seconds

    def get(self, pipeline_id: str, revision: int) -> dict[str, Any] | None:
        """The definition; None: read the database, and `put` it."""
        return _decoded(self._link.call(lambda client: client.get(self._key(pipeline_id, revision)), None))

    def put(self, pipeline_id: str, revision: int, definition: Mapping[str, Any]) -> None:
        """Cache what was read from the database."""
        data = orjson.dumps(definition)
        if len(data) <= MOST_BYTES:
            key = self._key(pipeline_id, revision)
            self._link.call(lambda client: client.set(key, data, ex=self._seconds), None)

    def _key(self, pipeline_id: str, revision: int) -> str:
        return self._link.scoped_key("definition", f"{pipeline_id}:{revision}")


def _decoded(value: object) -> dict[str, Any] | None:
    if not isinstance(value, bytes):
        return None
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
