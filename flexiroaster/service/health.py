"""Health checks of an installation, for people and orchestrators. Nothing here raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flexiroaster.coordination.health import DatabaseState, Health
from flexiroaster.coordination.redis.link import RedisState
from flexiroaster.errors import FlexiRoasterError
from flexiroaster.service.installation import Installation

__all__ = ["Report", "ServiceReport", "Status", "check"]


class Status(StrEnum):
    """The health of a service or of the installation."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """The health of one service: its status, the latency of its answer in milliseconds (if measured), and details."""

    status: Status
    latency_ms: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The health of the installation: healthy if the database answers and all threads of this process work.

    Redis is not required. The executor is unhealthy if this process cannot drive executions, and degraded if one of its
    other threads fails.
    """

    database: ServiceReport
    redis: ServiceReport
    executor: ServiceReport

    @property
    def status(self) -> Status:
        """The overall status: healthy or degraded."""
        well = self.database.status is Status.HEALTHY and self.executor.status is Status.HEALTHY
        return Status.HEALTHY if well else Status.DEGRADED

    @property
    def ready(self) -> bool:
        """Whether this process can serve requests now."""
        return self.database.status is Status.HEALTHY and self.executor.status is not Status.UNHEALTHY


def check(installation: Installation) -> Report:
    """Check the database, Redis and the driver of this process. Waits for a database that does not answer."""
    try:
        found = installation.signals.health()
    except FlexiRoasterError as error:  # the database was never reached, or has another schema version
        found = Health(DatabaseState(available=False, error=error.message), _unasked(installation))
    return Report(_database(installation, found.database), _redis(found.redis), _executor(installation))


def _unasked(installation: Installation) -> RedisState:
    configured = bool(installation.settings.redis_url)
    return RedisState(configured=configured, available=False, fallback_mode=True)


def _database(installation: Installation, state: DatabaseState) -> ServiceReport:
    if not state.available:
        return ServiceReport(Status.UNHEALTHY, details={"error": state.error})
    return ServiceReport(Status.HEALTHY, state.latency_ms, {"dialect": installation.database.engine.dialect.name})


def _redis(state: RedisState) -> ServiceReport:
    details = {
        "configured": state.configured,
        "fallback_mode": state.fallback_mode,
        "since": None if state.since is None else state.since.isoformat(),
        "error": state.last_error,
    }
    status = Status.HEALTHY if state.available else Status.DEGRADED
    return ServiceReport(status, state.latency_ms, details)


def _executor(installation: Installation) -> ServiceReport:
    alive, failures = installation.healthy, installation.failures
    driven = len(installation.driver.driven) if installation.drives and alive else 0
    details = {"owner": installation.owner, "started": installation.drives, "executions": driven}
    details["failing"] = {failure.name: failure.error for failure in failures}
    if not alive or any(failure.essential for failure in failures):
        return ServiceReport(Status.UNHEALTHY, details=details)
    return ServiceReport(Status.DEGRADED if failures else Status.HEALTHY, details=details)
