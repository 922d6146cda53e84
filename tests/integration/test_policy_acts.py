"""Runs in which the safety engine chooses retry, skip, pause, rollback and terminate, and acts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from flexiroaster.config import PolicyMode, Settings
from flexiroaster.errors import ConflictError, InputError, NotAllowedError, NotFoundError
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.executions.executions import ExecutionRow
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety import decisions
from flexiroaster.service.safety.decisions import Action, DecisionRow
from tests.faults.tiers import databases
from tests.integration.test_control import begin, seqs_have_no_gap
from tests.integration.test_runs import FUNCTIONS, python
from tests.waiting import eventually

pytestmark = databases("postgresql")  # tests/integration/test_watching.py has the other one

DATA = {"id": "load", "type": "input", "config": {"source": "api", "data": [{"x": 1}]}}
SAVE = {
    "id": "save",
    "type": "output",
    "config": {"destination": "database", "table": "written"},
    "dependencies": ["load"],
}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    changes = {
        "python_modules": (FUNCTIONS,),
        "executor_stop_grace": 0.5,
        "artifacts_url": str(tmp_path / "artifacts"),
        "output_database_url": f"sqlite:///{tmp_path / 'output.db'}",
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        opened.start_claiming()
        yield opened


def policy(**own: Any) -> dict[str, Any]:
    return {"policy": own}


def broken(tmp_path: Path, *needs: str, **fields: Any) -> dict[str, Any]:
    """A stage that fails until the file exists."""
    return python("broken", "needs_file", *needs, arguments={"path": str(tmp_path / "fixed")}, **fields)


def settled(installation: Installation, execution_id: str) -> ExecutionRow:
    executions.wait(installation, execution_id, timeout=120)
    eventually(lambda: execution_id not in installation.driver.driven)
    return executions.get(installation, execution_id)


def states(installation: Installation, execution_id: str) -> dict[str, str]:
    return {stage.stage_id: stage.status.value for stage in executions.stages(installation, execution_id)}


def made(installation: Installation, execution_id: str) -> list[DecisionRow]:
    return decisions.of_executions(installation, [execution_id]).get(execution_id, [])


def chosen(installation: Installation, execution_id: str) -> list[tuple[str | None, str, str]]:
    return [(d.stage_id, d.action, d.taken) for d in made(installation, execution_id)]


def written(settings: Settings) -> int:
    engine = sqlalchemy.create_engine(settings.output_database_url)
    try:
        with engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("written"):
                return 0
            return connection.execute(sqlalchemy.text("SELECT count(*) FROM written")).scalar_one()
    finally:
        engine.dispose()


def test_retry_then_terminate(installation: Installation) -> None:
    x = begin(installation, python("flaky", "refuses_connection", max_retries=2))
    row = settled(installation, x)
    assert row.status == "failed"
    assert chosen(installation, x) == [
        ("flaky", "retry", "retry"),
        ("flaky", "retry", "retry"),
        ("flaky", "terminate", "terminate"),
    ]
    first, _, last = made(installation, x)
    assert first.data["situation"]["attempts_left"] == 2
    assert first.data["explanation"] == (
        "retry: the error may be temporary and attempts remain; not continue (the stage failed)"
    )
    assert [(v["action"], v["reason"]) for v in last.data["verdicts"]] == [
        ("continue", "the stage failed"),
        ("retry", "no attempts remain"),
        ("skip", "the stage is critical"),
        ("pause", "the policy does not allow pausing"),
        ("rollback", "no external writes were made"),
        ("terminate", "no other action is admissible"),
    ]
    told = {event.seq: event for event in executions.events(installation, x)}
    assert [told[d.seq].type for d in made(installation, x)] == ["stage.retrying", "stage.retrying", "stage.failed"]
    assert told[last.seq].data["decision"]["id"] == last.id == f"{x}.{last.seq}"
    assert seqs_have_no_gap(installation, x)


def test_skip(installation: Installation, tmp_path: Path) -> None:
    x = begin(
        installation,
        python("a", "two"),
        broken(tmp_path, "a", is_critical=False),
        python("after", "two", "broken"),
        python("beside", "two", "a"),
    )
    assert settled(installation, x).status == "completed"
    assert states(installation, x) == {"a": "completed", "broken": "failed", "after": "skipped", "beside": "completed"}
    assert chosen(installation, x) == [("broken", "skip", "skip")]


def test_pause_then_a_person_fixes_the_cause(installation: Installation, tmp_path: Path) -> None:
    x = begin(
        installation, python("a", "two"), broken(tmp_path, "a"), python("c", "two", "broken"), config=policy(pause=True)
    )
    row = settled(installation, x)
    assert (row.status, row.error, row.completed_at) == ("paused", None, None)
    assert states(installation, x) == {"a": "completed", "broken": "failed", "c": "pending"}
    assert chosen(installation, x) == [("broken", "pause", "pause")]
    assert made(installation, x)[0].outcome is None
    (tmp_path / "fixed").touch()
    commands.resume(installation, x, "the data is there now")
    assert eventually(lambda: executions.get(installation, x).status == "completed")
    assert states(installation, x) == dict.fromkeys(("a", "broken", "c"), "completed")
    installation.risk_state.catch_up()
    assert made(installation, x)[0].outcome == "completed"
    assert seqs_have_no_gap(installation, x)


def test_a_pause_and_its_override_survive_their_process(settings: Settings, tmp_path: Path) -> None:
    with open_installation(settings) as first:
        x = begin(first, broken(tmp_path), python("c", "two", "broken"), config=policy(pause=True))
        assert settled(first, x).status == "paused"
    (tmp_path / "fixed").touch()
    with open_installation(settings) as second:
        second.start_claiming()
        commands.resume(second, x)
        assert eventually(lambda: executions.get(second, x).status == "completed")
        assert states(second, x) == {"broken": "completed", "c": "completed"}


def test_stopping_an_execution_with_a_held_stage_fails_it(installation: Installation, tmp_path: Path) -> None:
    x = begin(installation, broken(tmp_path), python("c", "two", "broken"), config=policy(pause=True))
    assert settled(installation, x).status == "paused"
    commands.stop(installation, x, "no use", requested_by="ann")
    eventually(lambda: executions.get(installation, x).status == "failed")
    row = executions.get(installation, x)
    assert row.error is not None
    assert (row.error["class"], row.error["stage_id"]) == ("data", "broken")
    assert states(installation, x) == {"broken": "failed", "c": "cancelled"}


def test_rollback(installation: Installation, settings: Settings, tmp_path: Path) -> None:
    x = begin(installation, DATA, SAVE, broken(tmp_path, "save"), config=policy(rollback=True))
    row = settled(installation, x)
    eventually(lambda: executions.get(installation, x).status == "rolled_back")
    row = executions.get(installation, x)
    assert row.error is not None
    assert row.error["class"] == "data"
    assert states(installation, x) == {"load": "completed", "save": "rolled_back", "broken": "failed"}
    assert written(settings) == 0
    assert chosen(installation, x) == [("broken", "rollback", "rollback")]
    installation.risk_state.catch_up()
    assert made(installation, x)[0].outcome == "rolled_back"
    kinds = [event.type.value for event in executions.events(installation, x)]
    assert kinds.index("stage.failed") < kinds.index("execution.paused") < kinds.index("rollback.started")


def test_a_rollback_stops_the_other_running_stages(
    installation: Installation, settings: Settings, tmp_path: Path
) -> None:
    slow = python("slow", "sleep_long", "save")
    x = begin(installation, DATA, SAVE, slow, broken(tmp_path, "save"), config=policy(rollback=True))
    eventually(lambda: executions.get(installation, x).status == "rolled_back")
    assert states(installation, x)["slow"] == "cancelled"
    assert written(settings) == 0


@pytest.mark.parametrize("mode", [PolicyMode.SHADOW, PolicyMode.OFF])
def test_in_shadow_mode_it_records_and_does_not_act(
    installation: Installation, settings: Settings, tmp_path: Path, mode: PolicyMode
) -> None:
    rules = policy(mode=mode.value, pause=True, rollback=True)
    x = begin(installation, DATA, SAVE, broken(tmp_path, "save"), config=rules)
    assert settled(installation, x).status == "failed"
    assert written(settings) == 1
    recorded = [("broken", "pause", "terminate")] if mode is PolicyMode.SHADOW else []
    assert chosen(installation, x) == recorded


def test_by_default_it_neither_pauses_nor_rolls_back(
    installation: Installation, settings: Settings, tmp_path: Path
) -> None:
    x = begin(installation, DATA, SAVE, broken(tmp_path, "save"))
    assert settled(installation, x).status == "failed"
    assert written(settings) == 1
    assert {v["action"]: v["reason"] for v in made(installation, x)[0].data["verdicts"]}["rollback"] == (
        "the policy does not allow rollback"
    )


def test_hopeless_errors_are_not_retried(settings: Settings) -> None:
    """Attempts after such errors never succeeded, so the engine finally refuses another one."""
    stage = python("flaky", "refuses_connection", max_retries=10, retry_delay=0.0)
    taken = []
    for turn in range(3):
        with open_installation(settings) as opened:
            if turn == 0:
                x = begin(opened, stage, id="hopeless", config=policy(attempt_cost=1, failure_cost=2))
            else:
                x = executions.start(opened, "hopeless")
            assert settled(opened, x).status == "failed"
            opened.risk_state.catch_up()
            taken.append([d.taken for d in made(opened, x)])
            last = made(opened, x)[-1]
    assert taken[0] == ["retry"] * 10 + ["terminate"]
    assert taken[-1] == ["terminate"]
    assert last.data["situation"]["retry_odds"] < 0.5
    assert "which does not justify its cost" in {v["action"]: v["reason"] for v in last.data["verdicts"]}["retry"]
    assert last.outcome == "failed"


def test_outcomes_of_retries_are_joined_back(installation: Installation, tmp_path: Path) -> None:
    stage = python("a", "fail_first", "z", arguments={"path": str(tmp_path / "n"), "failures": 2}, max_retries=3)
    x = begin(installation, python("z", "two"), stage)
    assert settled(installation, x).status == "completed"
    installation.risk_state.catch_up()
    assert [(d.taken, d.outcome) for d in made(installation, x)] == [("retry", "failed"), ("retry", "succeeded")]


@pytest.mark.parametrize("action", [Action.RETRY, Action.SKIP, Action.ROLLBACK, Action.TERMINATE])
def test_a_person_overrides_a_decision(
    installation: Installation, settings: Settings, tmp_path: Path, action: Action
) -> None:
    x = begin(
        installation, DATA, SAVE, broken(tmp_path, "save"), python("c", "two", "broken"), config=policy(pause=True)
    )
    assert settled(installation, x).status == "paused"
    (decision,) = made(installation, x)
    (tmp_path / "fixed").touch()
    after = decisions.override(installation, decision.id, action, "I know better", requested_by="ann")
    assert [(o.action, o.reason, o.requested_by) for o in after.overrides] == [(action.value, "I know better", "ann")]
    assert (after.action, after.taken) == ("pause", "pause"), "the decision itself stays as it was"
    status, broken_stage, last_stage, rows = {
        Action.RETRY: ("completed", "completed", "completed", 1),
        Action.SKIP: ("completed", "skipped", "skipped", 1),
        Action.ROLLBACK: ("rolled_back", "failed", "cancelled", 0),
        Action.TERMINATE: ("failed", "failed", "cancelled", 1),
    }[action]
    eventually(lambda: executions.get(installation, x).status == status)
    found = states(installation, x)
    assert (found["broken"], found["c"]) == (broken_stage, last_stage)
    assert written(settings) == rows
    assert seqs_have_no_gap(installation, x)


def test_a_failed_run_continues_without_the_failed_stage(installation: Installation, tmp_path: Path) -> None:
    x = begin(
        installation, python("a", "two"), broken(tmp_path, "a"), python("c", "two", "broken"), python("d", "two", "a")
    )
    assert settled(installation, x).status == "failed"
    decisions.override(installation, made(installation, x)[-1].id, Action.SKIP, "not needed today")
    eventually(lambda: executions.get(installation, x).status == "completed")
    assert states(installation, x) == {"a": "completed", "broken": "skipped", "c": "skipped", "d": "completed"}


def test_invalid_overrides_are_refused(installation: Installation, tmp_path: Path) -> None:
    x = begin(installation, broken(tmp_path), config=policy(pause=True))
    assert settled(installation, x).status == "paused"
    (decision,) = made(installation, x)
    with pytest.raises(NotFoundError, match=r"Decision not found: x\.1"):
        decisions.override(installation, "x.1", Action.RETRY, "why not")
    with pytest.raises(InputError, match="reason: must contain text"):
        decisions.override(installation, decision.id, Action.RETRY, "  ")
    with pytest.raises(InputError, match="cannot continue because a stage has failed; retry or skip it"):
        decisions.override(installation, decision.id, Action.CONTINUE, "go on")
    with pytest.raises(NotAllowedError, match="Cannot pause execution with status: paused"):
        decisions.override(installation, decision.id, Action.PAUSE, "wait")
    assert made(installation, x)[0].overrides == (), "nothing of a refused one is kept"
    decisions.override(installation, decision.id, Action.RETRY, "try")
    eventually(lambda: len(made(installation, x)) == 2)
    with pytest.raises(ConflictError, match=f"Decision {decision.id} was superseded by"):
        decisions.override(installation, decision.id, Action.TERMINATE, "too late")
