"""OpenAPI links: the calls that accept an id from a response. People follow them, and so do the contract tests."""

from __future__ import annotations

from typing import Any

__all__ = ["EXECUTION", "PIPELINE"]


def _links(parameter: str, source: str, *operations: str) -> dict[str, Any]:
    return {"links": {name: {"operationId": name, "parameters": {parameter: source}} for name in operations}}


PIPELINE = _links(
    "pipeline_id",
    "$response.body#/id",
    "get_pipeline",
    "update_pipeline",
    "activate_pipeline",
    "deactivate_pipeline",
    "execute_pipeline",
    "delete_pipeline",
)
"""The links of a response with a pipeline."""

EXECUTION = _links(
    "execution_id",
    "$response.body#/execution_id",
    "get_execution",
    "get_logs",
    "list_decisions",
    "follow_events",
    "pause_execution",
    "resume_execution",
    "stop_execution",
)
"""The links of a response to a start."""
