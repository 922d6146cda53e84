"""Decisions over REST: each route that extends the contract, with its statuses, shapes and messages."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.service.admin import audit
from flexiroaster.service.admin.audit import AuditFilter
from tests.integration.decided import PAUSE, decided_pipeline
from tests.integration.rest_compat.client import Rest, assert_invalid, assert_refused
from tests.waiting import eventually

DECISION = [
    "id",
    "execution_id",
    "pipeline_id",
    "stage_id",
    "attempt",
    "at",
    "error_class",
    "action",
    "taken",
    "mode",
    "reason",
    "explanation",
    "verdicts",
    "situation",
    "policy_version",
    "model_version",
    "propensity",
    "outcome",
    "outcome_at",
    "overrides",
]
WHY = {"reason": "known to be harmless"}


def decided(rest: Rest, good: Path, status: str, policy: dict[str, Any] | None = None, **options: Any) -> str:
    """Run a failing pipeline until it is in that state; return the execution's id."""
    definition = decided_pipeline(f"decided_{uuid.uuid4().hex[:8]}", good, policy, **options)
    answer = rest.post("/api/pipelines", definition)
    assert answer.status_code == 201, answer.text
    execution_id = rest.start(definition["id"])
    rest.reaches(execution_id, status)
    return execution_id


def path_of(execution_id: str) -> str:
    return f"/api/executions/{execution_id}/decisions"


def test_a_decision_gives_its_reason_and_can_be_overridden_by_a_skip(rest: Rest, tmp_path: Path) -> None:
    execution_id = decided(rest, tmp_path / "good", "paused", PAUSE)
    answer = rest.json(path_of(execution_id))
    assert list(answer) == ["decisions", "total"]
    assert answer["total"] == 1
    (decision,) = answer["decisions"]
    assert list(decision) == DECISION
    facts = ("execution_id", "stage_id", "attempt", "error_class", "action", "taken", "mode", "outcome", "overrides")
    assert [decision[name] for name in facts] == [
        execution_id, "check", 1, "data", "pause", "pause", "act", None, []
    ]  # fmt: skip
    assert [list(verdict) for verdict in decision["verdicts"]] == [["action", "admissible", "chosen", "reason"]] * 6
    assert decision["situation"]["critical"] is True

    path = f"{path_of(execution_id)}/{decision['id']}/override"
    done = rest.post(path, {"action": "skip", **WHY, "other": 1})
    message = f"Skip requested instead of decision {decision['id']}"
    assert (done.status_code, done.json()) == (200, {"success": True, "message": message})
    rest.reaches(execution_id, "completed")
    stages = rest.json(f"/api/executions/{execution_id}")["stage_executions"]
    assert [stage["status"] for stage in stages] == ["completed", "skipped"]
    (decision,) = rest.json(path_of(execution_id))["decisions"]
    (told,) = decision["overrides"]
    assert list(told) == ["action", "reason", "requested_by", "at"]
    assert (told["action"], told["reason"], told["requested_by"]) == ("skip", WHY["reason"], "local")
    assert decision["outcome"] == "completed"
    assert_refused(
        rest.post(path, {"action": "retry", **WHY}), 400, "Cannot retry execution with status: completed; ..."
    )
    rows = audit.listing(rest.installation, AuditFilter(subject=decision["id"])).items
    assert [(row.action, row.outcome) for row in rows] == [
        ("overrideDecision", "not_allowed"), ("overrideDecision", "ok")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("action", "mended", "status"),
    [("retry", True, "completed"), ("rollback", False, "rolled_back"), ("terminate", False, "failed")],
)
def test_each_override_takes_effect(rest: Rest, tmp_path: Path, action: str, mended: bool, status: str) -> None:
    good = tmp_path / "good"
    execution_id = decided(rest, good, "paused", PAUSE, output=True)
    (decision,) = rest.json(path_of(execution_id))["decisions"]
    if mended:
        good.touch()
    assert rest.post(f"{path_of(execution_id)}/{decision['id']}/override", {"action": action, **WHY}).status_code == 200
    rest.reaches(execution_id, status)
    stages = {s["stage_id"]: s["status"] for s in rest.json(f"/api/executions/{execution_id}")["stage_executions"]}
    assert stages["save"] == ("rolled_back" if action == "rollback" else "completed")
    assert stages["check"] == ("completed" if mended else "failed")


