"""Spans with explicit ids and times, and their export to the collector.

Processes that drive an execution one after another must build the same trace without communicating. Therefore the ids
of a span derive from its subject, and one process can end a span that another began.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from time import monotonic

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

VERSION = version("flexiroaster")

__all__ = ["Attributes", "Spans", "below", "nanoseconds", "outside"]

Attributes = Mapping[str, str | int | float | bool]

CLOSE_SECONDS = 2.0
"""Maximum time that the exit of the process waits for a collector that does not answer."""

QUIET_SECONDS = 600.0
"""Minimum time between two identical log messages about the collector."""

_COMPLAINING = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Spans:
    """Creates spans; ended spans are sent in batches in the background. Not thread-safe, except for `close`."""

    def __init__(self, endpoint: str, owner: str) -> None:
        for name in _COMPLAINING:
            logging.getLogger(name).addFilter(_now_and_then)
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


_now_and_then = _RateLimitFilter()


def below(span: Span) -> Context:
    """Return the context of children of a span."""
    return set_span_in_context(span, Context())


def outside(traceparent: str | None) -> Context:
    """Return the context of a `traceparent`; an empty context if it is None."""
    return TraceContextTextMapPropagator().extract({} if traceparent is None else {"traceparent": traceparent})


def nanoseconds(at: datetime) -> int:
    """Convert a time to OpenTelemetry's nanoseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _derived(key: str, size: int) -> int:
    """Derive an id of `size` bytes from a text; never 0, which is not a valid id."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:size]) or 1


def _resource(owner: str) -> Resource:
    ours = {"service.version": VERSION, "service.instance.id": owner}
    given = OTELResourceDetector().detect().attributes
    if "service.name" not in given:
        ours["service.name"] = "flexiroaster"
    return Resource.create({name: value for name, value in ours.items() if name not in given})
