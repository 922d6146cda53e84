"""Additive explanations of a predicted probability and of a factor score, in the units of the explained number.

The probability is explained after calibration. The models are sums over feature groups in log-odds. So the value of a
coalition of groups is the mean of P over a background sample, with groups inside the coalition taken from this start
and groups outside from the background start. All 2^8 coalitions are evaluated, so the Shapley values are exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.features import GROUPS, NAMES, Past
from flexiroaster.safety.risk.explanation import Contribution, Explanation, ExplanationKind
from flexiroaster.safety.risk.factors import FactorScore
from flexiroaster.safety.risk.facts import Situation, facts
from flexiroaster.safety.risk.model import RiskModel
from flexiroaster.safety.runs import Start
from flexiroaster.safety.shapley import coalitions, shapley_values

__all__ = ["explain_probability", "explain_score"]

Floats = NDArray[np.float64]


def explain_probability(model: RiskModel, row: Floats, start: Start, past: Past) -> Explanation:
    """Explain the probability that the chosen model gives this start; `row` holds the start's features."""
    values = _coalition_values(model, row)
    amounts = dict(zip(GROUPS, shapley_values(values).tolist(), strict=True))
    usual = model.background.mean(axis=0).tolist()
    named = dict(zip(NAMES, row.tolist(), strict=True))
    told = facts(Situation(start, past, named, dict(zip(NAMES, usual, strict=True))), model.chosen.model, amounts)
    contributions = tuple(
        Contribution(group, amounts[group], told[group], {name: named[name] for name in names})
        for group, names in GROUPS.items()
    )
    return Explanation(
        ExplanationKind.PROBABILITY, start.pipeline_id, float(values[0]), float(values[-1]), contributions
    )


def _coalition_values(model: RiskModel, row: Floats) -> Floats:
    """Return the mean probability over the background for every coalition of groups."""
    here, there = model.chosen.model.components(row[None, :])[0], model.background_components
    inside = coalitions(len(here)).astype(np.float64)
    scores = model.chosen.model.intercept + there.sum(axis=1) + inside @ (here - there).T
    return np.asarray(model.chosen.curve.apply(scores).mean(axis=1), dtype=np.float64)


def explain_score(score: FactorScore, start: Start) -> Explanation:
    """Explain the factor score, which already is a sum: each factor adds weight times score to 0."""
    contributions = tuple(Contribution(f.name, f.contribution, f.description, {f.name: f.value}) for f in score.factors)
    return Explanation(ExplanationKind.FACTOR_SCORE, start.pipeline_id, 0.0, score.score, contributions)
