"""The trace of one execution, told event by event.

A run, from its start to its end, is a span, and so is every attempt of a stage within it. A retry or a rollback after
the end is a run of its own below the first one, which was sent when it ended and cannot grow any more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from opentelemetry.trace import Span, StatusCode

from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import Event, EventType
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.operators.registry import operator_of
from flexiroaster.service.tracing.spans import Attributes, Spans, below, nanoseconds, outside
from flexiroaster.store.rows import ExecutionRow

__all__ = ["TOLD", "ExecutionTrace"]

_BEGINS: Final = {
    EventType.EXECUTION_STARTED: "execution",
    EventType.EXECUTION_RESUMED: "execution",  # the start of one that began paused
    EventType.EXECUTION_RETRIED: "retry",
    EventType.ROLLBACK_STARTED: "rollback",
}
"""What begins a run, unless one is under way, and what it is called where it is not the first."""

_STATUS: Final = {
    EventType.EXECUTION_COMPLETED: ExecutionStatus.COMPLETED,
    EventType.EXECUTION_FAILED: ExecutionStatus.FAILED,
    EventType.EXECUTION_CANCELLED: ExecutionStatus.CANCELLED,
    EventType.ROLLBACK_COMPLETED: ExecutionStatus.ROLLED_BACK,
    EventType.ROLLBACK_FAILED: ExecutionStatus.FAILED,
}
"""What ends a run, and the state that leads to."""

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
"""What ends an attempt, and how."""

_NOTED: Final = {
    EventType.EXECUTION_PAUSED,
    EventType.EXECUTION_STOPPING,
    EventType.EXECUTION_RELEASED,
    EventType.COMMAND_REFUSED,
    EventType.STAGE_SKIPPED,
}
"""What is told within the span of the run; so are beginnings while it is under way."""

TOLD: Final = tuple({*_BEGINS, *_STATUS, *_ATTEMPTS, *_OUTCOMES, *_NOTED})
"""The events that a trace is made of, besides the creation."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    span: Span
    undoes: bool


class ExecutionTrace:
    """Its spans so far: `hear` takes its events in order, each once. `seq` is the number of the last one.

    What happened before this process drove the execution is heard as well, as `past`: its spans are others' to send.
    """

    def __init__(self, spans: Spans, row: ExecutionRow, pipeline: Pipeline | None, created: Event) -> None:
        self.seq = created.seq
        self._spans = spans
        self._row = row
        self._stages = {stage.id: stage for stage in pipeline.stages} if pipeline is not None else {}
        self._created = created
        self._parent = outside((created.data or {}).get("traceparent"))
        self._first: Span | None = None
        self._run: Span | None = None
        self._attempts: dict[str, _Attempt] = {}
        self._undos: Counter[str] = Counter()

    def hear(self, event: Event, *, past: bool = False) -> None:
        """Something happened to it."""
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
        elif kind in _NOTED or kind in _BEGINS:
            self._note(event, past)

    # --- runs ----------------------------------------------------------------------------------------------------

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
        parent = self._parent if self._first is None else below(self._first)
        self._run = self._spans.begin(name, row.id, f"{row.id}/{seq}", parent, event.at, attributes)
        self._first = self._first or self._run
        return self._run

    def _end(self, event: Event, past: bool) -> None:
        run = self._run or self._begin("execution", self._created)  # it ended before it was started
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

    # --- attempts ------------------------------------------------------------------------------------------------

    def _begin_attempt(self, event: Event, past: bool) -> None:
        stage_id, row = event.stage_id, self._row
        if stage_id is None or self._run is None:
            return
        self._interrupted(stage_id, event.at, past)
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
        span = self._spans.begin(name, row.id, key, below(self._run), event.at, attributes)
        self._attempts[stage_id] = _Attempt(span, undoes)

    def _end_attempt(self, event: Event, past: bool) -> None:
        """Also a stage that nothing runs of may be cancelled; then there is nothing to end."""
        attempt = self._attempts.pop(event.stage_id or "", None)
        if attempt is None:
            return
        span, data = attempt.span, event.data or {}
        span.set_attribute("flexiroaster.stage.outcome", _OUTCOMES[event.type])
        if isinstance(rows := data.get("rows"), int):
            span.set_attribute("flexiroaster.stage.rows", rows)
        if isinstance(error := data.get("error"), dict):
            _fail(span, error)
        if not past:
            span.end(nanoseconds(event.at))

    def _end_attempts(self, at: datetime, past: bool) -> None:
        for stage_id in tuple(self._attempts):
            self._interrupted(stage_id, at, past)

    def _interrupted(self, stage_id: str, at: datetime, past: bool) -> None:
        """Nobody told how that attempt ended: an undo whose process went away begins anew without a word."""
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


def _fail(span: Span, error: dict[str, Any]) -> None:
    span.set_attribute("error.type", str(error.get("class", "")))
    span.set_attribute("exception.type", str(error.get("type", "")))
    span.set_status(StatusCode.ERROR, str(error.get("message", "")))
