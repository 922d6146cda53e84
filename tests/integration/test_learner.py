"""Background learning: ended runs are folded and the model is trained by workers, one at a time."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from flexiroaster.config import Settings
from flexiroaster.errors import ConflictError
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety import history, learner, risk, training
from flexiroaster.service.safety.learner import Trainer
from flexiroaster.store.safety import history as run_history
from flexiroaster.store.safety import risk as training_claims
from flexiroaster.store.sql import database_then
from flexiroaster.store.tables import risk_progress
from tests.faults.tiers import databases
from tests.integration.program import started
from tests.integration.test_risk import made_up, pipeline
from tests.waiting import eventually

PATIENCE = 300.0
"""Seconds for a process to start and to train, on a machine that does much else."""


@pytest.fixture
def observer(settings: Settings) -> Iterator[Installation]:
    """An installation that claims no work and does not train, so that others must have done it."""
    with open_installation(untrained(settings)) as opened:
        pipelines.save(opened, {**pipeline("good"), "concurrency": None})
        yield opened


def untrained(settings: Settings) -> Settings:
    """Imports are left to others to learn from."""
    return settings.model_copy(update={"ai_train_every": 0})


@contextmanager
def worker(settings: Settings, log: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process; ended with SIGTERM."""
    said = {"DATABASE_URL": settings.database_url, "EXECUTOR_WORKERS": "1", **env}
    with log.open("ab") as file:
        process = started("worker", env=said, stdout=subprocess.DEVNULL, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(120)


def run_elsewhere(observer: Installation, count: int) -> None:
    """Run executions in a worker, which folds them."""
    before = run_history.count(observer.database)
    for _ in range(count):
        executions.start(observer, "good", drive=False)
    eventually(lambda: run_history.count(observer.database) == before + count, PATIENCE)


def claim(installation: Installation) -> tuple[Any, ...]:
    with installation.database.read() as connection:
        return tuple(connection.execute(select(risk_progress.c.training_owner, risk_progress.c.training_until)).one())


def nobody_trains(installation: Installation) -> bool:
    return claim(installation)[0] is None


def frozen_training(process: subprocess.Popen[str]) -> int:
    """Wait for the training process of a worker, freeze it, and return its id."""
    (pid,) = eventually(lambda: trainings(process), PATIENCE)
    os.kill(pid, signal.SIGSTOP)
    return pid


def trainings(process: subprocess.Popen[str]) -> list[int]:
    """The training processes of a worker."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"service.safety.training" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has just ended
            continue
    return found


@databases("postgresql")
def test_a_worker_folds_its_runs_and_trains_after_the_configured_number(observer: Installation, tmp_path: Path) -> None:
    with worker(observer.settings, tmp_path / "log", AI_TRAIN_EVERY="4"):
        run_elsewhere(observer, 3)
        run_elsewhere(observer, 1)
        eventually(lambda: training.models(observer) and nobody_trains(observer), PATIENCE)
    assert [row.examples for row in training.models(observer)] == [4]
    assert claim(observer)[1] is not None, "a pause follows"
    assert "The risk model was trained" in (tmp_path / "log").read_text()


@databases("postgresql")
def test_without_the_setting_it_trains_by_the_rule_of_the_engine(observer: Installation, tmp_path: Path) -> None:
    history.add(observer, made_up(700))
    with worker(observer.settings, tmp_path / "log"):
        eventually(lambda: training.models(observer) and nobody_trains(observer), PATIENCE)
    row = training.models(observer)[0]
    assert row.examples == sum(run.counts for run in made_up(700))
    assert row.metrics is not None
    assert row.metrics["comparison"] is not None, "with a challenger"
    assert not training.due(observer)


@databases("postgresql")
def test_zero_disables_training(observer: Installation, tmp_path: Path) -> None:
    history.add(observer, made_up(700))
    with worker(observer.settings, tmp_path / "log", AI_TRAIN_EVERY="0"):
        run_elsewhere(observer, 1)  # which is folded after the first look at what is due
        run_elsewhere(observer, 1)
        assert training.due(observer)
        assert nobody_trains(observer)
    assert training.models(observer) == []


@databases("postgresql")
def test_two_workers_train_once(observer: Installation, tmp_path: Path) -> None:
    history.add(observer, made_up(700))
    with ExitStack() as stack:
        for name in ("one", "two"):
            stack.enter_context(worker(observer.settings, tmp_path / name, AI_TRAIN_EVERY="500"))
        eventually(lambda: training.models(observer) and nobody_trains(observer), PATIENCE)
        trained = len(training.models(observer))
        _may_begin_at_once(observer)
        run_elsewhere(observer, 8)  # both look again
    assert len(training.models(observer)) == trained
    told = [(tmp_path / name).read_text().count("The risk model was trained") for name in ("one", "two")]
    assert sum(told) == 1


def _may_begin_at_once(installation: Installation) -> None:
    with installation.database.write() as connection:
        connection.execute(update(risk_progress).values(training_until=database_then(-1)))


@pytest.mark.parametrize(
    ("database_url", "end"),
    [("postgresql", signal.SIGTERM), ("sqlite", signal.SIGKILL)],
    indirect=["database_url"],
)
def test_a_training_ends_with_its_worker(observer: Installation, tmp_path: Path, end: signal.Signals) -> None:
    history.add(observer, made_up(3000))
    with worker(observer.settings, tmp_path / "first") as first:
        pid = frozen_training(first)
        first.send_signal(end)
        first.wait(120)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), PATIENCE)
    assert nobody_trains(observer) == (end is signal.SIGTERM), "a claim is given up, or has to expire"
    assert training.models(observer) == []
    _may_begin_at_once(observer)
    with worker(observer.settings, tmp_path / "second"):
        run_elsewhere(observer, 1)  # it looks again, rather than in half a minute
        eventually(lambda: training.models(observer), PATIENCE)
    assert "Traceback" not in (tmp_path / "first").read_text() + (tmp_path / "second").read_text()


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and was not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_closing_does_not_wait_for_a_training(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "BOOTSTRAP", "import signal; signal.pause()")
    with open_installation(untrained(settings)) as installation:
        history.add(installation, made_up(700))
    with open_installation(settings) as installation:
        installation.start_claiming()
        eventually(lambda: not nobody_trains(installation), PATIENCE)
    with open_installation(settings) as another:
        assert nobody_trains(another)
        assert training.models(another) == []


def test_an_assessment_includes_all_ended_runs(settings: Settings) -> None:
    with open_installation(settings) as installation:
        pipelines.save(installation, pipeline("good"))
        installation.start_claiming()
        executions.wait(installation, executions.start(installation, "good"))
        eventually(lambda: run_history.count(installation.database) == 1)
        assert risk.assess(installation, "good").input.past.pipeline.runs == 1


def test_an_error_is_logged_and_the_work_repeated(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learner, "RETRY_SECONDS", 0.1)
    with open_installation(settings) as installation:
        pipelines.save(installation, pipeline("good"))
        execution_id = executions.start(installation, "good")
        executions.wait(installation, execution_id)
        with installation.database.write() as connection:
            connection.execute(text("ALTER TABLE risk_progress RENAME TO elsewhere"))
        installation.start_claiming()
        eventually(lambda: "background learning from finished executions is interrupted" in caplog.text)
        with installation.database.write() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO risk_progress"))
        eventually(lambda: run_history.count(installation.database) == 1)


def test_a_failed_training_is_logged_once_and_delayed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, learner.logger.name)
    monkeypatch.setattr(learner, "FIRST_PAUSE", 0.0)
    broken = settings.model_copy(update={"database_url": "sqlite:////no/such/folder/x.db"})
    with open_installation(untrained(settings)) as installation:
        history.add(installation, made_up(100))
        broken_trainer = Trainer(installation.database, installation.risk_state, broken, installation.owner)

        def failures() -> list[logging.LogRecord]:
            broken_trainer.poll()
            return [record for record in caplog.records if "failed" in record.getMessage()]

        eventually(lambda: len(failures()) == 2, PATIENCE)
        monkeypatch.setattr(learner, "FIRST_PAUSE", 600.0)
        eventually(lambda: len(failures()) == 3, PATIENCE)
        assert [record.levelno for record in failures()] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
        assert "the folder '/no/such/folder' does not exist" in failures()[0].getMessage()
        assert not broken_trainer.busy, "it waits"
        assert not training_claims.claim_training(installation.database, "another", model_id=None, lease_seconds=9), (
            "all wait"
        )
        assert training.train(installation).examples > 0, "but not who asks for it"


def test_one_process_trains_at_a_time(observer: Installation) -> None:
    database = observer.database
    assert training_claims.claim_training(database, "one", model_id=None, lease_seconds=60)
    assert not training_claims.claim_training(database, "two", model_id=None, lease_seconds=60)
    with pytest.raises(ConflictError, match="already in progress"):
        training.train(observer)
    assert training_claims.renew_training(database, "one", lease_seconds=-1)
    assert training_claims.claim_training(database, "two", model_id=None, lease_seconds=60), "it has expired"
    assert not training_claims.renew_training(database, "one", lease_seconds=60)
    training_claims.release_training(database, "one", pause_seconds=0)
    assert claim(observer)[0] == "two"
    training_claims.release_training(database, "two", pause_seconds=60)
    assert not training_claims.claim_training(database, "one", model_id=None, lease_seconds=60)
    assert training_claims.claim_training_at_once(database, "one", lease_seconds=60)
    training_claims.release_training(database, "one", pause_seconds=0)
    assert not training_claims.claim_training(database, "one", model_id=7, lease_seconds=60), (
        "it was due for another model"
    )
