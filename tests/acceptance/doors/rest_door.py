"""The REST interface: calls over HTTP, to the same server as GraphQL's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from tests.acceptance.doors.door import Definition, Door, Execution, Line, Problem, RefusedError, Stage

__all__ = ["RestDoor"]

CODES = {400: "not_allowed", 403: "blocked", 404: "not_found", 409: "conflict", 422: "definition.invalid"}


class RestDoor(Door):
    """A client of `/api`."""

    name = "REST"

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def run(self, definition: Definition, variables: Mapping[str, Any] | None = None) -> str:
        try:
            self.create(definition)
        except RefusedError as refused:
            if refused.code != "conflict":  # it is stored already
                raise
        execution_id = self.start(definition["id"], variables)
        self.wait(execution_id)
        return execution_id

    def create(self, definition: Definition) -> str:
        return str(self._ask("POST", "/api/pipelines", json=dict(definition))["id"])

    def definition(self, pipeline_id: str) -> dict[str, Any]:
        return dict(self._ask("GET", f"/api/pipelines/{pipeline_id}"))

    def pipelines(self) -> dict[str, bool]:
        found = self._ask("GET", "/api/pipelines")["pipelines"]
        return {each["id"]: each["is_active"] for each in found}

    def activate(self, pipeline_id: str) -> None:
        self._ask("POST", f"/api/pipelines/{pipeline_id}/activate")

    def deactivate(self, pipeline_id: str) -> None:
        self._ask("POST", f"/api/pipelines/{pipeline_id}/deactivate")

    def delete(self, pipeline_id: str) -> None:
        self._ask("DELETE", f"/api/pipelines/{pipeline_id}")

    def start(self, pipeline_id: str, variables: Mapping[str, Any] | None = None) -> str:
        body = {"pipeline_id": pipeline_id, "variables": variables}
        return str(self._ask("POST", "/api/executions", json=body)["execution_id"])

    def start_once(self, pipeline_id: str, key: str, variables: Mapping[str, Any] | None = None) -> str:
        path, headers = f"/api/executions/{pipeline_id}/execute", {"idempotency-key": key}
        started = self._ask("POST", path, json={"variables": variables}, headers=headers)
        return str(started["execution_id"])

    def show(self, execution_id: str) -> Execution | None:
        return _execution(self._ask("GET", f"/api/executions/{execution_id}"))

    def executions(self, pipeline_id: str) -> dict[str, str]:
        found = self._ask("GET", "/api/executions", params={"pipeline_id": pipeline_id})["executions"]
        return {each["id"]: each["status"] for each in found}

    def logs(self, execution_id: str) -> list[Line]:
        found = self._ask("GET", f"/api/executions/{execution_id}/logs", params={"level": "info"})["logs"]
        return [_line(each) for each in found]

    def stop(self, execution_id: str) -> None:
        self._ask("POST", f"/api/executions/{execution_id}/stop")

    def pause(self, execution_id: str) -> None:
        self._ask("POST", f"/api/executions/{execution_id}/pause")

    def resume(self, execution_id: str) -> None:
        self._ask("POST", f"/api/executions/{execution_id}/resume")

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        """Return the body of a successful response; raise RefusedError for an error."""
        answer = self._http.request(method, path, **options)
        body = answer.json()
        if answer.is_success:
            return body
        assert answer.status_code in CODES, body
        if answer.status_code == 422:
            raise RefusedError(CODES[422], problems=tuple(_problem(each) for each in body["detail"]))
        raise RefusedError(CODES[answer.status_code], body["detail"])


def _problem(found: Mapping[str, Any]) -> Problem:
    """`["body", "stages", 1, "config", "by"]` is `stages[1].config.by` of the model."""
    body, *parts = found["loc"]
    assert body == "body", found
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return Problem(path.removeprefix("."), found["msg"], found["type"])


def _execution(found: Mapping[str, Any]) -> Execution:
    return Execution(
        id=found["id"],
        pipeline_id=found["pipeline_id"],
        pipeline_name=found["pipeline_name"],
        status=found["status"],
        completed=found["completed_stages"],
        variables=found["variables"],
        risk_score=found["risk_score"],
        error=found["error"],
        stages=tuple(_stage(stage) for stage in found["stage_executions"]),
    )


def _stage(found: Mapping[str, Any]) -> Stage:
    rows = (found["output"] or {}).get("rows")
    return Stage(found["stage_id"], found["stage_name"], found["status"], rows, found["error"])


def _line(found: Mapping[str, Any]) -> Line:
    error = found["metadata"].get("error") or {}
    return Line(found["id"], found["level"], found["stage_id"], found["message"], error.get("class"))
