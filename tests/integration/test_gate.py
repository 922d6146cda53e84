"""The gate before a run: what it answers, that it is recorded with the run, and that a person may overrule it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import BlockedError, DefinitionError, InputError, NotAllowedError, StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.event import utc_now
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety import history, insights, risk
from flexiroaster.store.safety.history import PastRun

RISKY = {"medium": 0.0, "high": 0.0}


def pipeline(name: str, rules: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    stage = {"id": "a", "type": "input", "config": {"source": "api", "data": [{"x": 1}]}}
    return {"id": name, "name": name, "stages": [stage], "config": {} if rules is None else {"risk": rules}, **more}


def ran_before(name: str, times: int, status: str) -> list[PastRun]:
    now = utc_now()
    ends = [now - timedelta(hours=times - i) for i in range(times)]
    minute = timedelta(seconds=60)
    return [PastRun(f"{name}-{i}", at, name, at - minute, status, 60.0, 1) for i, at in enumerate(ends)]


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


def events_of(installation: Installation, execution_id: str) -> list[str]:
    return [event.type.value for event in executions.events(installation, execution_id)]


def test_every_start_is_assessed_and_the_answer_is_stored_with_it(installation: Installation) -> None:
    pipelines.save(installation, pipeline("fine"))
    execution_id = executions.start(installation, "fine")
    row = executions.wait(installation, execution_id)
    said = risk.of_executions(installation, [execution_id])[execution_id]
    assert row.status == "completed"
    assert row.risk_score == pytest.approx(said.data["risk_score"])
    assert said.data["no_history_yet"] is True
    assert 0 < said.probability < 1
    assert (said.gate, said.acted, said.forced) == ("allow", True, None)
    explained = said.data["explanation"]
    assert sum(c["amount"] for c in explained["contributions"]) + explained["base"] == pytest.approx(said.probability)
    assert events_of(installation, execution_id)[:3] == ["execution.created", "risk.assessed", "execution.started"]
    told = executions.events(installation, execution_id)[1]
    assert told.data is not None
    assert told.data["gate"] == "allow"
    assert "no history yet" in told.message


def test_a_run_that_needs_approval_waits_for_a_resume_and_then_runs(installation: Installation) -> None:
    pipelines.save(installation, pipeline("careful", {**RISKY, "at_high": "require_approval"}))
    execution_id = executions.start(installation, "careful")
    row = executions.wait(installation, execution_id)
    assert (row.status, row.started_at, row.completed_stages) == ("paused", None, 0)
    assert events_of(installation, execution_id) == ["execution.created", "risk.assessed", "execution.paused"]
    installation.start_claiming()
    commands.resume(installation, execution_id, "looked at it")
    row = _ended(installation, execution_id)
    assert row.status == "completed"
    assert row.started_at is not None
    assert [event.seq for event in executions.events(installation, execution_id)] == list(range(1, row.last_seq + 1))


def test_a_run_that_needs_approval_may_be_stopped(installation: Installation) -> None:
    pipelines.save(installation, pipeline("careful", {**RISKY, "at_high": "require_approval"}))
    execution_id = executions.start(installation, "careful")
    assert executions.get(installation, execution_id).status == "paused"
    commands.stop(installation, execution_id)
    installation.start_claiming()
    assert _ended(installation, execution_id).status == "cancelled"


def test_one_that_is_queued_is_not_resumed_before_its_turn(installation: Installation) -> None:
    rules = {**RISKY, "at_high": "require_approval"}
    pipelines.save(installation, pipeline("careful", rules, concurrency=1, on_conflict="queue"))
    first = executions.start(installation, "careful")
    second = executions.start(installation, "careful")
    with pytest.raises(NotAllowedError, match="it is queued; allowed: stop"):
        commands.resume(installation, second)
    installation.start_claiming()
    commands.resume(installation, first)
    assert _ended(installation, first).status == "completed"
    _until(lambda: _resumed(installation, second))
    assert _ended(installation, second).status == "completed"


def test_a_blocked_run_does_not_exist_and_people_are_told(installation: Installation) -> None:
    pipelines.save(installation, pipeline("blocked", {**RISKY, "at_high": "block"}))
    with pytest.raises(BlockedError, match="Pipeline blocked is blocked: its failure probability is") as caught:
        executions.start(installation, "blocked")
    with pytest.raises(BlockedError):
        executions.start(installation, "blocked")
    assert caught.value.code == "blocked"
    assert caught.value.details["risk"]["gate"] == "block"
    assert executions.count(installation) == 0
    [insight], total = insights.listing(installation, pipeline_id="blocked")
    assert (total, insight.insight_type, insight.occurrences) == (1, "high_risk", 2)
    assert (insight.action_taken, insight.is_resolved) == ("blocked", False)


def test_it_stays_blocked_where_people_cannot_be_told(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise StoreError("no")

    pipelines.save(installation, pipeline("blocked", {**RISKY, "at_high": "block"}))
    monkeypatch.setattr(risk.insights, "record", refused)
    with pytest.raises(BlockedError, match="Pipeline blocked is blocked"):
        executions.start(installation, "blocked")


def test_an_execution_and_the_insight_about_its_risk_are_one_write(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(point: str) -> None:
        if point == "journal.after_commit":
            raise failpoints.InjectedFault(point)

    monkeypatch.setattr(failpoints, "point", dies)
    pipelines.save(installation, pipeline("risky", RISKY))
    with pytest.raises(StoreError, match=r"InjectedFault: journal\.after_commit"):
        executions.start(installation, "risky", drive=False)
    [row], _ = executions.offset_page(installation)
    [insight], _ = insights.listing(installation)
    assert (insight.insight_type, insight.execution_id, insight.occurrences) == ("high_risk", row.id, 1)


def test_no_start_fails_because_another_one_is_risky_too(postgres_url: str) -> None:
    settings, starters = load_settings(database_url=postgres_url), 6
    together, failures = threading.Barrier(starters), []

    def start(name: str) -> None:
        with open_installation(settings) as own:
            together.wait()
            try:
                executions.start(own, name, drive=False)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
                failures.append(error)

    with open_installation(settings) as installation:
        pipelines.save(installation, pipeline("risky", RISKY, concurrency=None))
        threads = [threading.Thread(target=start, args=["risky"]) for _ in range(starters)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        [insight], total = insights.listing(installation)
        assert (total, insight.occurrences, executions.count(installation)) == (1, starters, starters)


def test_a_reason_forces_it_and_is_recorded(installation: Installation) -> None:
    pipelines.save(installation, pipeline("blocked", {**RISKY, "at_high": "block"}))
    with pytest.raises(InputError, match="must contain a reason"):
        executions.start(installation, "blocked", force=" ")
    execution_id = executions.start(installation, "blocked", force="the deadline is today")
    assert executions.wait(installation, execution_id).status == "completed"
    said = risk.of_executions(installation, [execution_id])[execution_id]
    assert (said.gate, said.forced, said.acted) == ("block", "the deadline is today", True)
    assert "forced: the deadline is today" in executions.events(installation, execution_id)[1].message


def test_in_shadow_mode_it_decides_and_records_and_does_not_act(installation: Installation) -> None:
    pipelines.save(installation, pipeline("shadow", {**RISKY, "at_high": "block", "shadow": True}))
    execution_id = executions.start(installation, "shadow")
    assert executions.wait(installation, execution_id).status == "completed"
    said = risk.of_executions(installation, [execution_id])[execution_id]
    assert (said.gate, said.acted) == ("block", False)


def test_a_repeated_request_gives_its_execution_though_it_would_be_blocked_now(installation: Installation) -> None:
    pipelines.save(installation, pipeline("p"))
    first = executions.start(installation, "p", idempotency_key="k")
    executions.wait(installation, first)
    pipelines.save(installation, pipeline("p", {**RISKY, "at_high": "block"}))
    assert executions.start(installation, "p", idempotency_key="k") == first
    with pytest.raises(BlockedError):
        executions.start(installation, "p", idempotency_key="another")


def test_a_rerun_passes_the_gate_as_well(installation: Installation) -> None:
    pipelines.save(installation, pipeline("p", {**RISKY, "at_high": "block"}))
    first = executions.start(installation, "p", force="a test")
    executions.wait(installation, first)
    with pytest.raises(BlockedError):
        executions.rerun(installation, first, "a")
    again = executions.rerun(installation, first, "a", force="once more")
    assert executions.wait(installation, again).status == "completed"


@pytest.mark.parametrize("block", [True, False])
def test_the_settings_decide_where_the_pipeline_says_nothing(settings: Settings, block: bool) -> None:
    changed = settings.model_copy(update={"ai_block_high_risk": block, "ai_risk_threshold_high": 0.5})
    with open_installation(changed) as installation:
        pipelines.save(installation, pipeline("bad"))
        pipelines.save(installation, pipeline("good"))
        history.add(installation, [*ran_before("bad", 12, "failed"), *ran_before("good", 40, "completed")])
        assert risk.assess(installation, "bad").prediction.probability > 0.5
        if block:
            with pytest.raises(BlockedError):
                executions.start(installation, "bad")
        else:
            assert executions.wait(installation, executions.start(installation, "bad")).status == "completed"
        assert executions.wait(installation, executions.start(installation, "good")).status == "completed"


def test_a_pipeline_without_a_history_is_not_blocked_by_the_setting(settings: Settings) -> None:
    """An installation where everything fails would otherwise never run anything new."""
    changed = settings.model_copy(update={"ai_block_high_risk": True, "ai_risk_threshold_high": 0.0})
    with open_installation(changed.model_copy(update={"ai_risk_threshold_medium": 0.0})) as installation:
        pipelines.save(installation, pipeline("new"))
        execution_id = executions.start(installation, "new")
        assert executions.wait(installation, execution_id).status == "completed"
        assert risk.of_executions(installation, [execution_id])[execution_id].gate == "warn"
        installation.risk_state.catch_up()  # a start may be answered by what was known a moment ago
        with pytest.raises(BlockedError):
            executions.start(installation, "new")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (3, "config.risk: must be a mapping with medium, high, at_high, shadow, not 3"),
        ({"hihg": 0.5}, "config.risk.hihg: is not a known field; did you mean 'high'"),
        ({"high": 1.5}, "config.risk.high: must be a probability from 0 to 1, not 1.5"),
        ({"medium": True}, "config.risk.medium: must be a probability from 0 to 1, not true"),
        ({"at_high": "stop"}, 'config.risk.at_high: must be one of allow, warn, require_approval, block, not "stop"'),
        ({"shadow": "yes"}, 'config.risk.shadow: must be true or false, not "yes"'),
        ({"medium": 0.8, "high": 0.7}, "config.risk.medium: must not exceed high"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules: Any, message: str) -> None:
    from flexiroaster.operators.base import Access
    from flexiroaster.service.definition import check

    with pytest.raises(DefinitionError) as caught:
        check({**pipeline("p"), "config": {"risk": rules}}, Access())
    assert message in str(caught.value)


def _ended(installation: Installation, execution_id: str) -> executions.ExecutionRow:
    _until(lambda: executions.wait(installation, execution_id, timeout=1).completed_at is not None)
    return executions.wait(installation, execution_id)


def _resumed(installation: Installation, execution_id: str) -> bool:
    try:
        commands.resume(installation, execution_id)
    except NotAllowedError:
        return False
    return True


def _until(condition: Any) -> None:
    from tests.waiting import eventually

    eventually(condition)
