"""What is remembered of the past: each run once, in order, whoever folds; and what is answered from it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import update

from flexiroaster.config import Settings
from flexiroaster.errors import DefinitionError, NotAllowedError, NotFoundError
from flexiroaster.model.event import utc_now
from flexiroaster.model.paging import Window
from flexiroaster.safety.risk.factors import Ledger, features
from flexiroaster.safety.risk.state import Start
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety import history, insights, risk, training
from flexiroaster.service.safety.history_projection import BATCH, ending_of, fold
from flexiroaster.store import retention
from flexiroaster.store.safety import history as run_history
from flexiroaster.store.safety.history import PastRun
from flexiroaster.store.tables import executions as table
from tests.faults.tiers import databases
from tests.waiting import eventually


def pipeline(name: str, fails: bool = False) -> dict[str, Any]:
    first = {"id": "a", "type": "input", "config": {"source": "api", "data": [{"x": 1}]}}
    config = {"operation": "derive", "columns": {"y": "no_such_column + 1"}}
    second = {"id": "b", "type": "transform", "config": config, "dependencies": ["a"]}
    return {"id": name, "name": name, "stages": [first, second] if fails else [first]}


def made_up(n: int, seed: int = 0) -> list[PastRun]:
    """Runs of ten pipelines in two groups that fail differently often; the ends are not in the order of the starts."""
    rng, now = Random(seed), utc_now() - timedelta(days=60)
    runs = []
    for i in range(n):
        number = rng.randrange(10)
        start = now + timedelta(minutes=5 * i)
        seconds = rng.uniform(10, 2000)
        status = "failed" if rng.random() < number / 15 else rng.choice(["completed"] * 9 + ["cancelled"])
        name = f"g{number % 2}/p{number}"
        end = start + timedelta(seconds=seconds)
        runs.append(PastRun(f"r{i}", end, name, start, status, seconds, 3, imported=True))
    return runs


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


def run(installation: Installation, name: str) -> str:
    execution_id = executions.start(installation, name)
    executions.wait(installation, execution_id)
    return execution_id


@databases("sqlite")
def test_the_states_are_those_of_a_ledger_that_saw_every_end_in_order(installation: Installation) -> None:
    runs, ledger = made_up(2500), Ledger()
    history.add(installation, runs[1000:])
    history.add(installation, runs[:1000])  # older ones come later
    for each in sorted(runs, key=lambda r: (r.finished_at, r.execution_id)):
        ledger.add(each.pipeline_id, ending_of(each))
    for name in {r.pipeline_id for r in runs}:
        start = Start(name, utc_now().timestamp(), 4)
        assert features(start, installation.risk_state.past(name)) == features(start, ledger.past(name))
    assert installation.risk_state.runs == sum(r.counts for r in runs)


def test_executions_are_remembered_when_somebody_asks(installation: Installation) -> None:
    pipelines.save(installation, pipeline("good"))
    pipelines.save(installation, pipeline("bad", fails=True))
    assert risk.assess(installation, "good").no_history_yet
    for _ in range(3):
        run(installation, "good")
        run(installation, "bad")
    good, bad = risk.assess(installation, "good"), risk.assess(installation, "bad")
    assert (good.input.past.pipeline.runs, good.input.past.pipeline.failures) == (3, 0)
    assert (bad.input.past.pipeline.runs, bad.input.past.pipeline.failures) == (3, 3)
    assert bad.prediction.probability > good.prediction.probability
    assert good.input.past.pipeline.durations[-1] > 0
    assert good.input.past.installation.runs == 6


def test_a_failure_and_its_retry_are_two_ends(installation: Installation) -> None:
    pipelines.save(installation, pipeline("bad", fails=True))
    execution_id = run(installation, "bad")
    assert risk.assess(installation, "bad").input.past.pipeline.failures == 1
    installation.start_claiming()
    commands.retry(installation, execution_id)
    eventually(lambda: risk.assess(installation, "bad").input.past.pipeline.failures == 2)
    assert run_history.count(installation.database) == 2


def test_an_end_that_is_committed_late_is_not_lost(installation: Installation) -> None:
    pipelines.save(installation, pipeline("good"))
    late, newer = run(installation, "good"), None
    ended = executions.get(installation, late).completed_at
    _set_end(installation, late, None)
    newer = run(installation, "good")
    assert risk.assess(installation, "good").input.past.pipeline.runs == 1
    _set_end(installation, late, ended)  # older than what was folded
    assert risk.assess(installation, "good").input.past.pipeline.runs == 2
    assert newer != late


def _set_end(installation: Installation, execution_id: str, at: Any) -> None:
    with installation.database.write() as connection:
        connection.execute(update(table).where(table.c.id == execution_id).values(completed_at=at))


def test_processes_that_fold_at_once_fold_each_run_once(settings: Settings, installation: Installation) -> None:
    pipelines.save(installation, pipeline("good"))
    for _ in range(2):
        run(installation, "good")
    _multiply_ended(installation, 150)
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        folded = sum(pool.map(_fold_all, [settings] * 3))
    assert folded >= 151  # the second start has folded the first end
    assert risk.assess(installation, "good").input.past.pipeline.runs == 152
    assert run_history.count(installation.database) == 152


def _fold_all(settings: Settings) -> int:
    with open_installation(settings) as installation:
        total = 0
        while n := fold(installation.database, 5, limit=7).executions:
            total += n
        return total


def _multiply_ended(installation: Installation, times: int) -> None:
    """Copies of an execution that ended, a millisecond apart."""
    with installation.database.write() as connection:
        row = dict(connection.execute(table.select().limit(1)).one()._mapping)
        ends = [row["completed_at"] + timedelta(milliseconds=i) for i in range(1, times + 1)]
        copies = [{**row, "id": f"copy-{i}", "completed_at": end, "slot": None} for i, end in enumerate(ends)]
        connection.execute(table.insert(), copies)


def test_a_start_catches_up_by_one_batch_only_and_a_question_by_all(installation: Installation) -> None:
    pipelines.save(installation, pipeline("good"))
    run(installation, "good")
    _multiply_ended(installation, 2 * BATCH + 10)
    run(installation, "good")
    assert run_history.count(installation.database) <= BATCH + 1
    assert risk.assess(installation, "good").input.past.pipeline.runs == 2 * BATCH + 12


def test_what_was_pruned_is_still_known(installation: Installation) -> None:
    pipelines.save(installation, pipeline("good"))
    execution_id = run(installation, "good")
    installation.risk_state.catch_up()
    retention.delete_executions(installation.database, [execution_id])
    assert risk.assess(installation, "good").input.past.pipeline.runs == 1
    assert risk.of_executions(installation, [execution_id]) == {}


def test_questions_that_make_no_sense(installation: Installation) -> None:
    pipelines.save(installation, {**pipeline("p"), "variables": {}})
    with pytest.raises(NotFoundError):
        risk.assess(installation, "nothing")
    with pytest.raises(DefinitionError):
        risk.assess(installation, "p", {"x": 1e400 * 0, "y": "\x00", "z": {1: object()}, "w" * 5: [["\ud800"]]})


@databases("sqlite")
def test_training_learns_records_and_answers(installation: Installation) -> None:
    pipelines.save(installation, {**pipeline("p"), "id": "g1/p9"})
    with pytest.raises(NotAllowedError, match="nothing to learn from"):
        training.train(installation)
    history.add(installation, made_up(1500))
    assert not training.due(installation), "an import is learned from at once"
    imported = [row.version for row in training.models(installation)]
    first = training.train(installation, seed=3)
    after = risk.assess(installation, "g1/p9")
    assert after.model_version == first.version
    assert (first.examples, first.seed) == (installation.risk_state.runs, 3)
    assert first.metrics is not None
    assert set(first.metrics["comparison"]) >= {"present_loss", "other_loss", "better", "kind"}
    assert not training.due(installation)
    assert [row.version for row in training.models(installation)] == [first.version, *imported]
    with open_installation(installation.settings) as another:  # it is in the database, not in this process
        assert risk.assess(another, "g1/p9").model_version == first.version


@databases("sqlite")
def test_training_is_reproducible_by_seed_and_data(settings: Settings) -> None:
    made = []
    for name in ("one", "two"):
        with open_installation(settings.model_copy(update={"ai_train_every": 0})) as installation:
            if name == "one":
                history.add(installation, made_up(900))
            else:
                with installation.database.write() as connection:
                    connection.exec_driver_sql("DELETE FROM risk_models")
                    connection.exec_driver_sql("UPDATE run_history SET said = NULL")
            trained = training.train(installation, seed=1)
            made.append((trained.version, trained.data_hash, trained.metrics))
    assert made[0] == made[1]


def test_many_errors_of_a_kind_are_one_insight_that_resolves_itself(installation: Installation) -> None:
    pipelines.save(installation, pipeline("bad", fails=True))
    for _ in range(7):
        run(installation, "bad")
    found, total = insights.listing(installation, pipeline_id="bad", unresolved_only=True)
    bursts = [insight for insight in found if insight.insight_type == "error_burst"]
    assert len(bursts) == 1
    assert total == len(found)
    assert bursts[0].occurrences == 3  # the fifth, sixth and seventh error
    assert "errors within an hour" in bursts[0].message
    _age(installation)
    left, _ = insights.listing(installation, pipeline_id="bad", unresolved_only=True)
    assert [insight for insight in left if insight.insight_type == "error_burst"] == []
    everything, _ = insights.listing(installation, pipeline_id="bad")
    assert [i.is_resolved for i in everything if i.insight_type == "error_burst"] == [True]


def _age(installation: Installation) -> None:
    from flexiroaster.store.tables import insights as insight_table

    with installation.database.write() as connection:
        connection.execute(update(insight_table).values(last_seen_at=utc_now() - timedelta(hours=2)))


def test_a_high_risk_resolves_itself_with_a_success(installation: Installation) -> None:
    rules = {"medium": 0.0, "high": 0.0}
    pipelines.save(installation, {**pipeline("risky"), "config": {"risk": rules}})
    execution_id = executions.start(installation, "risky")
    [open_one], _ = insights.listing(installation, unresolved_only=True)
    assert (open_one.execution_id, open_one.action_taken) == (execution_id, "started with a warning")
    assert open_one.factors[0]["name"] == "failure_rate_30d"
    executions.wait(installation, execution_id)
    installation.risk_state.catch_up()
    assert insights.listing(installation, unresolved_only=True)[1] == 0
    assert insights.listing(installation, hours=1)[1] == 1


def test_a_page_of_insights(installation: Installation) -> None:
    for i in range(5):
        pipelines.save(
            installation, {**pipeline(f"p{i}"), "config": {"risk": {"medium": 0.0, "high": 0.0, "at_high": "warn"}}}
        )
        executions.start(installation, f"p{i}")
    first = insights.page(installation, None, Window(first=3))
    rest = insights.page(installation, None, Window(first=3, after=first.cursors[-1]))
    assert [i.pipeline_id for i in (*first.items, *rest.items)] == ["p4", "p3", "p2", "p1", "p0"]
    assert insights.count(installation) == 5
