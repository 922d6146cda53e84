"""The routes of server information, health, metrics and the Airflow callback."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from flexiroaster import __version__
from flexiroaster.errors import UnauthenticatedError
from flexiroaster.model.event import utc_now
from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service.admin import audit, metrics
from flexiroaster.service.safety import insights
from rest_compat.dependencies import Call, Reading, installation_of, operating, request_id_of, viewer_of
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
from rest_compat.prometheus import MEDIA_TYPES, accepts_exposition
from rest_compat.responses import Responses

__all__ = ["APP", "DESCRIPTION", "WrongSecretError", "airflow_router", "answer_wrong_secret", "probes", "router"]

APP = "FlexiRoaster"
DESCRIPTION = (
    "Durable data pipelines for data teams, with live events, rollback and a safety engine that predicts failures."
)

_RECENT_INSIGHTS = 10

_PUBLIC_DETAILS = {"fallback_mode"}
"""The details of a service that need no token; other details may reveal host names and paths."""

_TEXT_FORMATS: dict[str, Any] = {media_type: {"schema": {"type": "string"}} for media_type in MEDIA_TYPES}

router = APIRouter(tags=["system"])
probes = APIRouter(tags=["system"])
"""The routes that require no token, because probes have none."""


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
    authenticated = _is_authenticated(request)
    services = {}
    for name, part in (("database", report.database), ("redis", report.redis), ("executor", report.executor)):
        details = {key: value for key, value in part.details.items() if authenticated or key in _PUBLIC_DETAILS}
        services[name] = Service(status=part.status, latency_ms=part.latency_ms, details=details)
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
        200: {"description": "JSON, or the Prometheus text format if the client accepts it.", "content": _TEXT_FORMATS}
    },
)
def get_metrics(
    call: Reading, request: Request, accept: Annotated[str, Header(include_in_schema=False)] = ""
) -> Response | Figures:
    """Metrics of the last 30 days as JSON; for `text/plain; version=0.0.4` and OpenMetrics, the current metrics."""
    if accepts_exposition(accept):
        text, content_type = request.app.state.exposition.text(accept)
        return Response(text, headers={"content-type": content_type})
    figures = metrics.read(call.installation)
    recent, _ = insights.listing(call.installation, hours=24 * metrics.DAYS, limit=_RECENT_INSIGHTS)
    return Figures.from_row(figures, recent_insights=[Insight.from_row(row) for row in recent])


def _is_authenticated(request: Request) -> bool:
    try:
        viewer_of(request)
    except UnauthenticatedError:
        return False
    return True


# --- the callback for Airflow tasks ---
airflow_router = APIRouter(prefix="/airflow", tags=["airflow"])

_AIRFLOW = Viewer("airflow", Role.OPERATOR)
"""The viewer of callbacks with the correct secret."""

_WRONG_SECRET: Responses = {
    401: {
        "model": WrongSecret,
        "description": "The secret is wrong; or, if none is configured, the token is missing or invalid.",
    }
}

_Secret = Annotated[str | None, Header(description="AIRFLOW_CALLBACK_SECRET, if it is configured.")]


class WrongSecretError(Exception):
    """The callback has a wrong secret or none."""


async def answer_wrong_secret(_request: Request, _error: Exception) -> JSONResponse:
    """Answer a wrong secret, in the shape that the REST contract defines for it."""
    return JSONResponse(WrongSecret().model_dump(), 401)


def _authenticate(request: Request, x_airflow_secret: _Secret = None) -> Call:
    """Check the secret and return the call; if none is configured, require an operator. Raises WrongSecretError."""
    installation = installation_of(request)
    expected = installation.settings.airflow_callback_secret
    if not expected:
        return operating(request)
    if not hmac.compare_digest(expected.encode(), (x_airflow_secret or "").encode()):
        raise WrongSecretError
    return Call(installation, _AIRFLOW, request_id_of(request))


@airflow_router.post("/callback", responses=_WRONG_SECRET)
def airflow_callback(call: Annotated[Call, Depends(_authenticate)], callback: Callback) -> Recorded:
    """Record the event of a task together with the execution that `context.execution_id` names."""
    execution_id = audit.record_callback(
        call.installation, callback.model_dump(mode="json"), viewer=call.viewer, request_id=call.request_id
    )
    about = f" for execution {execution_id}" if execution_id else ""
    message = f"Callback recorded: {callback.callback_type}{about}"
    return Recorded.from_row(callback, success=True, message=message)
