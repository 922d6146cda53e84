"""The prior: a small logistic model fitted on the histories of other systems, which works without local training.

`python -m tools.prior_fit FILES` reproduces the coefficients; docs/safety.md reports their quality on
systems that the fit has not seen.
"""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.features import features
from flexiroaster.safety.risk.additive import LinearModel
from flexiroaster.safety.risk.history import Ledger
from flexiroaster.safety.runs import HOUR, Ending, Outcome, Start

__all__ = ["PRIOR", "PRIOR_FEATURES", "made_up_rows"]

PRIOR_FEATURES = (
    "rate_2",
    "rate_5",
    "rate_15",
    "rate_all",
    "after_last",
    "failures_in_a_row",
    "successes_in_a_row",
    "log_hours_since_success",
    "log_runs",
    "first_run",
    "group_lead",
)

PRIOR = LinearModel(
    {
        "rate_2": 0.1659,
        "rate_5": 0.1410,
        "rate_15": 0.1199,
        "rate_all": 0.1121,
        "after_last": 0.1844,
        "failures_in_a_row": 0.3368,
        "successes_in_a_row": -0.0752,
        "log_hours_since_success": 0.0575,
        "log_runs": 0.0098,
        "first_run": -0.0801,
        "group_lead": 0.6272,
    },
    intercept=-0.5058,
)
"""The coefficients, fitted on hpc_ctc, hpc_atlas and gitlab_dune together (121,698 runs with an outcome)."""


@cache
def made_up_rows() -> NDArray[np.float64]:
    """Return the background for explanations before the first run: 100 starts of a simulated installation.

    It has forty pipelines with failure rates drawn from Beta(1, 4) and about one run per hour. The sample is fixed.
    """
    rng, ledger = Random(0), Ledger()  # noqa: S311 - a fixed sample, not used for security
    rates = [rng.betavariate(1, 4) for _ in range(40)]
    rows, now = [], 0.0
    for _ in range(1000):
        now += rng.expovariate(1.0) * HOUR
        number = rng.randrange(40)
        name, duration = f"pipeline {number}", 60.0 * rng.lognormvariate(0, 0.5)
        rows.append(features(Start(name, now, 5), ledger.past(name)))
        outcome = Outcome.FAILED if rng.random() < rates[number] else Outcome.COMPLETED
        ledger.add(name, Ending(now, outcome, duration))
    return np.array(rows[::10])
