"""What this process tells the others and hears from them: hints over the bus, and in Redis who drives what.

The database decides everything; without Redis, without the bus, the same happens a little later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from flexiroaster.config import Settings
from flexiroaster.coordination.bus import Message, open_bus
from flexiroaster.coordination.counters import RetryCounters
from flexiroaster.coordination.health import Health, check
from flexiroaster.coordination.heartbeats import Heartbeats, Worker
from flexiroaster.coordination.identity import installation_id
from flexiroaster.coordination.locks import ExecutionLocks
from flexiroaster.coordination.redis import RedisLink
from flexiroaster.model.event import Event, EventType
from flexiroaster.store.database import Database

__all__ = ["Signals"]

WORK, COMMANDS, EVENTS = "work", "commands", "events"

_ENDS = frozenset(
    {
        EventType.EXECUTION_COMPLETED,
        EventType.EXECUTION_FAILED,
        EventType.EXECUTION_CANCELLED,
        EventType.ROLLBACK_COMPLETED,
        EventType.ROLLBACK_FAILED,
    }
)


class Signals:
    """One process's side of it. Thread-safe; close it before the database."""

    def __init__(self, settings: Settings, database: Database, owner: str) -> None:
        self._database = database
        self._link = RedisLink(settings, namespace=installation_id(database))
        self._bus = open_bus(database, self._link)
        self._locks = ExecutionLocks(self._link, owner, settings.execution_lock_ttl)
        self._heartbeats = Heartbeats(self._link, owner, settings.heartbeat_ttl)
        self._counters = RetryCounters(self._link)

    # --- to the others -------------------------------------------------------------------------------------------

    def work(self) -> None:
        """There may be something to claim."""
        self._bus.publish(WORK)

    def command(self, execution_id: str) -> None:
        """Somebody has stored a command for this execution."""
        self._bus.publish(f"{COMMANDS}:{execution_id}")
        self._bus.publish(WORK)  # where nobody drives it, somebody is to claim it

    def committed(self, events: Sequence[Event]) -> None:
        """These events of one execution are durable; called on the driver's thread, so nothing here may wait."""
        last = events[-1]
        self._bus.publish(f"{EVENTS}:{last.execution_id}", {"seq": last.seq})
        retried = {e.stage_id: e.attempt for e in events if e.type is EventType.STAGE_RETRYING and e.stage_id}
        if retried:
            self._counters.record(last.execution_id, {stage: attempt or 0 for stage, attempt in retried.items()})
        if last.type in _ENDS:
            self._counters.forget(last.execution_id)
            self._bus.publish(WORK)  # it may have given its slot to the next one

    def may_claim(self, execution_id: str) -> bool:
        """Whether it is worth asking the database for this execution's lease: nobody has the lock in front of it."""
        return self._locks.acquire(execution_id) is not False

    def holds(self, execution_ids: Collection[str]) -> None:
        """The leases that were renewed or claimed just now: show them, and that this process lives."""
        self._heartbeats.beat(execution_ids)
        if execution_ids:
            self._locks.extend(execution_ids)

    def gave_up(self, execution_ids: Collection[str]) -> None:
        """These leases were released."""
        self._locks.release(execution_ids)
        self._bus.publish(WORK)

    # --- from the others -----------------------------------------------------------------------------------------

    def on_work(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call when there may be something to claim; the result ends that."""
        return self._bus.subscribe(WORK, lambda _message: wake())

    def on_command(self, look: Callable[[Sequence[str] | None], None]) -> Callable[[], None]:
        """Call with the execution that has a command, None for any; the result ends that."""

        def hear(message: Message) -> None:
            look(None if message.gap else [message.topic.partition(":")[2]])

        return self._bus.subscribe(COMMANDS, hear)

    def on_events(self, execution_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call when an execution may have new events; the result ends that."""
        return self._bus.subscribe(f"{EVENTS}:{execution_id}", lambda _message: wake())

    def workers(self) -> list[Worker] | None:
        """The processes that live and what they drive; None when Redis cannot say."""
        return self._heartbeats.workers()

    def health(self) -> Health:
        """Whether database and Redis answer, and how fast."""
        return check(self._database, self._link)

    def close(self) -> None:
        """Say good-bye, and close all connections."""
        self._heartbeats.leave()
        self._bus.close()
        self._link.close()
