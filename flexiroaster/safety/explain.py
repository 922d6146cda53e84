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
from flexiroaster.safety.facts import Situation, facts
from flexiroaster.safety.features import GROUPS, NAMES, Past
from flexiroaster.safety.model import RiskModel
from flexiroaster.safety.runs import Start
from flexiroaster.safety.shapley import coalitions, shapley_values

__all__ = ["explain_probability", "explain_score"]

Floats = NDArray[np.float64]


def explain_probability(model: RiskModel, row: Floats, start: Start, past: Past) -> Explanation:
    """Why the chosen model gives this start its probability; `row` are its features."""
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
    """The mean probability over the background for every coalition of groups."""
    here, there = model.chosen.model.components(row[None, :])[0], model.background_components
    inside = coalitions(len(here)).astype(np.float64)
    scores = model.chosen.model.intercept + there.sum(axis=1) + inside @ (here - there).T
    return np.asarray(model.chosen.curve.apply(scores).mean(axis=1), dtype=np.float64)


def explain_score(score: FactorScore, start: Start) -> Explanation:
    """The factor score is a sum already: each factor adds weight times score to 0."""
    contributions = tuple(Contribution(f.name, f.contribution, f.description, {f.name: f.value}) for f in score.factors)
    return Explanation(ExplanationKind.FACTOR_SCORE, start.pipeline_id, 0.0, score.score, contributions)
