"""The routes of server information, health and metrics, for people, orchestrators and dashboards."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from flexiroaster import __version__
from flexiroaster.errors import UnauthenticatedError
from flexiroaster.model.event import utc_now
from flexiroaster.service import health
from flexiroaster.service.admin import metrics
from flexiroaster.service.safety import insights
from rest_compat import exposition
from rest_compat.models.risk import Insight
from rest_compat.models.system import Figures, Health, Liveness, Readiness, Root, Service
from rest_compat.requests import Reading, installation_of, viewer_of

__all__ = ["APP", "DESCRIPTION", "probes", "router"]

APP = "FlexiRoaster"
DESCRIPTION = "Data pipelines with durable execution, a safety engine and live events."

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
    report = health.check(installation_of(request))
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
    ready = health.check(installation_of(request)).ready
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
    if exposition.is_wanted(accept):
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
