"""The routes of server information, health and metrics, for people, orchestrators and dashboards."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files
from itertools import accumulate
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flexiroaster import __version__
from flexiroaster.errors import UnauthenticatedError
from flexiroaster.model.event import utc_now
from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service.admin import audit, metrics
from flexiroaster.service.admin.metrics import Counts, ExecutionCounters, Histogram, Report, Status
from flexiroaster.service.installation import Installation
from flexiroaster.service.safety import insights
from flexiroaster.web.streams import Streams
from rest_compat.models.base import Responses
from rest_compat.models.safety import Insight
from rest_compat.models.system import (
    Callback,
    Figures,
    Health,
    Liveness,
    Readiness,
    Recorded,
    Root,
    Service,
    WrongSecret,
)
from rest_compat.requests import Call, Reading, installation_of, operating, request_id_of, viewer_of

__all__ = [
    "APP",
    "DESCRIPTION",
    "Exposition",
    "WrongSecretError",
    "airflow_router",
    "answer_wrong_secret",
    "docs_router",
    "is_wanted",
    "probes",
    "router",
]


# The metrics in the Prometheus and OpenMetrics text formats.
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
        self._tallies = ExecutionCounters(installation)
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
        yield from _parts(metrics.check(self._installation))
        yield from self._live()

    def _now(self) -> Iterator[Metric]:
        live = GaugeMetricFamily("flexiroaster_executions_live", "Executions that have not ended.", labels=["status"])
        for status, number in metrics.live(self._installation).items():
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


APP = "FlexiRoaster"
DESCRIPTION = (
    "Durable data pipelines for data teams, with live events, rollback and a safety engine that predicts failures."
)

_EXPOSITION: dict[str, Any] = {
    media: {"schema": {"type": "string"}} for media in ("text/plain", "application/openmetrics-text")
}

RECENT = 10
"""Number of newest insights in the metrics."""

router = APIRouter(tags=["system"])
probes = APIRouter(tags=["system"])
"""The routes that require no token, because probes have none."""

_PUBLIC = {"fallback_mode"}
"""The details of a service that need no token; other details may reveal host names and paths."""


@probes.get("/")
def get_root(request: Request) -> Root:
    """The name and version of this server, and the paths of its docs, health check and API."""
    prefix = installation_of(request).settings.api_prefix
    return Root(
        app=APP,
        version=__version__,
        description=DESCRIPTION,
        docs=f"{prefix}/docs",
        health="/health",
        api_prefix=prefix,
    )


@probes.get("/health")
def get_health(request: Request) -> Health:
    """The health of the database, Redis and the executor. If tokens are required, full details need one."""
    report = metrics.check(installation_of(request))
    known = _is_known(request)
    parts = {"database": report.database, "redis": report.redis, "executor": report.executor}
    services = {
        name: Service(status=part.status, latency_ms=part.latency_ms, details=_details(part.details, known))
        for name, part in parts.items()
    }
    return Health(status=report.status, app=APP, version=__version__, timestamp=utc_now(), services=services)


@probes.get(
    "/health/live", responses={503: {"model": Liveness, "description": "The driver has failed: restart the process."}}
)
def get_liveness(request: Request, response: Response) -> Liveness:
    """Whether this process is alive."""
    alive = installation_of(request).healthy
    response.status_code = 200 if alive else 503
    return Liveness(status="ok" if alive else "failed")


@probes.get(
    "/health/ready", responses={503: {"model": Readiness, "description": "The process cannot serve requests now."}}
)
def get_readiness(request: Request, response: Response) -> Readiness:
    """Whether this process can serve requests now."""
    ready = metrics.check(installation_of(request)).ready
    response.status_code = 200 if ready else 503
    return Readiness(status="ready" if ready else "not ready")


@router.get(
    "/metrics",
    response_model=Figures,
    responses={
        200: {"description": "JSON, or the Prometheus text format if the client accepts it.", "content": _EXPOSITION}
    },
)
def get_metrics(
    call: Reading, request: Request, accept: Annotated[str, Header(include_in_schema=False)] = ""
) -> Response | Figures:
    """Metrics of the last 30 days as JSON; for `text/plain; version=0.0.4` and OpenMetrics, the current metrics."""
    if is_wanted(accept):
        text, content_type = request.app.state.exposition.text(accept)
        return Response(text, headers={"content-type": content_type})
    found = metrics.read(call.installation)
    recent, _ = insights.listing(call.installation, hours=24 * metrics.DAYS, limit=RECENT)
    return Figures(
        total_pipelines=found.total_pipelines,
        active_pipelines=found.active_pipelines,
        total_executions=found.total_executions,
        successful_executions=found.successful_executions,
        failed_executions=found.failed_executions,
        success_rate=found.success_rate,
        avg_duration=found.avg_duration,
        recent_insights=[Insight.of(row) for row in recent],
    )


def _is_known(request: Request) -> bool:
    try:
        viewer_of(request)
    except UnauthenticatedError:
        return False
    return True


def _details(details: dict[str, Any], known: bool) -> dict[str, Any]:
    return {name: value for name, value in details.items() if known or name in _PUBLIC}


# The OpenAPI document, and a page that shows it and sends requests; the page loads nothing from other hosts.
docs_router = APIRouter(include_in_schema=False)

_FOLDER = files("rest_compat") / "docs"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
)


@docs_router.get("/openapi.json")
async def get_openapi(request: Request) -> JSONResponse:
    """Return the OpenAPI 3.1 document."""
    return JSONResponse(request.app.openapi())


@docs_router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    """Return the documentation page."""
    prefix = escape(request.app.state.installation.settings.api_prefix)
    page = (_FOLDER / "page.html").read_text("utf-8").replace("{prefix}", prefix)
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    return HTMLResponse(page, headers=headers)


@docs_router.get("/docs/page.js")
async def get_script() -> Response:
    """Return the script of the page."""
    return Response((_FOLDER / "page.js").read_text("utf-8"), media_type="text/javascript")


@docs_router.get("/docs/page.css")
async def get_style() -> Response:
    """Return the style sheet of the page."""
    return Response((_FOLDER / "page.css").read_text("utf-8"), media_type="text/css")


# The callback for Airflow tasks.
airflow_router = APIRouter(prefix="/airflow", tags=["airflow"])

AIRFLOW = Viewer("airflow", Role.OPERATOR)
"""The viewer of callbacks with the correct secret."""

_RESPONSES: Responses = {
    401: {
        "model": WrongSecret,
        "description": "The secret is wrong; or, if none is configured, the token is missing or invalid.",
    }
}

Secret = Annotated[str | None, Header(description="AIRFLOW_CALLBACK_SECRET, if it is configured.")]


class WrongSecretError(Exception):
    """The callback has a wrong secret or none."""


async def answer_wrong_secret(_request: Request, _error: Exception) -> JSONResponse:
    """Answer a wrong secret, in the shape that the REST contract defines for it."""
    return JSONResponse(WrongSecret().model_dump(), 401)


def _caller(request: Request, x_airflow_secret: Secret = None) -> Call:
    """Check the secret and return the call; if none is configured, require an operator. Raises WrongSecretError."""
    installation = installation_of(request)
    expected = installation.settings.airflow_callback_secret
    if not expected:
        return operating(request)
    if not hmac.compare_digest(expected.encode(), (x_airflow_secret or "").encode()):
        raise WrongSecretError
    return Call(installation, AIRFLOW, request_id_of(request))


@airflow_router.post("/callback", responses=_RESPONSES)
def airflow_callback(call: Annotated[Call, Depends(_caller)], told: Callback) -> Recorded:
    """Record the event of a task together with the execution that `context.execution_id` names."""
    concerned = audit.record_callback(
        call.installation, told.model_dump(mode="json"), viewer=call.viewer, request_id=call.request_id
    )
    about = f" for execution {concerned}" if concerned else ""
    message = f"Callback recorded: {told.callback_type}{about}"
    return Recorded(message=message, dag_id=told.dag_id, dag_run_id=told.dag_run_id)
