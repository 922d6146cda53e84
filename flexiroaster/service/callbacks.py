"""Callbacks: reports of other schedulers about their tasks, kept in the audit log with the execution they concern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexiroaster.model.viewer import Viewer
from flexiroaster.service.admin import audit
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation

__all__ = ["ACTION", "record"]

ACTION = "airflowCallback"
"""The action in the audit log."""


def record(
    installation: Installation, told: Mapping[str, Any], *, viewer: Viewer, request_id: str | None = None
) -> str | None:
    """Record a callback: `told` has at least `dag_id` and `dag_run_id`, and optionally `context.execution_id`.

    Returns the id of the execution that the callback names, if it exists. Otherwise returns None and records the
    callback under the DAG run. Raises StoreError.
    """
    concerned = _execution(installation, told.get("context"))
    audit.record(
        installation,
        viewer=viewer,
        action=ACTION,
        subject=concerned or f"{told['dag_id']}/{told['dag_run_id']}",
        arguments=told,
        request_id=request_id,
    )
    return concerned


def _execution(installation: Installation, context: object) -> str | None:
    named = context.get("execution_id") if isinstance(context, Mapping) else None
    if not isinstance(named, str) or not named.isprintable():
        return None
    return next(iter(executions.by_ids(installation, [named])), None)
