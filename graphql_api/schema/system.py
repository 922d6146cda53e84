"""The installation: the viewer, health, metrics and the audit log."""

from __future__ import annotations

from datetime import datetime

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service.admin.metrics import Status
from graphql_api.context import Info
from graphql_api.permissions import object_type, permissions
from graphql_api.schema.scalars import JSON, BigInt

__all__ = ["AuditEntry", "Health", "Metrics", "Viewer"]


def _permissions(info: Info) -> list[str]:
    role, table = info.context.viewer.role, permissions(info.schema)
    return sorted(f"{type_}.{field}" for (type_, field), needed in table.items() if role.covers(needed))


@object_type(Role.VIEWER)
class Viewer:
    """The authenticated viewer of a request."""

    name: str
    role: Role
    permissions: list[str] = strawberry.field(
        resolver=_permissions, description="The fields that the viewer may use, as `Type.field`."
    )


@object_type(Role.VIEWER)
class ServiceHealth:
    """The health of one service."""

    status: Status
    latency_ms: float | None
    details: JSON


@object_type(Role.VIEWER)
class Health:
    """The health of the installation, as seen by the process that responds."""

    status: Status = strawberry.field(
        description="Healthy while the database responds and every thread works; Redis is not required."
    )
    ready: bool = strawberry.field(description="Whether this process can serve requests now.")
    database: ServiceHealth
    redis: ServiceHealth
    executor: ServiceHealth


@object_type(Role.VIEWER)
class Metrics:
    """Current counts of pipelines, and figures on executions created in the last 30 days."""

    total_pipelines: BigInt
    active_pipelines: BigInt
    total_executions: BigInt
    successful_executions: BigInt
    failed_executions: BigInt
    success_rate: float = strawberry.field(
        description="Completed executions as a percentage of completed and failed ones."
    )
    avg_duration: float | None = strawberry.field(description="Average of completed executions, in seconds.")


@object_type(Role.ADMIN)
class AuditEntry:
    """One entry of the audit log: an action of a viewer, and its outcome."""

    at: datetime
    viewer: str
    role: Role
    action: str
    subject: str | None
    arguments: JSON = strawberry.field(description="Arguments without secrets; large values are truncated.")
    outcome: str = strawberry.field(description="`ok`, or an error code.")
    request_id: str | None
