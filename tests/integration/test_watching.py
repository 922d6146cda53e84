"""What is abnormal is told while it happens: late stages, unusual amounts, repetitions that pile up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.model.event import Event, EventType
from flexiroaster.safety.anomaly.stages import StageEnd, StagesState
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety import decisions, insights
from flexiroaster.service.safety.decisions import Action
from flexiroaster.service.safety.insights import Accuracy, InsightFilter
from flexiroaster.store.safety import risk
from flexiroaster.store.safety.risk import STAGES
from tests.faults.tiers import databases
from tests.integration.test_control import begin
from tests.integration.test_runs import FUNCTIONS, python, rows
from tests.waiting import eventually

pytestmark = databases("sqlite")  # tests/integration/test_policy_acts.py has the other one

ALARMING = {"risk": {"medium": 0.0, "high": 0.0, "at_high": "warn"}, "policy": {"pause": True}}
"""Whatever is asked about it is at high risk, and somebody looks at what is paused."""


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    changes = {"python_modules": (FUNCTIONS,), "artifacts_url": str(tmp_path / "artifacts")}
    return settings.model_copy(update=changes)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        opened.start_claiming()
        yield opened


def remember(installation: Installation, pipeline_id: str, *ends: StageEnd, runs: int = 30) -> None:
    """As if so many executions had ended like that."""
    state = StagesState()
    for _ in range(runs):
        state.execution_ended(list(ends))
    with installation.database.write() as connection:
        risk.save_states(connection, {(STAGES, pipeline_id): state.to_json()})


def remembered(installation: Installation, pipeline_id: str) -> StagesState:
    installation.risk_state.catch_up()
    with installation.database.read() as connection:
        return StagesState.from_json(risk.load_states(connection, [(STAGES, pipeline_id)])[STAGES, pipeline_id])


def told(installation: Installation, execution_id: str) -> list[Event]:
    return [e for e in executions.events(installation, execution_id) if e.type is EventType.STAGE_ANOMALY]


def status_of(installation: Installation, execution_id: str) -> str:
    return executions.get(installation, execution_id).status.value


def ended(installation: Installation, execution_id: str, status: str = "completed") -> None:
    eventually(lambda: status_of(installation, execution_id) == status)
    eventually(lambda: execution_id not in installation.driver.driven)


def waits_for(path: Path) -> dict[str, Any]:
    return python("slow", "wait_for_file", arguments={"path": str(path)})


USUALLY_A_SECOND = StageEnd("slow", 1, completed=True, duration_s=1.0)


def test_a_stage_that_hangs_is_flagged_before_it_ends(installation: Installation, tmp_path: Path) -> None:
    remember(installation, "p", USUALLY_A_SECOND)
    x = begin(installation, waits_for(tmp_path / "go"), id="p")
    eventually(lambda: executions.stages(installation, x)[0].is_anomaly)
    (stage,) = executions.stages(installation, x)
    (event,) = told(installation, x)
    assert (stage.status, event.level, event.stage_id) == ("running", "warning", "slow")
    assert event.message.startswith("Stage is late: slow: ")
    assert event.data is not None
    assert (event.data["kind"], event.data["alert"], event.data["decision"]["action"]) == ("late", True, "continue")
    eventually(lambda: insights.page(installation, InsightFilter(execution_id=x)).items)
    assert executions.stages(installation, x)[0].status == "running", "people hear of it while it runs"
    (tmp_path / "go").touch()
    ended(installation, x)
    assert len(told(installation, x)) == 1, "it is told once, not again when it ends"
    found = insights.page(installation, InsightFilter(pipeline_id="p")).items
    assert [(i.insight_type, i.stage_id, i.execution_id, i.occurrences, i.is_resolved) for i in found] == [
        ("late", "slow", x, 1, False)
    ]
    assert insights.accuracy(installation) == [Accuracy("late", 1, 1, 1.0)], "it completed: a false alarm"


def test_an_insight_goes_with_its_cause(installation: Installation, tmp_path: Path) -> None:
    remember(installation, "p", USUALLY_A_SECOND)
    x = begin(installation, waits_for(tmp_path / "go"), id="p")
    eventually(lambda: executions.stages(installation, x)[0].is_anomaly)
    (tmp_path / "go").touch()
    ended(installation, x)
    assert [i.is_resolved for i in insights.page(installation).items] == [False]
    installation.risk_state.catch_up()
    remember(installation, "p", StageEnd("slow", 1, completed=True, duration_s=3600.0))  # no machine is that slow
    y = executions.start(installation, "p")
    ended(installation, y)
    assert [(i.is_resolved, i.occurrences) for i in insights.page(installation).items] == [(True, 1)]


def test_unusual_amounts_are_told(installation: Installation) -> None:
    remember(installation, "p", StageEnd("load", 1, completed=True, rows=1000, bytes=50_000))
    x = begin(installation, rows("load", {"x": 1}, {"x": 2}), id="p")
    ended(installation, x)
    (event,) = told(installation, x)
    assert event.message == "Unusual output volume: load: 2 rows, usually about 1e+03"
    assert executions.stages(installation, x)[0].is_anomaly


def test_repetitions_that_pile_up_are_told_once(installation: Installation) -> None:
    remember(installation, "p", StageEnd("flaky", 1, completed=True), runs=60)
    stage = python("flaky", "refuses_connection", max_retries=25, retry_delay=0.0)
    x = begin(installation, stage, id="p")
    ended(installation, x, "failed")
    assert [e.data["kind"] for e in told(installation, x) if e.data and e.data["alert"]] == ["retries"]
    assert not executions.stages(installation, x)[0].is_anomaly, "it is about the pipeline, not about the stage"
    (found,) = [i for i in insights.page(installation).items if i.insight_type == "retries"]
    assert (found.stage_id, found.is_resolved) == (None, False)


def test_at_high_risk_an_anomaly_pauses_and_a_person_lets_it_go_on(installation: Installation, tmp_path: Path) -> None:
    remember(installation, "p", USUALLY_A_SECOND)
    x = begin(installation, waits_for(tmp_path / "go"), python("after", "two", "slow"), id="p", config=ALARMING)
    eventually(lambda: status_of(installation, x) == "paused")
    (decision,) = decisions.of_executions(installation, [x])[x]
    assert (decision.error_class, decision.action, decision.taken) == (None, "pause", "pause")
    assert decision.data["verdicts"][0]["reason"] == "an anomaly occurred at high risk"
    (tmp_path / "go").touch()
    eventually(lambda: executions.stages(installation, x)[0].status == "completed")
    decisions.override(installation, decision.id, Action.CONTINUE, "the source was slow today", requested_by="ann")
    ended(installation, x)
    assert [s.status for s in executions.stages(installation, x)] == ["completed", "completed"]


def test_who_goes_on_with_an_execution_watches_it_as_well(settings: Settings, tmp_path: Path) -> None:
    with open_installation(settings) as first:
        remember(first, "p", USUALLY_A_SECOND)
        x = begin(first, python("a", "two"), {**waits_for(tmp_path / "go"), "dependencies": ["a"]}, id="p")
        eventually(lambda: executions.stages(first, x)[1].status == "running")
        commands.pause(first, x, interrupt=True)
        ended(first, x, "paused")
    with open_installation(settings) as second:
        second.start_claiming()
        commands.resume(second, x)
        eventually(lambda: executions.stages(second, x)[1].is_anomaly)
        (tmp_path / "go").touch()
        ended(second, x)


def test_detection_can_be_switched_off(settings: Settings, tmp_path: Path) -> None:
    with open_installation(settings.model_copy(update={"ai_anomaly_detection_enabled": False})) as opened:
        remember(opened, "p", StageEnd("load", 1, completed=True, rows=1000))
        x = begin(opened, rows("load", {"x": 1}), id="p")
        ended(opened, x)
        assert told(opened, x) == []


def test_each_stage_is_learned_from_once(installation: Installation, tmp_path: Path) -> None:
    flaky = python("b", "needs_file", "a", arguments={"path": str(tmp_path / "there")})
    x = begin(installation, python("a", "two"), flaky, id="p")
    ended(installation, x, "failed")
    state = remembered(installation, "p")
    assert {i: s.rows.level.values for i, s in state.stages.items()} == {"a": 1}
    (tmp_path / "there").touch()
    commands.retry(installation, x)
    ended(installation, x)
    state = remembered(installation, "p")
    assert {i: s.rows.level.values for i, s in state.stages.items()} == {"a": 1, "b": 1}
    y = executions.start(installation, "p")
    ended(installation, y)
    state = remembered(installation, "p")
    assert {i: s.lateness.level.values for i, s in state.stages.items()} == {"a": 2, "b": 2}
    assert StagesState.from_json(state.to_json()) == state
