"""The metrics of an installation in the Prometheus and OpenMetrics text formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flexiroaster.service.admin import metrics
from flexiroaster.service.admin.metrics import Counts, ExecutionCounters, Histogram, Report, Status
from flexiroaster.service.installation import Installation
from flexiroaster.web.streams import Streams

__all__ = ["MEDIA_TYPES", "Exposition", "accepts_exposition"]

MEDIA_TYPES = ("text/plain", "application/openmetrics-text")
"""The media types of the exposition."""


def accepts_exposition(accept: str) -> bool:
    """Whether an `Accept` header asks for the exposition: it names one of the text formats, and not JSON."""
    named = {each.partition(";")[0].strip().lower() for each in accept.split(",")}
    return not named.isdisjoint(MEDIA_TYPES) and "application/json" not in named


class Exposition(Collector):
    """A collector of all metrics of an installation, read on each scrape; counters start with this process.

    `open_streams` are the event streams that are open over REST.
    """

    def __init__(self, installation: Installation, streams: Streams, open_streams: set[object]) -> None:
        self._installation = installation
        self._streams = streams
        self._open_streams = open_streams
        self._counters = ExecutionCounters(installation)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition in the accepted format and its content type. Raises StoreError."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Return nothing, because describing the metrics would read them all."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read all metrics."""
        yield from _counts(self._counters.catch_up())
        live = metrics.live(self._installation)
        yield _gauges("flexiroaster_executions_live", "Executions that have not ended.", "status", live.items())
        figures = metrics.read(self._installation)
        yield _gauge("flexiroaster_pipelines", "Pipelines.", figures.total_pipelines)
        yield _gauge("flexiroaster_pipelines_active", "Pipelines that are active.", figures.active_pipelines)
        yield from _health(metrics.check(self._installation))
        opened = self._streams.subscriptions
        yield _gauges("flexiroaster_subscriptions", "Open subscriptions over GraphQL.", "transport", opened.items())
        yield _gauge("flexiroaster_event_streams", "Open event streams over REST.", len(self._open_streams))


def _counts(counts: Counts) -> Iterator[Metric]:
    ended = (((status,), number) for status, number in counts.executions.items())
    yield _counters("flexiroaster_executions_ended", "Executions that ended.", ["status"], ended)
    retries = (((operator,), number) for operator, number in counts.retries.items())
    yield _counters("flexiroaster_stage_retries", "Attempts beyond the first.", ["operator"], retries)
    about = "Duration of the last attempt of each stage."
    yield _histogram("flexiroaster_stage_duration_seconds", about, "operator", counts.stages)
    about = "Executions taken over because the lease of their worker had expired."
    yield CounterMetricFamily("flexiroaster_lease_losses", about, value=counts.lease_losses)
    about = "Predicted probability of failure at the start of an execution, from 0 to 1."
    yield _histogram("flexiroaster_start_risk_ratio", about, "level", counts.risks)
    about = "Decisions about failures and anomalies, by chosen and taken action."
    yield _counters("flexiroaster_decisions", about, ["action", "taken"], counts.decisions.items())


def _health(report: Report) -> Iterator[Metric]:
    services = {"database": report.database, "redis": report.redis, "executor": report.executor}
    up = {name: service.status is Status.HEALTHY for name, service in services.items()}
    yield _gauges("flexiroaster_up", "Whether a service of the installation is healthy.", "service", up.items())
    latencies = {name: ms / 1000 for name, service in services.items() if (ms := service.latency_ms) is not None}
    yield _gauges("flexiroaster_latency_seconds", "Response time of a service.", "service", latencies.items())
    fallback = report.redis.details["fallback_mode"]
    yield _gauge("flexiroaster_redis_fallback", "Whether the database replaces Redis.", bool(fallback))
    driven = report.executor.details["executions"]
    yield _gauge("flexiroaster_executions_driven", "Executions that this process drives.", driven)


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=float(value))


def _gauges(name: str, about: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for label_value, value in values:
        family.add_metric([label_value], float(value))
    return family


def _counters(
    name: str, about: str, labels: list[str], counts: Iterable[tuple[tuple[str, ...], float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, about, labels=labels)
    for label_values, count in sorted(counts):
        family.add_metric(label_values, count)
    return family


def _histogram(name: str, about: str, label: str, histograms: Mapping[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, about, labels=[label])
    for value, histogram in sorted(histograms.items()):
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        family.add_metric([value], list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total)
    return family
