"""Cached reads of execution states and pipeline definitions.

Rules:

- A process stores a state only after it has queried Redis first and then read the database. The state is served for at
  most `STATE_SECONDS` from that query, by the clock of Redis. This bounds its age.
- A state carries the execution's `last_seq`. Each writer of an execution reports the number of its last event
  (`invalidate_before`), which removes older states.
- A process never gets a state older than one it has read, written or recorded as seen, whatever Redis holds. This also
  applies after a Redis outage.
- A definition at a revision never changes. It is cached in the process, and longer in Redis.

No decision uses a cached state, and no execution runs a definition that comes from Redis.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any

from flexiroaster.coordination.outbox import Outbox
from flexiroaster.coordination.redis.link import LUA_NOW, RedisLink
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.store.executions import ExecutionRow
from flexiroaster.threads import Threads

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["DefinitionCache", "StateCache"]

STATE_SECONDS = 2.0
KNOWN_SECONDS = 5 * STATE_SECONDS
"""How long the last known event number of an execution is kept; all older states have expired by then."""

DEFINITION_SECONDS = 3600
MAX_DEFINITIONS = 256
"""The maximum number of definitions kept in the process."""

MAX_VALUE_BYTES = 1_000_000
"""Larger values are not cached."""

INVALIDATION_LIMIT = 10_000
"""The maximum number of queued reports. The states of further executions expire after `STATE_SECONDS`."""

_GET = f"""
{LUA_NOW}
local found = redis.call('HMGET', KEYS[1], 'value', 'seq', 'until')
if found[1] and tonumber(found[2]) >= tonumber(ARGV[1]) and tonumber(found[3]) > now then return found[1] end
return now
"""
_PUT = f"""
{LUA_NOW}
local seen = tonumber(redis.call('HGET', KEYS[1], 'seq') or '0')
if tonumber(ARGV[1]) < seen or tonumber(ARGV[3]) <= now then return 0 end
redis.call('HSET', KEYS[1], 'seq', ARGV[1], 'value', ARGV[2], 'until', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
_INVALIDATE = """
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
    """A cache of execution states, shared by all processes. Thread-safe; see the rules above."""

    def __init__(self, link: RedisLink, seconds: float = STATE_SECONDS, threads: Threads | None = None) -> None:
        self._link = link
        self._milliseconds = int(seconds * 1000)
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._outbox: Outbox[tuple[str, int]] = Outbox(
            self._report, name="flexiroaster-cache", limit=INVALIDATION_LIMIT, pace=0.005, threads=threads
        )

    def read(self, execution_id: str, load: Callable[[], ExecutionRow]) -> ExecutionRow:
        """Return the state from the cache, or else from the database through `load`. Raises what `load` raises."""
        with self._lock:
            at_least = self._known.get(execution_id, (0, 0.0))[0]
        answer = self._link.script(_GET, [self._key(execution_id)], [at_least])
        row = _decoded_state(answer) if isinstance(answer, bytes) else None
        if row is None:
            row = load()
            if isinstance(answer, int):
                self._put(row, until=answer + self._milliseconds)
        self.record_seen(execution_id, row.last_seq)
        return row

    def record_seen(self, execution_id: str, seq: int) -> None:
        """Record that this process knows this event, so that `read` returns no older state."""
        now = monotonic()
        with self._lock:
            known = self._known.pop(execution_id, (0, 0.0))[0]
            self._known[execution_id] = (max(seq, known), now)
            while self._known and next(iter(self._known.values()))[1] < now - KNOWN_SECONDS:
                self._known.popitem(last=False)

    def invalidate_before(self, execution_id: str, seq: int) -> None:
        """Record that this process wrote the execution up to this event, and drop older states. Never blocks."""
        self.record_seen(execution_id, seq)
        if self._link.available:
            self._outbox.put((execution_id, seq))

    def close(self) -> None:
        """Send the queued reports, then stop."""
        self._outbox.close()

    def _put(self, row: ExecutionRow, until: int) -> None:
        data = json.dumps({field.name: getattr(row, field.name) for field in fields(row)}, default=datetime.isoformat)
        if len(data) <= MAX_VALUE_BYTES:
            arguments: list[str | int | bytes] = [row.last_seq, data, until, int(KNOWN_SECONDS * 1000)]
            self._link.script(_PUT, [self._key(row.id)], arguments)

    def _report(self, batch: Sequence[tuple[str, int]]) -> bool:
        sequences = dict(sorted(batch))  # keeps the highest number of each execution
        keys = [self._key(name) for name in sequences]
        self._link.script(_INVALIDATE, keys, [int(KNOWN_SECONDS * 1000), *sequences.values()])
        return True  # a lost report does no harm: the older state expires after STATE_SECONDS

    def _key(self, execution_id: str) -> str:
        return self._link.key("execution", execution_id)


class DefinitionCache:
    """A cache of pipeline definitions by revision, in the process and in Redis. Thread-safe."""

    def __init__(self, link: RedisLink, seconds: int = DEFINITION_SECONDS, limit: int = MAX_DEFINITIONS) -> None:
        self._link = link
        self._seconds = seconds
        self._limit = limit
        self._definitions: OrderedDict[tuple[str, int], Pipeline] = OrderedDict()
        self._lock = threading.Lock()

    def get_trusted(self, pipeline_id: str, revision: int, load: Callable[[], Pipeline]) -> Pipeline:
        """Return a definition that this process read from the database, now (`load`) or earlier. It is safe to run.

        Raises what `load` raises.
        """
        return self._from_memory((pipeline_id, revision)) or self._load((pipeline_id, revision), load)

    def get_for_display(self, pipeline_id: str, revision: int, load: Callable[[], Pipeline]) -> Pipeline:
        """Return a definition for display; it may also come from Redis. Raises what `load` raises."""
        key = (pipeline_id, revision)
        return self._from_memory(key) or self._fetch(key) or self._load(key, load)

    def _from_memory(self, key: tuple[str, int]) -> Pipeline | None:
        with self._lock:
            found = self._definitions.get(key)
            if found is not None:
                self._definitions.move_to_end(key)
            return found

    def _fetch(self, key: tuple[str, int]) -> Pipeline | None:
        value = self._link.call(lambda client: client.get(self._key(*key)), None)
        if not isinstance(value, bytes):
            return None
        try:
            return Pipeline.model_validate(json.loads(value))
        except ValueError:
            return None  # written by another version

    def _load(self, key: tuple[str, int], load: Callable[[], Pipeline]) -> Pipeline:
        found = load()
        with self._lock:
            self._definitions[key] = found
            if len(self._definitions) > self._limit:
                self._definitions.popitem(last=False)
        data = json.dumps(found.document())
        if len(data) <= MAX_VALUE_BYTES:
            self._link.enqueue(lambda client: client.set(self._key(*key), data, ex=self._seconds))
        return found

    def _key(self, pipeline_id: str, revision: int) -> str:
        return self._link.scoped_key("definition", f"{pipeline_id}:{revision}")


@cache
def _states() -> TypeAdapter[ExecutionRow]:
    from pydantic import TypeAdapter

    return TypeAdapter(ExecutionRow)


def _decoded_state(data: bytes) -> ExecutionRow | None:
    try:
        row = _states().validate_json(data)
    except ValueError:
        return None  # written by another version
    times: dict[str, Any] = {
        f.name: at.astimezone(UTC) for f in fields(row) if isinstance(at := getattr(row, f.name), datetime)
    }
    return replace(row, **times)
