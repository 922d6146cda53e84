"""Why this probability, and why this score: additive explanations in the number's own units.

The probability is explained after calibration. Its models are sums over groups of features in log-odds, so the value of
a coalition of groups is the mean over a background of P(groups inside: this start, outside: the background start);
all 2^8 coalitions are gone through, which makes the Shapley values exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.explanation import Contribution, Explanation, ExplanationKind
from flexiroaster.safety.factors import FactorScore
from flexiroaster.safety.features import GROUPS, NAMES, Past
from flexiroaster.safety.model import RiskModel
from flexiroaster.safety.runs import HOUR, Start
from flexiroaster.safety.shapley import coalitions, shapley_values

__all__ = ["explain_probability", "explain_score", "facts"]

Floats = NDArray[np.float64]


def explain_probability(model: RiskModel, row: Floats, start: Start, past: Past) -> Explanation:
    """Why the chosen model gives this start its probability; `row` are its features."""
    values = _coalition_values(model, row)
    amounts, told = shapley_values(values).tolist(), facts(start, past)
    named = dict(zip(NAMES, row.tolist(), strict=True))
    contributions = tuple(
        Contribution(group, amount, told[group], {name: named[name] for name in names})
        for (group, names), amount in zip(GROUPS.items(), amounts, strict=True)
    )
    return Explanation(
        ExplanationKind.PROBABILITY, start.pipeline_id, float(values[0]), float(values[-1]), contributions
    )


def _coalition_values(model: RiskModel, row: Floats) -> Floats:
    """The mean probability over the background for every coalition of groups."""
    here, there = model.chosen.model.components(row[None, :])[0], model.background_components
    inside = coalitions(len(here)).astype(np.float64)
    scores = model.chosen.model.intercept + there.sum(axis=1) + inside @ (here - there).T
    return np.asarray(model.chosen.curve.apply(scores).mean(axis=1), dtype=np.float64)


def explain_score(score: FactorScore, start: Start) -> Explanation:
    """The factor score is a sum already: each factor adds weight times score to 0."""
    contributions = tuple(Contribution(f.name, f.contribution, f.description, {f.name: f.value}) for f in score.factors)
    return Explanation(ExplanationKind.FACTOR_SCORE, start.pipeline_id, 0.0, score.score, contributions)


def facts(start: Start, past: Past) -> dict[str, str]:
    """What is behind each group of features, in words."""
    own, group = past.pipeline, past.group
    last, usual = own.rates[0], past.installation.lasting
    return {
        "recent failures": f"{_percent(last.failed, last.runs)} of the last few runs failed, newer ones weighing more"
        if own.runs
        else "no run before",
        "streak": _streak(own.streak),
        "overall rate": f"{own.failures} of {own.runs} runs failed",
        "experience": f"{own.runs} earlier runs" if own.runs else "it has never run",
        "rhythm": _rhythm(start, own.last_success_at),
        "duration": f"runs take {own.durations[-1]:.3g} s lately" if own.durations else "no durations yet",
        "surroundings": f"{_percent(group.recent.failed, group.recent.runs)} of its group's and "
        f"{_percent(usual.failed, usual.runs)} of the installation's runs failed lately",
        "shape": "unknown number of stages" if start.n_stages is None else f"{start.n_stages} stages",
    }


def _percent(failed: float, runs: float) -> str:
    return f"{100 * failed / runs:.0f} %" if runs else "none"


def _streak(streak: int) -> str:
    if streak == 0:
        return "no run before"
    what = "failure" if streak > 0 else "success"
    ending = "" if abs(streak) == 1 else ("s" if streak > 0 else "es")
    return f"{abs(streak)} {what}{ending} in a row"


def _rhythm(start: Start, success: float | None) -> str:
    if success is None:
        return "no success before"
    return f"{max(start.at - success, 0.0) / HOUR:.1f} hours since the last success"
