"""Decisions over GraphQL: read, fetched by id, and overridden."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.safety.anomaly.alarms import AlarmCount, Alarms
from flexiroaster.service import pipelines
from flexiroaster.service.admin import audit, tokens
from flexiroaster.service.admin.audit import AuditFilter
from flexiroaster.service.admin.tokens import Role
from flexiroaster.service.executions import executions
from flexiroaster.store.safety import risk
from graphql_api.schema.relay import global_id
from tests.integration.decided import PAUSE, decided_pipeline
from tests.integration.graphql_api.running import Api, serving
from tests.waiting import eventually

DECISION = """
fragment decision on Decision {
  id decisionId executionId pipelineId stageId attempt at errorClass action taken mode reason explanation situation
  verdicts { action admissible chosen reason }
  policyVersion modelVersion propensity outcome outcomeAt
  execution { executionId status }
  overrides { action reason requestedBy at }
}
"""
OF_EXECUTION = "query Of($id: ID!) { execution(id: $id) { status decisions { ...decision } } }" + DECISION
OVERRIDE = (
    """
mutation Override($input: OverrideDecisionInput!) {
  overrideDecision(input: $input) { __typename ...decision ... on Error { code message path } }
}
"""
    + DECISION
)
LISTED = """
query Listed($filter: DecisionFilter, $first: Int, $after: String, $last: Int, $before: String) {
  decisions(filter: $filter, first: $first, after: $after, last: $last, before: $before) {
    totalCount
    nodes { decisionId action }
    edges { cursor }
    pageInfo { hasNextPage hasPreviousPage endCursor startCursor }
  }
}
"""


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    settings = settings.model_copy(update={"python_modules": ("tests.integration.stages",)})
    with serving(settings) as server:
        server.installation.start_claiming()
        yield server


def run(api: Api, definition: dict[str, Any]) -> str:
    """Run a pipeline until it has ended or is paused; return the execution's id."""
    pipelines.save(api.installation, definition)
    execution_id = executions.start(api.installation, definition["id"], drive=True)
    executions.wait(api.installation, execution_id, timeout=60)
    return execution_id


