"""Tracing of the executions that this process drives.

The driver's thread only queues the events. Another thread turns them into spans, and reads the earlier events of an
execution from the database.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from flexiroaster.coordination.outbox import Outbox
from flexiroaster.errors import DefinitionError, NotFoundError, StoreError
from flexiroaster.model.event import ENDS, Event, EventType
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.service.tracing.execution import TOLD, ExecutionTrace
from flexiroaster.service.tracing.spans import Spans
from flexiroaster.store import events as event_list
from flexiroaster.store import pipelines, queries
from flexiroaster.store.database import Database
from flexiroaster.store.events import EventFilter
from flexiroaster.store.sql import MOST, Window
from flexiroaster.threads import Threads

__all__ = ["Tracing"]

MOST_WAITING = 10_000
"""Maximum number of transactions in the queue; events beyond it are missing from the traces."""

MOST_KEPT = 10_000
"""Maximum number of traces in memory; an evicted trace is read again when its execution has a new event."""

MOST_DEFINITIONS = 256
"""Maximum number of pipeline revisions in memory."""

_LEAVES = ENDS | {EventType.EXECUTION_RELEASED}
_PAST = (EventType.EXECUTION_CREATED, *TOLD)


@dataclass(slots=True, eq=False)
class _Committed:
    """The events of one execution from one transaction; `done` once they are traced."""

    events: Sequence[Event]
    done: bool = False


class Tracing:
    """The tracer of a process. Thread-safe; close it after the driver and before the database."""

    def __init__(self, endpoint: str, owner: str, database: Database, threads: Threads | None = None) -> None:
        self._spans = Spans(endpoint, owner)
        self._database = database
        self._definition = lru_cache(MOST_DEFINITIONS)(partial(pipelines.definition, database))
        self._traces: OrderedDict[str, ExecutionTrace] = OrderedDict()
        self._outbox: Outbox[_Committed] = Outbox(
            self._follow, name="flexiroaster-traces", limit=MOST_WAITING, threads=threads
        )

    def committed(self, events: Sequence[Event]) -> None:
        """Receive committed events of one execution; a listener for the driver."""
        if events:
            self._outbox.put(_Committed(events))

    def close(self) -> None:
        """Send the remaining spans; wait only briefly for a collector that does not answer."""
        self._outbox.close()
        self._spans.close()

    def _follow(self, batch: Sequence[_Committed]) -> bool:
        failed: Exception | None = None
        for committed in batch:
            if committed.done:
                continue
            try:
                self._trace(committed.events)
            except StoreError:
                return False  # retried once the database is available again
            except Exception as error:  # noqa: BLE001 - a defect in one trace must not cost the others; raised below
                failed = error
            committed.done = True
        if failed is not None:
            raise failed
        return True

    def _trace(self, events: Sequence[Event]) -> None:
        execution_id, first, last = events[0].execution_id, events[0].seq, events[-1]
        trace = self._traces.pop(execution_id, None)
        if trace is None or trace.seq != first - 1:  # another process has driven it meanwhile
            trace = self._read(execution_id, first)
        if trace is None:
            return
        for event in events:
            trace.hear(event)
        if last.type not in _LEAVES:
            self._traces[execution_id] = trace
            if len(self._traces) > MOST_KEPT:
                self._traces.popitem(last=False)

    def _read(self, execution_id: str, before: int) -> ExecutionTrace | None:
        """Build the trace from the stored events before an event; None if the execution was deleted."""
        try:
            row = queries.execution(self._database, execution_id)
        except NotFoundError:
            return None
        try:
            pipeline: Pipeline | None = self._definition(row.pipeline_id, row.revision)
        except (NotFoundError, DefinitionError):
            pipeline = None
        past = _events_before(self._database, execution_id, before)
        if not past or past[0].type is not EventType.EXECUTION_CREATED:
            return None
        trace = ExecutionTrace(self._spans, row, pipeline, past[0])
        for event in past[1:]:
            trace.hear(event, past=True)
        return trace


def _events_before(database: Database, execution_id: str, before: int) -> list[Event]:
    wanted, cursor, found = EventFilter(before=before, types=_PAST), None, list[Event]()
    while True:
        page = event_list.page(database, execution_id, wanted, Window(first=MOST, after=cursor))
        found += page.items
        if not page.has_next:
            return found
        cursor = page.cursors[-1]
