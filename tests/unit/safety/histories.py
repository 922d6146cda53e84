"""Histories made up for tests: pipelines that come and go, fail in streaks, overlap, and are cancelled at times."""

from __future__ import annotations

from random import Random

import numpy as np

from flexiroaster.safety.risk.history import History
from flexiroaster.safety.risk.state import HOUR, Outcome

BEGINNING = 1_750_000_000.0


def made_up(runs: int, *, seed: int = 0, pipelines: int = 12, cancelled: float = 0.08) -> History:
    """Runs of which each failing makes the next failure of that pipeline likelier; long ones end after later starts."""
    rng, now = Random(seed), BEGINNING
    names = [f"team {i % 3}/pipeline {i}" for i in range(pipelines)]
    rates, failing = {n: rng.betavariate(1, 3) for n in names}, dict.fromkeys(names, False)
    rows = []
    for _ in range(runs):
        now += rng.expovariate(1.0) * HOUR / 2
        name, seconds = rng.choice(names), rng.lognormvariate(6, 1.5)
        failing[name] = rng.random() < (0.7 if failing[name] else rates[name] * 0.4)
        outcome = Outcome.FAILED if failing[name] else Outcome.COMPLETED
        outcome = Outcome.CANCELLED if rng.random() < cancelled else outcome
        stages = rng.choice([None, 3, 8])
        rows.append((name, round(now), round(now) + round(seconds), outcome, round(seconds), stages))
    names_, started, finished, outcomes, seconds_, stages_ = (list(column) for column in zip(*rows, strict=True))
    times = np.array(started, dtype=float), np.array(finished, dtype=float)
    return History(names_, *times, outcomes, [float(s) for s in seconds_], stages_, [f"run {i}" for i in range(runs)])
