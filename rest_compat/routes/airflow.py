"""The callback for Airflow tasks."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse

from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service import callbacks
from rest_compat.models.base import Responses
from rest_compat.models.system import Callback, Recorded, WrongSecret
from rest_compat.requests import Call, installation_of, operating, request_id_of

__all__ = ["WrongSecretError", "answer_wrong_secret", "router"]

router = APIRouter(prefix="/airflow", tags=["airflow"])

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


@router.post("/callback", responses=_RESPONSES)
def airflow_callback(call: Annotated[Call, Depends(_caller)], told: Callback) -> Recorded:
    """Record the event of a task together with the execution that `context.execution_id` names."""
    concerned = callbacks.record(
        call.installation, told.model_dump(mode="json"), viewer=call.viewer, request_id=call.request_id
    )
    about = f" for execution {concerned}" if concerned else ""
    message = f"Callback recorded: {told.callback_type}{about}"
    return Recorded(message=message, dag_id=told.dag_id, dag_run_id=told.dag_run_id)
