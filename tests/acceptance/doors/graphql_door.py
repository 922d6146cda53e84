"""The GraphQL interface: operations over HTTP, to a server in its own process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx
from strawberry.utils.str_converters import to_camel_case

from tests.acceptance.doors.door import Definition, Door, Execution, Line, Problem, RefusedError, Stage

__all__ = ["GraphQLDoor"]

REFUSED = "... on Error { code message } ... on DefinitionError { problems { path message code } }"
VALIDATE = (
    "mutation ($p: PipelineInput!) { validatePipeline(input: {pipeline: $p}) { problems { path message code } } }"
)
CREATE = f"""mutation ($p: PipelineInput!) {{
  createPipeline(input: {{pipeline: $p}}) {{ ... on PipelineSaved {{ pipeline {{ pipelineId }} }} {REFUSED} }}
}}"""
DEFINITION = "query ($id: ID!) { pipeline(id: $id) { document } }"
PIPELINES = "{ pipelines(first: 100) { nodes { pipelineId isActive } } }"
SWITCH = (
    "mutation ($id: ID!) {{ {name}(input: {{id: $id}}) {{ ... on PipelineSaved {{ pipeline {{ id }} }} {refused} }} }}"
)
DELETE = """mutation ($id: ID!) {
  deletePipeline(input: {id: $id}) { ... on PipelineDeleted { pipelineId } ... on Error { code message } }
}"""
START = f"""mutation ($input: StartExecutionInput!) {{
  startExecution(input: $input) {{ ... on ExecutionStarted {{ execution {{ executionId }} }} {REFUSED} }}
}}"""
RERUN = """mutation ($input: RerunExecutionInput!) {
  rerunExecution(input: $input) {
    ... on ExecutionStarted { execution { executionId } } ... on Error { code message }
  }
}"""
SHOW = """query ($id: ID!) { execution(id: $id) {
  executionId pipelineId pipelineName status completedStages variables riskScore error { message }
  stageRuns { stageId name status output error { message } } risk { riskScore }
} }"""
EXECUTIONS = "query ($id: ID!) { executions(filter: {pipelineIds: [$id]}) { nodes { executionId status } } }"
LOGS = "query ($id: ID!) { execution(id: $id) { logs { nodes { seq level stageId message data } } } }"
COMMAND = """mutation ($id: ID!) {{
  {name}Execution(input: {{id: $id}}) {{
    ... on CommandAccepted {{ execution {{ id }} }} ... on Error {{ code message }}
  }}
}}"""

_FIELD = re.compile(r"(?<=[a-z])[A-Z]")


class GraphQLDoor(Door):
    """A client of `/graphql`."""

    name = "GraphQL"

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def validate(self, definition: Definition) -> list[Problem]:
        return _problems(self._ask(VALIDATE, p=_input(definition))["problems"])

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
        return str(self._ask(CREATE, p=_input(definition))["pipeline"]["pipelineId"])

    def definition(self, pipeline_id: str) -> dict[str, Any]:
        return dict(self._ask(DEFINITION, id=pipeline_id)["document"])

    def pipelines(self) -> dict[str, bool]:
        return {each["pipelineId"]: each["isActive"] for each in self._ask(PIPELINES)["nodes"]}

    def activate(self, pipeline_id: str) -> None:
        self._ask(SWITCH.format(name="activatePipeline", refused="... on Error { code message }"), id=pipeline_id)

    def deactivate(self, pipeline_id: str) -> None:
        self._ask(SWITCH.format(name="deactivatePipeline", refused="... on Error { code message }"), id=pipeline_id)

    def delete(self, pipeline_id: str) -> None:
        self._ask(DELETE, id=pipeline_id)

    def start(self, pipeline_id: str, variables: Mapping[str, Any] | None = None) -> str:
        return self._start({"pipelineId": pipeline_id, "variables": variables})

    def start_once(self, pipeline_id: str, key: str, variables: Mapping[str, Any] | None = None) -> str:
        return self._start({"pipelineId": pipeline_id, "variables": variables, "idempotencyKey": key})

    def show(self, execution_id: str) -> Execution | None:
        found = self._ask(SHOW, id=execution_id)
        return found and _execution(found)

    def executions(self, pipeline_id: str) -> dict[str, str]:
        found = self._ask(EXECUTIONS, id=pipeline_id)["nodes"]
        return {each["executionId"]: each["status"].lower() for each in found}

    def logs(self, execution_id: str) -> list[Line]:
        return [_line(each) for each in self._ask(LOGS, id=execution_id)["logs"]["nodes"]]

    def stop(self, execution_id: str) -> None:
        self._ask(COMMAND.format(name="stop"), id=execution_id)

    def pause(self, execution_id: str) -> None:
        self._ask(COMMAND.format(name="pause"), id=execution_id)

    def resume(self, execution_id: str) -> None:
        self._ask(COMMAND.format(name="resume"), id=execution_id)

    def retry(self, execution_id: str) -> None:
        self._ask(COMMAND.format(name="retry"), id=execution_id)

    def rerun(self, execution_id: str, from_stage: str) -> str:
        found = self._ask(RERUN, input={"id": execution_id, "fromStage": from_stage})
        return str(found["execution"]["executionId"])

    def rollback(self, execution_id: str) -> None:
        self._ask(COMMAND.format(name="rollback"), id=execution_id)

    def _start(self, given: Mapping[str, Any]) -> str:
        return str(self._ask(START, input=given)["execution"]["executionId"])

    def _ask(self, operation: str, **variables: Any) -> Any:
        """Return the value of the one requested field; raise RefusedError if it is an error."""
        answer = self._http.post("/graphql", json={"query": operation, "variables": variables})
        body = answer.json()
        assert answer.status_code == 200, body
        assert "errors" not in body, body
        (found,) = body["data"].values()
        if found is not None and "code" in found:
            problems = tuple(_problems(found.get("problems", ())))
            raise RefusedError(found["code"], "" if problems else found["message"], problems)
        return found


def _input(definition: Definition) -> dict[str, Any]:
    """A definition in the schema's spelling; configs and variables stay as the author wrote them."""
    return {**_camel(definition), "stages": [_camel(stage) for stage in definition["stages"]]}


def _camel(fields: Mapping[str, Any]) -> dict[str, Any]:
    enums = {"type", "on_conflict"}
    return {to_camel_case(name): value.upper() if name in enums else value for name, value in fields.items()}


def _problems(found: Any) -> list[Problem]:
    """The problems, with their paths in the model's spelling."""
    return [Problem(_FIELD.sub(_snake, each["path"]), each["message"], each["code"]) for each in found]


def _snake(match: re.Match[str]) -> str:
    return f"_{match[0].lower()}"


def _execution(found: Mapping[str, Any]) -> Execution:
    assert found["risk"]["riskScore"] == found["riskScore"]
    return Execution(
        id=found["executionId"],
        pipeline_id=found["pipelineId"],
        pipeline_name=found["pipelineName"],
        status=found["status"].lower(),
        completed=found["completedStages"],
        variables=found["variables"],
        risk_score=found["riskScore"],
        error=found["error"] and found["error"]["message"],
        stages=tuple(_stage(stage) for stage in found["stageRuns"]),
    )


def _stage(found: Mapping[str, Any]) -> Stage:
    rows, error = (found["output"] or {}).get("rows"), found["error"] and found["error"]["message"]
    return Stage(found["stageId"], found["name"], found["status"].lower(), rows, error)


def _line(found: Mapping[str, Any]) -> Line:
    error = (found["data"] or {}).get("error") or {}
    return Line(found["seq"], found["level"].lower(), found["stageId"], found["message"], error.get("class"))
