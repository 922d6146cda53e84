"""The installation: who asks, whether it is well, what it has done, who did what."""

from __future__ import annotations

from datetime import datetime

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service import health, metrics
from flexiroaster.service.health import Status
from graphql_api.context import Info
from graphql_api.permissions import fields_require, permissions
from graphql_api.schema.scalars import JSON, BigInt
from graphql_api.schema.served import served

__all__ = ["AuditEntry", "Health", "Metrics", "Viewer", "system_health", "system_metrics"]


def _permissions(info: Info) -> list[str]:
    role = info.context.viewer.role
    table = permissions(info.schema)
    return sorted(f"{type_}.{field}" for (type_, field), needed in table.items() if role.covers(needed))


@fields_require(Role.VIEWER)
@strawberry.type
class Viewer:
    """Whoever asks."""

    name: str
    role: Role
    permissions: list[str] = strawberry.field(
        resolver=_permissions, description="The fields that may be used, as `Type.field`."
    )


@fields_require(Role.VIEWER)
@strawberry.type
class ServiceHealth:
    """How one part is."""

    status: Status
    latency_ms: float | None
    details: JSON


@fields_require(Role.VIEWER)
@strawberry.type
class Health:
    """How the installation is, seen from the process that answers."""

    status: Status = strawberry.field(
        description="Healthy while the database answers and every thread works; Redis is not needed."
    )
    ready: bool = strawberry.field(description="Whether requests can be served here now.")
    database: ServiceHealth
    redis: ServiceHealth
    executor: ServiceHealth


def system_health(info: Info) -> Health:
    """Ask database and Redis, and look at this process's driver."""
    return served(health.check(info.context.installation))


@fields_require(Role.VIEWER)
@strawberry.type
class Metrics:
    """Pipelines as they are now; executions that were created in the last 30 days."""

    total_pipelines: BigInt
    active_pipelines: BigInt
    total_executions: BigInt
    successful_executions: BigInt
    failed_executions: BigInt
    success_rate: float = strawberry.field(description="Percent completed of those that completed or failed.")
    avg_duration: float | None = strawberry.field(description="Seconds, of those that completed.")


def system_metrics(info: Info) -> Metrics:
    """The figures as of now."""
    return served(metrics.read(info.context.installation))


@fields_require(Role.ADMIN)
@strawberry.type
class AuditEntry:
    """Who did what, and what came of it."""

    at: datetime
    viewer: str
    role: Role
    action: str
    subject: str | None
    arguments: JSON = strawberry.field(description="Without secrets; what is large is cut.")
    outcome: str = strawberry.field(description="`ok`, or the code of an error.")
    request_id: str | None
