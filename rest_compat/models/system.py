"""The models of health, metrics and the Airflow callback."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flexiroaster.service.admin.metrics import Status
from rest_compat.dependencies import TEXT
from rest_compat.models import Answer
from rest_compat.models.safety import Insight

__all__ = ["Callback", "Figures", "Health", "Liveness", "Readiness", "Recorded", "Root", "Service", "WrongSecret"]


class Root(Answer):
    """The name and version of the server, and the paths of its docs, health check and API."""

    app: str
    version: str
    description: str
    docs: str
    health: str
    api_prefix: str


class Service(Answer):
    """The health of one service of the installation."""

    status: Status
    latency_ms: float | None
    details: dict[str, Any]


class Health(Answer):
    """The health of the installation."""

    status: Status
    app: str
    version: str
    timestamp: datetime
    services: dict[str, Service]


class Liveness(Answer):
    """Whether this process is alive."""

    status: Literal["ok", "failed"]


class Readiness(Answer):
    """Whether this process can serve requests now."""

    status: Literal["ready", "not ready"]


class Figures(Answer):
    """Metrics of the current pipelines and of the executions of the last 30 days.

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
    """The event of a task that Airflow reports."""

    SUCCESS = "success"
    FAILURE = "failure"
    RETRY = "retry"


class Callback(BaseModel):
    """Airflow's report about a task. `context.execution_id` names the execution it concerns."""

    model_config = ConfigDict(extra="ignore")

    dag_id: str = Field(min_length=1, max_length=255, pattern=TEXT)
    dag_run_id: str = Field(min_length=1, max_length=255, pattern=TEXT)
    task_id: str | None = Field(default=None, max_length=255, pattern=TEXT)
    execution_date: str | None = Field(default=None, max_length=255, pattern=TEXT)
    callback_type: CallbackType
    context: dict[str, Any] | None = None


class Recorded(Answer):
    """The callback was recorded in the audit log."""

    success: Literal[True] = True
    message: str
    dag_id: str
    dag_run_id: str


class WrongSecret(Answer):
    """The callback has a wrong secret or none."""

    error: Literal["Invalid callback secret"] = "Invalid callback secret"
