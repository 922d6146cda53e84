"""Signals between processes: hints over the bus, and in Redis which process drives which execution.

The database is authoritative; without Redis or the bus, the same happens a little later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from flexiroaster.artifacts.store import Artifacts
from flexiroaster.config import Settings
from flexiroaster.coordination.bus import Message, open_bus
from flexiroaster.coordination.outbox import Outbox
from flexiroaster.coordination.redis import heartbeats
from flexiroaster.coordination.redis.cache import DefinitionCache, StateCache
from flexiroaster.coordination.redis.heartbeats import Health, Heartbeats, Worker
from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.coordination.redis.locks import ExecutionLocks, PipelineSlots
from flexiroaster.coordination.redis.server import installation_id
from flexiroaster.model.event import ENDS, Event, EventType
from flexiroaster.store.database import Database
from flexiroaster.store.executions import ExecutionRow
from flexiroaster.store.journal.transitions import NewExecution
from flexiroaster.threads import Threads

__all__ = ["LocalCopies", "Signals"]


WORK, COMMANDS, EVENTS = "work", "commands", "events"
"""The topics of the bus; commands and events have one for each execution."""

MAX_WAITING = 10_000
"""Maximum number of executions whose local copies wait for deletion."""

_LEAVES = ENDS | {EventType.EXECUTION_RELEASED}
"""The events after which this process no longer drives an execution: it ended or was released."""

DELETED_SEQ = 2**62
"""The sequence number of a deleted execution: it is higher than that of any cached state."""


class Signals:
    """The signals of one process. Thread-safe; close them before the database."""

    def __init__(self, settings: Settings, database: Database, owner: str, threads: Threads) -> None:
        self._database = database
        self._link = RedisLink(settings, installation_id(database), threads)
        self._bus = open_bus(database, self._link, threads)
        self._locks = ExecutionLocks(self._link, owner, settings.execution_lock_ttl)
        self._heartbeats = Heartbeats(self._link, owner, settings.heartbeat_ttl)
        self.definitions = DefinitionCache(self._link)
        """The cache of pipeline definitions by revision."""
        # on SQLite a read in this process costs no more than a read from Redis
        self._states = None if database.is_sqlite else StateCache(self._link, threads=threads)
        self._slots = None if database.is_sqlite else PipelineSlots(self._link, settings.execution_lock_ttl)

    # --- to the others -------------------------------------------------------------------------------------------

    def created(self, execution_id: str) -> None:
        """Announce a new execution that has no driver: it has its first event and can be claimed."""
        self._bus.publish(f"{EVENTS}:{execution_id}")
        self._bus.publish(WORK)

    def command(self, execution_id: str) -> None:
        """Announce that a command for this execution was stored."""
        self._bus.publish(f"{COMMANDS}:{execution_id}")
        self._bus.publish(WORK)  # if no process drives it, one has to claim it

    def committed(self, events: Sequence[Event]) -> None:
        """Announce committed events of one execution. Runs on the driver's thread, so nothing here may block."""
        last = events[-1]
        if self._states is not None:
            self._states.invalidate_before(last.execution_id, last.seq)
        self._bus.publish(f"{EVENTS}:{last.execution_id}", {"seq": last.seq})
        if last.type in ENDS:
            if self._slots is not None:
                self._slots.free(last.execution_id)
            self._bus.publish(WORK)  # its slot may have passed to the next execution

    def try_lock(self, execution_id: str) -> bool:
        """Whether to ask the database for this execution's lease: True unless another process holds its Redis lock."""
        return self._locks.acquire(execution_id) is not False

    def publish_leases(self, execution_ids: Collection[str]) -> None:
        """Publish the leases just renewed or claimed, and a heartbeat of this process.

        Never blocks: a Redis that does not answer must not delay the next renewal or the claimed executions.
        """
        held = tuple(execution_ids)

        def publish(_client: object) -> None:
            self._heartbeats.beat(held)
            self._locks.extend(held)

        self._link.enqueue(publish)

    def publish_released(self, execution_ids: Collection[str]) -> None:
        """Publish that these leases were released. Never blocks, and keeps the order after `publish_leases`."""
        given = tuple(execution_ids)
        self._link.enqueue(lambda _client: self._locks.release(given))
        self._bus.publish(WORK)

    def deleted(self, execution_ids: Collection[str]) -> None:
        """Record that this process has deleted these executions."""
        for execution_id in execution_ids:
            self.seen(execution_id, DELETED_SEQ)

    def seen(self, execution_id: str, seq: int) -> None:
        """Record that this process has shown that event to a client."""
        if self._states is not None:
            self._states.record_seen(execution_id, seq)

    def record_full_slots(self, pipeline_id: str, execution_ids: Collection[str]) -> None:
        """Record that, according to the database, these executions hold all slots of the pipeline."""
        if self._slots is not None:
            self._slots.set_holders(pipeline_id, execution_ids)

    # --- from the others -----------------------------------------------------------------------------------------

    def on_work(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` when there may be work to claim. Returns a function that unsubscribes."""
        return self._bus.subscribe(WORK, lambda _message: wake())

    def on_command(self, check: Callable[[Sequence[str] | None], None]) -> Callable[[], None]:
        """Call `check` with the execution that has a command; None means any. Returns a function that unsubscribes."""

        def receive(message: Message) -> None:
            check(None if message.gap else [_execution_of(message)])

        return self._bus.subscribe(COMMANDS, receive)

    def on_events(self, execution_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` when an execution may have new events. Returns a function that unsubscribes."""
        return self._bus.subscribe(f"{EVENTS}:{execution_id}", lambda _message: wake())

    def on_any_events(self, check: Callable[[str | None], None]) -> Callable[[], None]:
        """Call `check` with an execution that may have new events; None means any. Returns an unsubscribe function."""
        return self._bus.subscribe(EVENTS, lambda message: check(None if message.gap else _execution_of(message)))

    def try_reserve_slot(self, new: NewExecution) -> bool:
        """Whether to ask the database for a slot: False if all slots are probably taken and the start does not queue.

        Confirm a False with a read of the database.
        """
        if self._slots is None or new.concurrency is None or new.queue:
            return True
        return self._slots.reserve(new.pipeline_id, new.execution_id, new.concurrency) is not False

    def state(self, execution_id: str, load: Callable[[], ExecutionRow]) -> ExecutionRow:
        """Return the state of an execution from Redis, or from `load`; see `service.executions.executions.get`."""
        return load() if self._states is None else self._states.read(execution_id, load)

    def workers(self) -> list[Worker] | None:
        """List the live processes and the executions they drive; None if Redis is not available."""
        return self._heartbeats.workers()

    def health(self) -> Health:
        """Check whether the database and Redis answer, and measure their latency."""
        return heartbeats.check(self._database, self._link)

    def close(self) -> None:
        """Withdraw the heartbeat of this process and close all connections."""
        self._link.enqueue(lambda _client: self._heartbeats.remove())
        if self._states is not None:
            self._states.close()
        self._bus.close()
        self._link.close()


def _execution_of(message: Message) -> str:
    return message.topic.partition(":")[2]


class LocalCopies:
    """Deletes the local copies of remote artifacts once this process no longer drives their execution.

    It has its own thread, because large files take time. Copies that are needed again are fetched again.
    """

    def __init__(self, artifacts: Artifacts, threads: Threads | None = None) -> None:
        self._artifacts = artifacts
        self._outbox: Outbox[str] = Outbox(self._forget, name="flexiroaster-copies", limit=MAX_WAITING, threads=threads)

    def committed(self, events: Sequence[Event]) -> None:
        """Receive committed events of one execution; a listener for the driver."""
        if events[-1].type in _LEAVES:
            self._outbox.put(events[-1].execution_id)

    def close(self) -> None:
        """Delete the remaining copies and stop."""
        self._outbox.close()

    def _forget(self, execution_ids: Sequence[str]) -> bool:
        for execution_id in execution_ids:
            self._artifacts.remove_local_copies(execution_id)
        return True
