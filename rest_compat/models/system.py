"""Health, figures, insights and Airflow's callback on the wire."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flexiroaster.service.health import Status
from rest_compat.models.base import Answer
from rest_compat.models.risk import Insight
from rest_compat.parameters import TEXT

__all__ = [
    "Callback",
    "CallbackType",
    "Figures",
    "Health",
    "Liveness",
    "Readiness",
    "Recorded",
    "Root",
    "Service",
    "WrongSecret",
]


class Root(Answer):
    """What this is, and where to look next."""

    app: str
    version: str
    description: str
    docs: str
    health: str
    api_prefix: str


class Service(Answer):
    """One part of the installation."""

    status: Status
    latency_ms: float | None
    details: dict[str, Any]


class Health(Answer):
    """How the installation is."""

    status: Status
    app: str
    version: str
    timestamp: datetime
    services: dict[str, Service]


class Liveness(Answer):
    """Whether this process works."""

    status: Literal["ok", "failed"]


class Readiness(Answer):
    """Whether this process can serve requests now."""

    status: Literal["ready", "not ready"]


class Figures(Answer):
    """Pipelines as they are now, and the executions of the last 30 days.

    `success_rate` is in percent, `avg_duration` in seconds.
    """

    total_pipelines: int
    active_pipelines: int
    total_executions: int
    successful_executions: int
    failed_executions: int
    success_rate: float
    avg_duration: float | None
    recent_insights: list[Insight]


class CallbackType(StrEnum):
    """What happened to a task."""

    SUCCESS = "success"
    FAILURE = "failure"
    RETRY = "retry"


class Callback(BaseModel):
    """What Airflow tells of a task. `context.execution_id` names the execution it concerns."""

    model_config = ConfigDict(extra="ignore")

    dag_id: str = Field(min_length=1, max_length=255, pattern=TEXT)
    dag_run_id: str = Field(min_length=1, max_length=255, pattern=TEXT)
    task_id: str | None = Field(default=None, max_length=255, pattern=TEXT)
    execution_date: str | None = Field(default=None, max_length=255, pattern=TEXT)
    callback_type: CallbackType
    context: dict[str, Any] | None = None


class Recorded(Answer):
    """The callback is in the audit log."""

    success: Literal[True] = True
    message: str
    dag_id: str
    dag_run_id: str


class WrongSecret(Answer):
    """The callback did not show the secret."""

    error: Literal["Invalid callback secret"] = "Invalid callback secret"