def decided(api: Api, execution_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.data(OF_EXECUTION, {"id": execution_id})["execution"]["decisions"]
    return found


def override(api: Api, decision_id: str, action: str, reason: str = "known to be harmless") -> dict[str, Any]:
    given = {"id": decision_id, "action": action, "reason": reason}
    payload: dict[str, Any] = api.data(OVERRIDE, {"input": given})["overrideDecision"]
    return payload


def test_a_pause_gives_its_reason_and_can_be_overridden_by_a_skip(api: Api, tmp_path: Path) -> None:
    execution_id = run(api, decided_pipeline("p", tmp_path / "good", PAUSE))
    (decision,) = decided(api, execution_id)
    assert decision["execution"] == {"executionId": execution_id, "status": "PAUSED"}
    assert (decision["pipelineId"], decision["stageId"], decision["attempt"]) == ("p", "check", 1)
    assert (decision["errorClass"], decision["action"], decision["taken"]) == ("DATA", "PAUSE", "PAUSE")
    assert (decision["mode"], decision["propensity"], decision["outcome"]) == ("ACT", 1.0, None)
    verdicts = {verdict["action"]: verdict for verdict in decision["verdicts"]}
    assert list(verdicts) == ["CONTINUE", "RETRY", "SKIP", "PAUSE", "ROLLBACK", "TERMINATE"]
    assert [action for action, verdict in verdicts.items() if verdict["chosen"]] == ["PAUSE"]
    assert verdicts["PAUSE"]["reason"] == decision["reason"]
    assert not verdicts["SKIP"]["admissible"]
    assert "the stage is critical" in decision["explanation"]
    assert decision["situation"]["error_class"] == "data"
    assert decision["policyVersion"]
    assert decision["modelVersion"]
    assert decision["overrides"] == []

    answer = override(api, decision["id"], "SKIP")
    assert answer["__typename"] == "Decision"
    assert (answer["action"], answer["taken"]) == ("PAUSE", "PAUSE")  # what was decided does not change
    (told,) = answer["overrides"]
    assert (told["action"], told["reason"], told["requestedBy"]) == ("SKIP", "known to be harmless", "local")
    executions.wait(api.installation, execution_id, timeout=60)
    eventually(lambda: executions.get(api.installation, execution_id).status == "completed", within=60)
    stages = {stage.stage_id: stage.status for stage in executions.stages(api.installation, execution_id)}
    assert stages == {"load": "completed", "check": "skipped"}
    (row,) = audit.listing(api.installation, AuditFilter(subject=decision["decisionId"])).items
    assert (row.action, row.viewer, row.outcome) == ("overrideDecision", "local", "ok")
    assert row.arguments["action"] == "skip"


@pytest.mark.parametrize(
    ("action", "mended", "status"),
    [
        ("RETRY", True, "completed"),
        ("RETRY", False, "paused"),
        ("ROLLBACK", False, "rolled_back"),
        ("TERMINATE", False, "failed"),
    ],
)
def test_each_override_takes_effect(api: Api, tmp_path: Path, action: str, mended: bool, status: str) -> None:
    good = tmp_path / "good"
    execution_id = run(api, decided_pipeline("p", good, PAUSE, output=True))
    (decision,) = decided(api, execution_id)
    if mended:
        good.touch()
    assert override(api, decision["decisionId"], action)["__typename"] == "Decision"
    again = 1 if (action, mended) == ("RETRY", False) else 0  # it failed again, so that something was decided again

    def settled() -> bool:
        row = executions.get(api.installation, execution_id)
        return row.status == status and len(decided(api, execution_id)) == 1 + again

    eventually(settled, within=60)
    stages = {stage.stage_id: stage.status for stage in executions.stages(api.installation, execution_id)}
    assert stages["save"] == ("rolled_back" if action == "ROLLBACK" else "completed")
    assert stages["check"] == ("completed" if mended else "failed")
    if again:
        late = override(api, decision["id"], "SKIP")
        assert (late["__typename"], late["code"]) == ("ConflictError", "conflict")
        assert len(decided(api, execution_id)[0]["overrides"]) == 1


def test_by_default_decisions_are_recorded_and_nothing_is_paused(api: Api, tmp_path: Path) -> None:
    failed = run(api, decided_pipeline("failed", tmp_path / "good"))
    (decision,) = decided(api, failed)
    assert (decision["action"], decision["execution"]["status"]) == ("TERMINATE", "FAILED")
    skipped = run(api, decided_pipeline("skipped", tmp_path / "good", is_critical=False))
    (decision,) = decided(api, skipped)
    assert (decision["action"], decision["execution"]["status"]) == ("SKIP", "COMPLETED")
    flaky = decided_pipeline("flaky", tmp_path / "good", max_retries=1)
    flaky["stages"][-1]["config"]["function"] = "tests.integration.stages:fail_unless"
    first, second = decided(api, run(api, flaky))
    assert (first["action"], first["attempt"], first["errorClass"]) == ("RETRY", 1, "UNKNOWN")
    assert (second["action"], second["attempt"]) == ("TERMINATE", 2)

    # a person may still have it run again, now that the cause is gone
    (tmp_path / "good").touch()
    override(api, decided(api, failed)[0]["id"], "RETRY")
    eventually(lambda: executions.get(api.installation, failed).status == "completed", within=60)


def test_a_recording_policy_shows_the_action_actually_taken(api: Api, tmp_path: Path) -> None:
    execution_id = run(api, decided_pipeline("p", tmp_path / "good", {**PAUSE, "mode": "shadow"}))
    (decision,) = decided(api, execution_id)
    assert (decision["action"], decision["taken"], decision["mode"]) == ("PAUSE", "TERMINATE", "SHADOW")
    assert decision["execution"]["status"] == "FAILED"


def test_an_invalid_override_is_a_typed_error(api: Api, tmp_path: Path) -> None:
    execution_id = run(api, decided_pipeline("p", tmp_path / "good", PAUSE))
    (decision,) = decided(api, execution_id)

    def refusal(decision_id: str, action: str, reason: str = "why") -> tuple[Any, ...]:
        answer = override(api, decision_id, action, reason)
        return answer["__typename"], answer["code"], answer["path"]

    assert refusal("exec-none.1", "SKIP") == ("NotFoundError", "not_found", ["input"])
    assert refusal(decision["id"], "CONTINUE") == ("InputError", "input.invalid", ["input", "action"])
    assert refusal(decision["id"], "SKIP", " ") == ("InputError", "input.invalid", ["input", "reason"])
    assert refusal(decision["id"], "SKIP", "x" * 5000) == ("InputError", "input.invalid", ["input", "reason"])
    assert refusal(decision["id"], "PAUSE") == ("NotAllowedError", "not_allowed", ["input"])
    assert refusal(global_id("Execution", execution_id), "SKIP") == ("InputError", "input.invalid", ["input", "id"])
    assert decided(api, execution_id)[0]["overrides"] == []
    outcomes = [row.outcome for row in audit.listing(api.installation, AuditFilter(action="overrideDecision")).items]
    assert outcomes.count("input.invalid") == 4
    override(api, decision["id"], "TERMINATE")
    eventually(lambda: executions.get(api.installation, execution_id).status == "failed", within=60)


def test_the_list_pages_in_both_directions(api: Api, tmp_path: Path) -> None:
    failed = [run(api, decided_pipeline("p", tmp_path / "good")) for _ in range(3)]
    skipped = run(api, decided_pipeline("q", tmp_path / "good", is_critical=False))
    everything = api.data(LISTED)["decisions"]
    ids = [node["decisionId"] for node in everything["nodes"]]
    assert [each.rpartition(".")[0] for each in ids] == [skipped, *reversed(failed)]
    assert everything["totalCount"] == 4
    page = api.data(LISTED, {"first": 2})["decisions"]
    assert [node["decisionId"] for node in page["nodes"]] == ids[:2]
    assert page["pageInfo"]["hasNextPage"]
    page = api.data(LISTED, {"first": 2, "after": page["pageInfo"]["endCursor"]})["decisions"]
    assert [node["decisionId"] for node in page["nodes"]] == ids[2:]
    assert not page["pageInfo"]["hasNextPage"]
    page = api.data(LISTED, {"last": 1, "before": page["pageInfo"]["startCursor"]})["decisions"]
    assert [node["decisionId"] for node in page["nodes"]] == [ids[1]]

    def found(**wanted: Any) -> list[str]:
        listed = api.data(LISTED, {"filter": wanted})["decisions"]
        assert listed["totalCount"] == len(listed["nodes"])
        return [node["decisionId"] for node in listed["nodes"]]

    assert found(pipelineId="q") == ids[:1]
    assert found(pipelineId=global_id("Pipeline", "p")) == ids[1:]
    assert found(executionId=failed[0]) == ids[3:]
    assert found(actions=["SKIP"]) == ids[:1]
    assert found(actions=["SKIP", "TERMINATE"]) == ids
    assert found(actions=["SKIP"], pipelineId="p") == []
    refused = api.post(LISTED, {"after": "nonsense"}).json()
    assert refused["errors"][0]["extensions"]["code"] == "input.invalid"


def test_a_decision_is_found_by_its_global_id(api: Api, tmp_path: Path) -> None:
    (decision,) = decided(api, run(api, decided_pipeline("p", tmp_path / "good")))
    query = "query Nodes($ids: [ID!]!) { nodes(ids: $ids) { __typename id ... on Decision { action } } }"
    gone = global_id("Decision", "exec-none.1")
    expected = {"__typename": "Decision", "id": decision["id"], "action": "TERMINATE"}
    assert api.data(query, {"ids": [decision["id"], gone]})["nodes"] == [expected, None]
    assert api.data("query Node($id: ID!) { node(id: $id) { id } }", {"id": decision["id"]})["node"]["id"]


def test_the_rate_of_false_alarms_is_reported(api: Api) -> None:
    query = "{ insightAccuracy { insightType raised falseAlarms falseRate } }"
    assert api.data(query) == {"insightAccuracy": []}
    counts = Alarms({"stage_late": AlarmCount(raised=4, false=1), "volume": AlarmCount()})
    with api.installation.database.write() as connection:
        risk.save_states(connection, {(risk.ALARMS, ""): counts.to_json()})
    assert api.data(query)["insightAccuracy"] == [
        {"insightType": "stage_late", "raised": 4, "falseAlarms": 1, "falseRate": 0.25},
        {"insightType": "volume", "raised": 0, "falseAlarms": 0, "falseRate": None},
    ]


def test_a_viewer_reads_decisions_but_does_not_override_them(api: Api, tmp_path: Path) -> None:
    execution_id = run(api, decided_pipeline("p", tmp_path / "good", PAUSE))
    secrets = {role: tokens.create(api.installation, role, role) for role in (Role.VIEWER, Role.OPERATOR)}
    as_viewer = {"authorization": f"Bearer {secrets[Role.VIEWER]}"}
    (decision,) = api.data(OF_EXECUTION, {"id": execution_id}, **as_viewer)["execution"]["decisions"]
    given = {"input": {"id": decision["id"], "action": "TERMINATE", "reason": "why"}}
    refused = api.post(OVERRIDE, given, **as_viewer).json()
    assert refused["errors"][0]["extensions"]["code"] == "FORBIDDEN"
    done = api.data(OVERRIDE, given, authorization=f"Bearer {secrets[Role.OPERATOR]}")["overrideDecision"]
    assert done["overrides"][0]["requestedBy"] == "operator"
    eventually(lambda: executions.get(api.installation, execution_id).status == "failed", within=60)
