"""The metrics in the Prometheus and OpenMetrics text formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flexiroaster.service import health, tallies
from flexiroaster.service.admin import metrics
from flexiroaster.service.health import Report, Status
from flexiroaster.service.installation import Installation
from flexiroaster.service.tallies import Counts, Histogram, Tallies
from flexiroaster.web.streams import Streams

__all__ = ["Exposition", "is_wanted"]

_OPEN_METRICS, _TEXT = "application/openmetrics-text", "text/plain"


def is_wanted(accept: str) -> bool:
    """Whether an `Accept` header asks for the exposition: it names one of the text formats, and not JSON."""
    named = {each.partition(";")[0].strip().lower() for each in accept.split(",")}
    return bool(named & {_OPEN_METRICS, _TEXT}) and "application/json" not in named


class Exposition(Collector):
    """A collector of all metrics of an installation, read on each scrape; counters start with this process."""

    def __init__(self, installation: Installation, streams: Streams, opened: set[object]) -> None:
        self._installation = installation
        self._streams = streams
        self._opened = opened
        self._tallies = Tallies(installation)
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
        yield from _counted(self._tallies.catch_up())
        yield from self._now()
        yield from _parts(health.check(self._installation))
        yield from self._live()

    def _now(self) -> Iterator[Metric]:
        live = GaugeMetricFamily("flexiroaster_executions_live", "Executions that have not ended.", labels=["status"])
        for status, number in tallies.live(self._installation).items():
            live.add_metric([status], number)
        yield live
        found = metrics.read(self._installation)
        yield _gauge("flexiroaster_pipelines", "Pipelines.", found.total_pipelines)
        yield _gauge("flexiroaster_pipelines_active", "Pipelines that are active.", found.active_pipelines)

    def _live(self) -> Iterator[Metric]:
        about = "Open subscriptions over GraphQL."
        opened = GaugeMetricFamily("flexiroaster_subscriptions", about, labels=["transport"])
        for transport, number in self._streams.subscriptions.items():
            opened.add_metric([transport], number)
        yield opened
        yield _gauge("flexiroaster_event_streams", "Open event streams over REST.", len(self._opened))


def _counted(counts: Counts) -> Iterator[Metric]:
    yield from _executions(counts)
    losses = "Executions taken over because the lease of their worker had expired."
    yield CounterMetricFamily("flexiroaster_lease_losses", losses, value=counts.lease_losses)
    about = "Predicted probability of failure at the start of an execution, from 0 to 1."
    yield _histogram("flexiroaster_start_risk_ratio", about, "level", counts.risks)
    told = "Decisions about failures and anomalies, by chosen and taken action."
    decided = CounterMetricFamily("flexiroaster_decisions", told, labels=["action", "taken"])
    for labels, number in sorted(counts.decisions.items()):
        decided.add_metric(labels, number)
    yield decided


def _executions(counts: Counts) -> Iterator[Metric]:
    ended = CounterMetricFamily("flexiroaster_executions_ended", "Executions that ended.", labels=["status"])
    for status, number in sorted(counts.executions.items()):
        ended.add_metric([status], number)
    yield ended
    retries = CounterMetricFamily("flexiroaster_stage_retries", "Attempts beyond the first.", labels=["operator"])
    for operator, number in sorted(counts.retries.items()):
        retries.add_metric([operator], number)
    yield retries
    times = "Duration of the last attempt of each stage."
    yield _histogram("flexiroaster_stage_duration_seconds", times, "operator", counts.stages)


def _parts(report: Report) -> Iterator[Metric]:
    up = GaugeMetricFamily("flexiroaster_up", "Whether a service of the installation is healthy.", labels=["service"])
    latency = GaugeMetricFamily("flexiroaster_latency_seconds", "Response time of a service.", labels=["service"])
    for name, part in (("database", report.database), ("redis", report.redis), ("executor", report.executor)):
        up.add_metric([name], float(part.status is Status.HEALTHY))
        if part.latency_ms is not None:
            latency.add_metric([name], part.latency_ms / 1000)
    yield up
    yield latency
    fallback = bool(report.redis.details["fallback_mode"])
    yield _gauge("flexiroaster_redis_fallback", "Whether the database replaces Redis.", fallback)
    driven = report.executor.details["executions"]
    yield _gauge("flexiroaster_executions_driven", "Executions that this process drives.", driven)


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=float(value))


def _histogram(name: str, about: str, label: str, found: Mapping[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, about, labels=[label])
    for value, histogram in sorted(found.items()):
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        family.add_metric([value], list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total)
    return family
