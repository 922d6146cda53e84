"""OpenTelemetry traces of executions, for installations with a collector; importing it needs the `otel` extra.

A run of an execution, from start to end, is a span, and so is every attempt of a stage within it. A retry or rollback
after the end is a separate run below the first one, because the span of the first run was sent when it ended.

Processes that drive an execution one after another must build the same trace without communicating. Therefore the ids
of a span derive from its subject, and one process can end a span that another began.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from importlib.metadata import version
from time import monotonic
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Span, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flexiroaster.coordination.outbox import Outbox
from flexiroaster.errors import DefinitionError, NotFoundError, StoreError
from flexiroaster.model.event import ENDS, Event, EventType
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.paging import MAX_PAGE_SIZE, Window
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.operators.registry import operator_of
from flexiroaster.store import events as event_list
from flexiroaster.store import executions, pipelines
from flexiroaster.store.database import Database
from flexiroaster.store.events import EventFilter
from flexiroaster.store.executions import ExecutionRow
from flexiroaster.threads import Threads

__all__ = ["TRACED_EVENTS", "ExecutionTrace", "Spans", "Tracing", "nanoseconds"]

VERSION = version("flexiroaster")

MAX_WAITING = 10_000
"""Maximum number of transactions in the queue; events beyond it are missing from the traces."""

MAX_TRACES = 10_000
"""Maximum number of traces in memory; an evicted trace is read again when its execution has a new event."""

MAX_DEFINITIONS = 256
"""Maximum number of pipeline revisions in memory."""

Attributes = Mapping[str, str | int | float | bool]

CLOSE_SECONDS = 2.0
"""Maximum time that the exit of the process waits for a collector that does not answer."""

QUIET_SECONDS = 600.0
"""Minimum time between two identical log messages about the collector."""

_NOISY_LOGGERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_BEGINS: Final = {
    EventType.EXECUTION_STARTED: "execution",
    EventType.EXECUTION_RESUMED: "execution",  # the start of one that began paused
    EventType.EXECUTION_RETRIED: "retry",
    EventType.ROLLBACK_STARTED: "rollback",
}
"""Events that begin a run unless one is active, with the name of the run if it is not the first."""

_STATUS: Final = {
    EventType.EXECUTION_COMPLETED: ExecutionStatus.COMPLETED,
    EventType.EXECUTION_FAILED: ExecutionStatus.FAILED,
    EventType.EXECUTION_CANCELLED: ExecutionStatus.CANCELLED,
    EventType.ROLLBACK_COMPLETED: ExecutionStatus.ROLLED_BACK,
    EventType.ROLLBACK_FAILED: ExecutionStatus.FAILED,
}
"""Events that end a run, with the resulting status."""

_ATTEMPTS: Final = {EventType.STAGE_STARTED: "stage", EventType.STAGE_UNDOING: "undo"}

_OUTCOMES: Final = {
    EventType.STAGE_COMPLETED: "completed",
    EventType.STAGE_RETRYING: "failed",
    EventType.STAGE_FAILED: "failed",
    EventType.STAGE_CANCELLED: "cancelled",
    EventType.STAGE_INTERRUPTED: "interrupted",
    EventType.STAGE_UNDONE: "undone",
    EventType.STAGE_UNDO_FAILED: "failed",
}
"""Events that end an attempt, with its outcome."""

_ANNOTATIONS: Final = {
    EventType.EXECUTION_PAUSED,
    EventType.EXECUTION_STOPPING,
    EventType.EXECUTION_RELEASED,
    EventType.COMMAND_REFUSED,
    EventType.STAGE_SKIPPED,
}
"""Events that are added to the span of the active run; so are events of `_BEGINS` while a run is active."""

TRACED_EVENTS: Final = tuple({*_BEGINS, *_STATUS, *_ATTEMPTS, *_OUTCOMES, *_ANNOTATIONS})
"""The events that a trace consists of, except the creation."""

_LEAVES = ENDS | {EventType.EXECUTION_RELEASED}
_PAST = (EventType.EXECUTION_CREATED, *TRACED_EVENTS)


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
        self._definition = lru_cache(MAX_DEFINITIONS)(partial(pipelines.definition, database))
        self._traces: OrderedDict[str, ExecutionTrace] = OrderedDict()
        self._outbox: Outbox[_Committed] = Outbox(
            self._follow, name="flexiroaster-traces", limit=MAX_WAITING, threads=threads
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
            trace.add_event(event)
        if last.type not in _LEAVES:
            self._traces[execution_id] = trace
            if len(self._traces) > MAX_TRACES:
                self._traces.popitem(last=False)

    def _read(self, execution_id: str, before: int) -> ExecutionTrace | None:
        """Build the trace from the stored events before an event; None if the execution was deleted."""
        try:
            row = executions.execution(self._database, execution_id)
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
            trace.add_event(event, past=True)
        return trace


def _events_before(database: Database, execution_id: str, before: int) -> list[Event]:
    wanted, cursor, found = EventFilter(before=before, types=_PAST), None, list[Event]()
    while True:
        page = event_list.page(database, execution_id, wanted, Window(first=MAX_PAGE_SIZE, after=cursor))
        found += page.items
        if not page.has_next:
            return found
        cursor = page.cursors[-1]


# --- the spans of one execution --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Attempt:
    span: Span
    undoes: bool


class ExecutionTrace:
    """The spans of one execution so far. Pass its events to `add_event` in order, each once; `seq` is the last number.

    Pass the events from before this process drove the execution as `past`: other processes send their spans.
    """

    def __init__(self, spans: Spans, row: ExecutionRow, pipeline: Pipeline | None, created: Event) -> None:
        self.seq = created.seq
        self._spans = spans
        self._row = row
        self._stages = {stage.id: stage for stage in pipeline.stages} if pipeline is not None else {}
        self._created = created
        self._parent = remote_context((created.data or {}).get("traceparent"))
        self._first: Span | None = None
        self._run: Span | None = None
        self._attempts: dict[str, _Attempt] = {}
        self._undos: Counter[str] = Counter()

    def add_event(self, event: Event, *, past: bool = False) -> None:
        """Add the next event to the trace."""
        self.seq = event.seq
        kind = event.type
        if kind in _BEGINS and self._run is None:
            self._begin(_BEGINS[kind], event)
        elif kind in _STATUS:
            self._end(event, past)
        elif kind in _ATTEMPTS:
            self._begin_attempt(event, past)
        elif kind in _OUTCOMES:
            self._end_attempt(event, past)
        elif kind in _ANNOTATIONS or kind in _BEGINS:
            self._note(event, past)

    def _begin(self, called: str, event: Event) -> Span:
        first, row = self._first is None, self._row
        attributes: Attributes = {
            "flexiroaster.execution.id": row.id,
            "flexiroaster.execution.trigger": row.triggered_by,
            "flexiroaster.pipeline.id": row.pipeline_id,
            "flexiroaster.pipeline.name": row.pipeline_name,
            "flexiroaster.pipeline.revision": row.revision,
        }
        name = f"{'execution' if first else called} {row.pipeline_name}"
        seq = self._created.seq if first else event.seq
        parent = self._parent if self._first is None else child_context(self._first)
        self._run = self._spans.begin(name, row.id, f"{row.id}/{seq}", parent, event.at, attributes)
        self._first = self._first or self._run
        return self._run

    def _end(self, event: Event, past: bool) -> None:
        run = self._run or self._begin("execution", self._created)  # the execution ended before it started
        self._end_attempts(event.at, past)
        status = _STATUS[event.type]
        run.set_attribute("flexiroaster.execution.status", status.value)
        if status is ExecutionStatus.FAILED:
            run.set_status(StatusCode.ERROR, event.message)
        self._run = None
        if not past:
            run.end(nanoseconds(event.at))

    def _note(self, event: Event, past: bool) -> None:
        if event.type is EventType.EXECUTION_RELEASED:
            self._end_attempts(event.at, past)
        if self._run is not None:
            attributes: dict[str, str] = {"message": event.message}
            if event.stage_id is not None:
                attributes["flexiroaster.stage.id"] = event.stage_id
            self._run.add_event(event.type.value, attributes, nanoseconds(event.at))

    def _begin_attempt(self, event: Event, past: bool) -> None:
        stage_id, row = event.stage_id, self._row
        if stage_id is None or self._run is None:
            return
        self._interrupt(stage_id, event.at, past)
        undoes = event.type is EventType.STAGE_UNDOING
        self._undos[stage_id] += undoes
        attributes: dict[str, str | int] = {
            "flexiroaster.execution.id": row.id,
            "flexiroaster.stage.id": stage_id,
            "flexiroaster.stage.attempt": self._undos[stage_id] if undoes else event.attempt or 1,
        }
        operator = self._operator(stage_id)
        if operator is not None:
            attributes["flexiroaster.stage.operator"] = operator
        name = f"{_ATTEMPTS[event.type]} {stage_id}"
        key = f"{row.id}/{event.seq}"
        span = self._spans.begin(name, row.id, key, child_context(self._run), event.at, attributes)
        self._attempts[stage_id] = _Attempt(span, undoes)

    def _end_attempt(self, event: Event, past: bool) -> None:
        """End the attempt of a stage, if one runs: a stage without a running attempt can be cancelled too."""
        attempt = self._attempts.pop(event.stage_id or "", None)
        if attempt is None:
            return
        span, data = attempt.span, event.data or {}
        span.set_attribute("flexiroaster.stage.outcome", _OUTCOMES[event.type])
        if isinstance(rows := data.get("rows"), int):
            span.set_attribute("flexiroaster.stage.rows", rows)
        if isinstance(error := data.get("error"), dict):
            span.set_attribute("error.type", str(error.get("class", "")))
            span.set_attribute("exception.type", str(error.get("type", "")))
            span.set_status(StatusCode.ERROR, str(error.get("message", "")))
        if not past:
            span.end(nanoseconds(event.at))

    def _end_attempts(self, at: datetime, past: bool) -> None:
        for stage_id in tuple(self._attempts):
            self._interrupt(stage_id, at, past)

    def _interrupt(self, stage_id: str, at: datetime, past: bool) -> None:
        """End an attempt that has no end event: an undo whose process was lost starts again without an event."""
        attempt = self._attempts.pop(stage_id, None)
        if attempt is None:
            return
        self._undos[stage_id] -= attempt.undoes
        attempt.span.set_attribute("flexiroaster.stage.outcome", "interrupted")
        if not past:
            attempt.span.end(nanoseconds(at))

    def _operator(self, stage_id: str) -> str | None:
        stage = self._stages.get(stage_id)
        if stage is None:
            return None
        try:
            return operator_of(stage.type, stage.config)
        except NotFoundError:  # its package is not installed here
            return None


# --- spans with given ids and times, and their export ----------------------------------------------------------------


class Spans:
    """Creates spans; ended spans are sent in batches in the background. Not thread-safe, except for `close`."""

    def __init__(self, endpoint: str, owner: str) -> None:
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).addFilter(_rate_limit)
        self._ids = _GivenIds()
        self._provider = TracerProvider(resource=_resource(owner), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("flexiroaster", VERSION)

    def begin(self, name: str, trace: str, key: str, parent: Context, at: datetime, attributes: Attributes) -> Span:
        """Begin a span below `parent`, in its trace; if `parent` is empty, begin the root span of the trace `trace`.

        `key` identifies the subject of the span; the same key gives the same span id.
        """
        self._ids.trace_id, self._ids.span_id = _derived(trace, 16), _derived(key, 8)
        return self._tracer.start_span(name, context=parent, start_time=nanoseconds(at), attributes=attributes)

    def close(self) -> None:
        """Send the queued spans and wait for CLOSE_SECONDS; a longer export ends by its own timeouts."""
        closing = threading.Thread(target=self._provider.shutdown, name="flexiroaster-spans-end", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class _GivenIds(IdGenerator):
    """An id generator that returns the ids set for the next span."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _RateLimitFilter(logging.Filter):
    """Rate-limits each log message: a collector that is down fails every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record."""
        now = monotonic()
        if now - self._passed.get(record.msg, float("-inf")) < QUIET_SECONDS:
            return False
        self._passed[record.msg] = now
        return True


_rate_limit = _RateLimitFilter()


def child_context(span: Span) -> Context:
    """Return the context of children of a span."""
    return set_span_in_context(span, Context())


def remote_context(traceparent: str | None) -> Context:
    """Return the context of a `traceparent`; an empty context if it is None."""
    return TraceContextTextMapPropagator().extract({} if traceparent is None else {"traceparent": traceparent})


def nanoseconds(at: datetime) -> int:
    """Convert a time to OpenTelemetry's nanoseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _derived(key: str, size: int) -> int:
    """Derive an id of `size` bytes from a text; never 0, which is not a valid id."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:size]) or 1


def _resource(owner: str) -> Resource:
    resource = {"service.version": VERSION, "service.instance.id": owner}
    given = OTELResourceDetector().detect().attributes
    if "service.name" not in given:
        resource["service.name"] = "flexiroaster"
    return Resource.create({name: value for name, value in resource.items() if name not in given})
