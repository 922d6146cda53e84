"""The safety engine in the product: a question and a start with 100,000 runs behind them, and what a start pays."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from flexiroaster.model.event import utc_now
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety import history, risk, training
from flexiroaster.store.safety.history import PastRun
from tests.bench.conftest import chain

RUNS = 100_000
PIPELINES = 300


@pytest.fixture
def busy(installation: Installation) -> Installation:
    """An installation with 100,000 runs of 300 pipelines in the last year."""
    rng, begin = Random(0), utc_now() - timedelta(days=365)
    runs = []
    for i in range(RUNS):
        number = rng.randrange(PIPELINES)
        start, seconds = begin + timedelta(seconds=315 * i), rng.lognormvariate(5, 1)
        status = "failed" if rng.random() < number / PIPELINES / 2 else "completed"
        end = min(start + timedelta(seconds=seconds), utc_now())
        run = PastRun(f"r{i}", end, f"chain{number}", start, status, seconds, 3, imported=True)
        runs.append(replace(run, said={"prior": 0.25, "recalibrated_prior": 0.25, "engine": 0.25}))
    untrained = installation.settings.model_copy(update={"ai_train_every": 0})  # an import would learn from them
    with open_installation(untrained) as another:
        history.add(another, runs)
    return installation


def test_assess(benchmark, busy: Installation) -> None:
    pipelines.save(busy, chain(3))
    benchmark.extra_info.update(runs=RUNS)
    benchmark.pedantic(risk.assess, args=(busy, "chain3"), rounds=200, warmup_rounds=3)
    times = sorted(benchmark.stats.stats.data)
    benchmark.extra_info.update(p95_ms=1000 * times[int(0.95 * len(times))])


def test_assess_when_something_has_ended_each_time(benchmark, busy: Installation) -> None:
    revision = pipelines.save(busy, chain(3))

    def end_one() -> tuple[tuple[Installation, str], dict[str, object]]:
        executions.wait(busy, executions.start(busy, revision))
        return (busy, "chain3"), {}

    benchmark.pedantic(risk.assess, setup=end_one, rounds=100)
    times = sorted(benchmark.stats.stats.data)
    benchmark.extra_info.update(p95_ms=1000 * times[int(0.95 * len(times))])


def test_assess_right_after_an_end_while_the_learner_runs(benchmark, busy: Installation) -> None:
    """As in a worker or a server: a question comes the moment a run has ended, which is folded in the background."""
    busy.start_claiming()
    revision = pipelines.save(busy, chain(3))

    def end_one() -> tuple[tuple[Installation, str], dict[str, object]]:
        executions.wait(busy, executions.start(busy, revision))
        return (busy, "chain3"), {}

    benchmark.pedantic(risk.assess, setup=end_one, rounds=100)
    times = sorted(benchmark.stats.stats.data)
    benchmark.extra_info.update(p95_ms=1000 * times[int(0.95 * len(times))])


def test_train(benchmark, busy: Installation) -> None:
    benchmark.extra_info.update(runs=RUNS)
    benchmark.pedantic(training.train, args=(busy,), rounds=1)


def test_start(benchmark, busy: Installation) -> None:
    """One start after another that waits for nothing, while the driver runs the ones before."""
    revision = pipelines.save(busy, chain(3))
    benchmark.pedantic(executions.start, args=(busy, revision), rounds=200, warmup_rounds=5)
    times = sorted(benchmark.stats.stats.data)
    benchmark.extra_info.update(p95_ms=1000 * times[int(0.95 * len(times))])
    for row in executions.offset_page(busy, limit=1000)[0]:
        busy.driver.wait(row.id)
