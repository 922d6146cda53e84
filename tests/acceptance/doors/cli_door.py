"""The command line interface: `python -m flexiroaster ... --json`, one process per call."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.acceptance.doors.door import Definition, Door, Execution, Line, Problem, RefusedError, Stage
from tests.integration.program import flexiroaster, write_definition

__all__ = ["CliDoor"]


class CliDoor(Door):
    """The command line, in the working directory of the test."""

    name = "command line"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def validate(self, definition: Definition) -> list[Problem]:
        try:
            self._document("validate", write_definition(dict(definition)))
        except RefusedError as refused:
            return list(refused.problems)
        return []

    def run(self, definition: Definition, variables: Mapping[str, Any] | None = None) -> str:
        options = [f"--var={name}={json.dumps(value)}" for name, value in (variables or {}).items()]
        return str(self._document("run", write_definition(dict(definition)), *options)["execution_id"])

    def definition(self, pipeline_id: str) -> dict[str, Any]:
        return dict(self._document("pipelines", "show", pipeline_id)["definition"])

    def pipelines(self) -> dict[str, bool]:
        return {each["id"]: each["is_active"] for each in self._document("pipelines", "list")["pipelines"]}

    def show(self, execution_id: str) -> Execution | None:
        return _execution(self._document("executions", "show", execution_id))

    def executions(self, pipeline_id: str) -> dict[str, str]:
        found = self._document("executions", "list", f"--pipeline={pipeline_id}")["executions"]
        return {each["execution_id"]: each["status"] for each in found}

    def logs(self, execution_id: str) -> list[Line]:
        done = self._done("executions", "logs", execution_id)
        return [_line(json.loads(line)) for line in done.stdout.splitlines()]

    def stop(self, execution_id: str) -> None:
        self._document("executions", "stop", execution_id)

    def pause(self, execution_id: str) -> None:
        self._document("executions", "pause", execution_id)

    def resume(self, execution_id: str) -> None:
        self._document("executions", "resume", execution_id)

    def retry(self, execution_id: str) -> None:
        self._document("executions", "retry", execution_id)

    def rerun(self, execution_id: str, from_stage: str) -> str:
        return str(self._document("executions", "rerun", execution_id, f"--from={from_stage}")["execution_id"])

    def rollback(self, execution_id: str) -> None:
        self._document("executions", "rollback", execution_id)

    def _document(self, *arguments: str) -> dict[str, Any]:
        return dict(json.loads(self._done(*arguments).stdout))

    def _done(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = flexiroaster(*arguments, "--json", **self._environment)
        assert done.stdout or done.returncode == 0, done.stderr
        if done.returncode != 0:
            _check_refused(json.loads(done.stdout), done.returncode)
        return done


def _check_refused(document: Mapping[str, Any], code: int) -> None:
    """Raise RefusedError if the output is an error document; a failed execution is not a refusal."""
    error = document["error"]
    if "execution_id" in document:
        assert code == 1
        return
    problems = tuple(Problem(**each) for each in error.get("problems", ()))
    assert code == (2 if problems else 1)
    raise RefusedError(error["code"], "" if problems else error["message"], problems)


def _execution(found: Mapping[str, Any]) -> Execution:
    return Execution(
        id=found["execution_id"],
        pipeline_id=found["pipeline_id"],
        pipeline_name=found["pipeline_name"],
        status=found["status"],
        completed=found["completed_stages"],
        variables=found["variables"],
        risk_score=found["risk_score"],
        error=found["error"] and found["error"]["message"],
        stages=tuple(_stage(stage) for stage in found["stages"]),
    )


def _stage(found: Mapping[str, Any]) -> Stage:
    return Stage(
        found["id"], found["name"], found["status"], found["rows"], found["error"] and found["error"]["message"]
    )


def _line(found: Mapping[str, Any]) -> Line:
    error = (found["data"] or {}).get("error") or {}
    return Line(found["seq"], found["level"], found["stage_id"], found["message"], error.get("class"))
