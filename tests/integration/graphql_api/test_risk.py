"""Risk over GraphQL: requested before a start, stored with the execution, and enforced by the gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from tests.integration.graphql_api.running import Api, serving

START = """
mutation Start($input: StartExecutionInput!) {
  startExecution(input: $input) {
    ... on ExecutionStarted { execution { executionId status risk { gate forced acted probability } } }
    ... on BlockedError { code message details }
  }
}
"""
ASK = """
query Ask($id: ID!, $variables: JSON) {
  riskAssessment(pipelineId: $id, variables: $variables) {
    pipelineId probability low high rung reason noHistoryYet riskScore riskLevel gate modelVersion features acted
    factors { name value score weight contribution description }
    explanation { base total contributions { name amount fact } text }
  }
}
"""


def pipeline(name: str, **rules: Any) -> dict[str, Any]:
    stage = {"id": "a", "type": "input", "config": {"source": "api", "data": [{"x": 1}]}}
    return {"id": name, "name": name, "stages": [stage], "config": {"risk": rules}}


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    with serving(settings) as server:
        server.installation.start_claiming()
        yield server


def test_the_requested_assessment_equals_the_one_stored_with_the_start(api: Api) -> None:
    pipelines.save(api.installation, pipeline("p"))
    said = api.data(ASK, {"id": "p"})["riskAssessment"]
    assert (said["pipelineId"], said["noHistoryYet"], said["gate"], said["acted"]) == ("p", True, "ALLOW", None)
    assert len(said["factors"]) == 6
    assert sum(f["contribution"] for f in said["factors"]) == pytest.approx(said["riskScore"])
    explained = said["explanation"]
    amounts = sum(c["amount"] for c in explained["contributions"])
    assert explained["base"] + amounts == pytest.approx(said["probability"], abs=1e-6)
    assert said["low"] <= said["probability"] <= said["high"]
    started = api.data(START, {"input": {"pipelineId": "p"}})["startExecution"]["execution"]
    assert started["risk"]["gate"] == "ALLOW"
    assert started["risk"]["acted"] is True
    assert started["risk"]["probability"] == pytest.approx(said["probability"], abs=0.05)
    executions.wait(api.installation, started["executionId"])


def test_the_gate_blocks_a_start_and_a_reason_forces_it(api: Api) -> None:
    pipelines.save(api.installation, pipeline("p", medium=0, high=0, at_high="block"))
    refused = api.data(START, {"input": {"pipelineId": "p"}})["startExecution"]
    assert refused["code"] == "blocked"
    assert refused["details"]["risk"]["gate"] == "block"
    forced = api.data(START, {"input": {"pipelineId": "p", "force": "it has to be"}})["startExecution"]["execution"]
    assert (forced["risk"]["gate"], forced["risk"]["forced"]) == ("BLOCK", "it has to be")
    found = api.data("{ insights(unresolvedOnly: false) { totalCount nodes { insightType pipelineId insightId } } }")
    assert found["insights"]["nodes"][0]["pipelineId"] == "p"
    executions.wait(api.installation, forced["executionId"])


def test_a_resume_approves_the_start(api: Api) -> None:
    pipelines.save(api.installation, pipeline("p", medium=0, high=0, at_high="require_approval"))
    begun = api.data(START, {"input": {"pipelineId": "p"}})["startExecution"]["execution"]
    assert begun["status"] == "PAUSED"
    query = "mutation Resume($input: CommandInput!) { resumeExecution(input: $input) { __typename } }"
    answer = api.data(query, {"input": {"id": begun["executionId"]}})
    assert answer["resumeExecution"]["__typename"] == "CommandAccepted"


def test_invalid_requests_are_reported(api: Api) -> None:
    answer = api.post(ASK, {"id": "nothing"}).json()
    assert answer["errors"][0]["extensions"]["code"] == "not_found"
    pipelines.save(api.installation, pipeline("p"))
    answer = api.post(ASK, {"id": "p", "variables": [1]}).json()
    assert "variables" in answer["errors"][0]["message"]
