"""An imported history teaches what it would have taught as it happened; later trainings are judged by that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import ConflictError
from flexiroaster.safety.learning.backtest import Backtest, backtest
from flexiroaster.safety.learning.evaluation import measure
from flexiroaster.safety.risk.factors import Ledger
from flexiroaster.safety.risk.history import feature_rows, history_frame, read_history
from flexiroaster.safety.risk.model import Rung
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety import history, training
from flexiroaster.store.safety import history as run_history
from flexiroaster.store.safety import risk
from flexiroaster.store.safety.history import PastRun
from tests.unit.safety.histories import made_up

RUNS = 760
"""Enough for two local models to be trained."""

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Where the database is not the point."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "past.parquet"
    history_frame(made_up(RUNS, seed=5)).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def expected(file: Path) -> Backtest:
    return backtest(read_history(file))


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


def kept(installation: Installation) -> list[PastRun]:
    return run_history.newest(installation.database, RUNS)


def answers(runs: list[PastRun], arm: str) -> list[float | None]:
    return [(run.said or {}).get(arm) for run in runs]


def test_after_an_import_all_is_as_in_the_backtest(installation: Installation, file: Path, expected: Backtest) -> None:
    history.import_file(installation, file)
    assert answers(kept(installation), "engine") == expected.predictions["engine"].to_list()
    for rung in (Rung.PRIOR, Rung.RECALIBRATED):
        assert answers(kept(installation), rung.value) == expected.predictions[rung.value].to_list()
    model = expected.learned.model
    assert installation.risk_state.model.version == model.version
    assert (installation.risk_state.model.rung, installation.risk_state.model.reason) == (model.rung, model.reason)
    rows = [row for row in reversed(training.models(installation)) if row.metrics and row.metrics["comparison"]]
    lived = [each for each in expected.learned.trainings if each.comparison is not None]
    assert len(lived) == 2
    assert [(row.promoted, row.examples, row.data_hash) for row in rows] == [
        (each.promoted, each.examples, each.data_hash) for each in lived
    ]
    assert not training.due(installation), "nothing is left to learn"


@SQLITE
def test_a_training_after_an_import_is_judged_by_what_was_said_before(
    installation: Installation, file: Path, expected: Backtest
) -> None:
    """Twice: the curve and the model of the first one are not judged on the runs that they were fitted on."""
    history.import_file(installation, file)
    before = kept(installation)
    for _ in range(2):
        trained = training.train(installation)
        assert trained.metrics is not None
        comparison = trained.metrics["comparison"]
        known = [run for run in kept(installation) if run.counts]
        newest = known[int(0.85 * len(known)) :]
        said = np.array(answers(newest, "engine"), dtype=float)
        failed = np.array([run.status == "failed" for run in newest])
        losses = -np.log(np.where(failed, said, 1 - said))
        assert comparison["runs"] == len(newest)
        assert comparison["present_loss"] == pytest.approx(losses.mean())
    assert kept(installation) == before, "what was said stays"
    judged = [run for run in kept(installation)[int(0.7 * RUNS) :] if run.counts]
    failed = np.array([float(run.status == "failed") for run in judged])
    said = np.array(answers(judged, "engine"), dtype=float)
    engine = next(arm for arm in expected.arms if arm.name == "engine")
    assert measure(said, failed, [run.pipeline_id for run in judged]) == engine.all


@SQLITE
def test_an_older_history_that_comes_later_is_learned_from_as_if_it_had_come_first(
    installation: Installation, file: Path, expected: Backtest, tmp_path: Path
) -> None:
    frame = history_frame(read_history(file))
    frame.tail(RUNS // 2).write_parquet(tmp_path / "newer.parquet")
    history.import_file(installation, tmp_path / "newer.parquet")
    history.import_file(installation, file)
    assert answers(kept(installation), "engine") == expected.predictions["engine"].to_list()
    assert installation.risk_state.model.version == expected.learned.model.version


@SQLITE
def test_an_import_where_nothing_trains_by_itself_is_learned_from_by_the_next_training(
    settings: Settings, file: Path, expected: Backtest
) -> None:
    with open_installation(settings.model_copy(update={"ai_train_every": 0})) as installation:
        history.import_file(installation, file)
        assert training.models(installation) == []
        assert set(answers(kept(installation), "engine")) == {None}
        training.train(installation)
        assert answers(kept(installation), "engine") == expected.predictions["engine"].to_list()


@SQLITE
def test_without_the_extra_an_import_recalibrates_and_trains_no_local_model(
    installation: Installation, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "can_train", lambda: False)
    history.import_file(installation, file)
    assert installation.risk_state.model.local is None
    assert installation.risk_state.model.recalibrated.curve.runs > 600
    assert len(training.models(installation)) == 1


@SQLITE
def test_nothing_is_imported_while_a_training_is_under_way(installation: Installation, file: Path) -> None:
    assert risk.claim_training_at_once(installation.database, "another", lease_seconds=60)
    with pytest.raises(ConflictError, match="A training is already in progress"):
        history.import_file(installation, file)
    assert run_history.count(installation.database) == 0


@SQLITE
def test_a_run_that_nobody_assessed_is_not_judged(installation: Installation, file: Path) -> None:
    """What the present model says of it would be said by hindsight."""
    own = [run for run in _runs(file) if run.counts]
    with installation.database.write() as connection:
        run_history.add(connection, own)
    examples = training._examples(training.history_of(own), own)
    assert np.isnan(examples.champion).all()
    assert all(np.isnan(values).all() for values in examples.predictions.values())


def _runs(file: Path) -> list[PastRun]:
    return [replace(run, imported=False) for run in history._runs_of(read_history(file))]


def test_the_order_of_the_rows_of_a_file_changes_nothing(settings: Settings, file: Path, tmp_path: Path) -> None:
    """Runs that end at the same moment are taken in the order of their pipelines and executions, here as there."""
    runs = history_frame(read_history(file))
    coarse = runs.with_columns(*(runs[name].dt.truncate("6h") for name in ("started_at", "finished_at")))
    coarse.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "shuffled.parquet")
    ledger, lived = Ledger(), read_history(tmp_path / "shuffled.parquet")
    for row in lived.order(lived.finished_at):
        ledger.add(lived.pipeline_id[row], lived.ending(row))
    with open_installation(settings.model_copy(update={"ai_train_every": 0})) as installation:
        history.import_file(installation, tmp_path / "shuffled.parquet")
        for name in set(lived.pipeline_id):
            assert installation.risk_state.past(name) == ledger.past(name)
        stored = training.history_of(run_history.newest(installation.database, RUNS))
    assert stored.execution_id == lived.execution_id
    assert (feature_rows(stored) == feature_rows(lived)).all()