def test_by_default_decisions_are_recorded(rest: Rest, tmp_path: Path) -> None:
    execution_id = decided(rest, tmp_path / "good", "failed")
    (decision,) = rest.json(path_of(execution_id))["decisions"]
    assert (decision["action"], decision["taken"], decision["outcome"]) == ("terminate", "terminate", "failed")
    execution_id = decided(rest, tmp_path / "good", "completed", is_critical=False)
    (decision,) = rest.json(path_of(execution_id))["decisions"]
    assert (decision["action"], decision["outcome"]) == ("skip", "completed")
    nothing = rest.run(rest.pipeline())
    assert rest.json(path_of(nothing)) == {"decisions": [], "total": 0}


def test_an_invalid_override_is_refused(rest: Rest, tmp_path: Path) -> None:
    execution_id = decided(rest, tmp_path / "good", "paused", PAUSE)
    (decision,) = rest.json(path_of(execution_id))["decisions"]
    path = f"{path_of(execution_id)}/{decision['id']}/override"
    told = "action: cannot continue because a stage has failed; retry or skip it"
    assert_refused(rest.post(path, {"action": "continue", **WHY}), 400, told)
    assert_refused(rest.post(path, {"action": "pause", **WHY}), 400, "Cannot pause execution with status: paused; ...")
    assert_invalid(rest.post(path, {"action": "juggle", **WHY}), (["body", "action"], "enum"))
    assert_invalid(rest.post(path, WHY), (["body", "action"], "missing"))
    assert_invalid(rest.post(path, {"action": "skip"}), (["body", "reason"], "missing"))
    assert_invalid(rest.post(path, {"action": "skip", "reason": ""}), (["body", "reason"], "string_too_short"))
    assert_invalid(rest.post(path, {"action": "skip", "reason": " \t"}), (["body", "reason"], "value_error"))
    assert_invalid(rest.post(path, {"action": "skip", "reason": "x" * 4001}), (["body", "reason"], "string_too_long"))
    nul = {"action": "skip", "reason": "a\0b"}
    assert_invalid(rest.post(path, nul), (["body", "reason"], "string_pattern_mismatch"))
    assert rest.json(path_of(execution_id))["decisions"][0]["overrides"] == []
    outcomes = [row.outcome for row in audit.listing(rest.installation, AuditFilter(subject=decision["id"])).items]
    assert outcomes == ["not_allowed", "input.invalid"]

    assert_refused(rest.get(path_of("exec-none")), 404, "Execution not found: exec-none")
    asked = {"action": "skip", **WHY}
    missing = f"{path_of(execution_id)}/exec-none.1/override"
    assert_refused(rest.post(missing, asked), 404, "Decision not found: exec-none.1")
    of_another = f"{path_of('exec-none')}/{decision['id']}/override"
    assert_refused(rest.post(of_another, asked), 404, f"Decision not found: {decision['id']}")
    assert rest.post(path, {"action": "terminate", **WHY}).status_code == 200
    rest.reaches(execution_id, "failed")


def test_an_override_of_a_superseded_decision_is_a_conflict(rest: Rest, tmp_path: Path) -> None:
    execution_id = decided(rest, tmp_path / "good", "failed")
    (first,) = rest.json(path_of(execution_id))["decisions"]
    path = f"{path_of(execution_id)}/{first['id']}/override"
    assert rest.post(path, {"action": "retry", **WHY}).status_code == 200
    eventually(lambda: rest.json(path_of(execution_id))["total"] == 2, within=60)
    rest.reaches(execution_id, "failed")
    second = rest.json(path_of(execution_id))["decisions"][1]
    told = f"Decision {first['id']} was superseded by {second['id']}: terminate"
    assert_refused(rest.post(path, {"action": "skip", **WHY}), 409, told)
