"""Spans with ids and times of our own choice, and their way to the collector.

The processes that drive an execution one after another have to make the same trace of it without talking to one
another. So the ids of a span follow from what it is about, and a span that one process began another can end.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import flexiroaster

__all__ = ["Attributes", "Spans", "below", "nanoseconds", "outside"]

Attributes = Mapping[str, str | int | float | bool]

CLOSE_SECONDS = 2.0
"""How long the end of the process may wait for a collector that does not answer."""

QUIET_SECONDS = 600.0
"""How often the same complaint about the collector is logged."""

_COMPLAINING = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Spans:
    """Begins spans; those that are ended are sent in batches in the background. Of one thread, but for `close`."""

    def __init__(self, endpoint: str, owner: str) -> None:
        for name in _COMPLAINING:
            logging.getLogger(name).addFilter(_now_and_then)
        self._ids = _GivenIds()
        self._provider = TracerProvider(resource=_resource(owner), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("flexiroaster", flexiroaster.__version__)

    def begin(self, name: str, trace: str, key: str, parent: Context, at: datetime, attributes: Attributes) -> Span:
        """A span below `parent`, in its trace; where that is empty, the first one of the trace that `trace` names.

        `key` is what the span is about; the same key is the same span.
        """
        self._ids.trace_id, self._ids.span_id = _derived(trace, 16), _derived(key, 8)
        return self._tracer.start_span(name, context=parent, start_time=nanoseconds(at), attributes=attributes)

    def close(self) -> None:
        """Send what waits, and wait for that a little; what then still tries ends with its own limits."""
        closing = threading.Thread(target=self._provider.shutdown, name="flexiroaster-spans-end", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class _GivenIds(IdGenerator):
    """Gives out the ids that the next span is to have."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _NowAndThen(logging.Filter):
    """Lets each kind of line pass once in a while: a collector that is away is away for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it passes."""
        now = monotonic()
        if now - self._passed.get(record.msg, float("-inf")) < QUIET_SECONDS:
            return False
        self._passed[record.msg] = now
        return True


_now_and_then = _NowAndThen()


def below(span: Span) -> Context:
    """The context of what happens within a span."""
    return set_span_in_context(span, Context())


def outside(traceparent: str | None) -> Context:
    """The context that a `traceparent` tells of; an empty one without."""
    return TraceContextTextMapPropagator().extract({} if traceparent is None else {"traceparent": traceparent})


def nanoseconds(at: datetime) -> int:
    """A time as OpenTelemetry has it, since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _derived(key: str, size: int) -> int:
    """An id of `size` bytes that follows from a text; 0 is none."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:size]) or 1


def _resource(owner: str) -> Resource:
    ours = {"service.version": flexiroaster.__version__, "service.instance.id": owner}
    given = OTELResourceDetector().detect().attributes
    if "service.name" not in given:
        ours["service.name"] = "flexiroaster"
    return Resource.create({name: value for name, value in ours.items() if name not in given})
