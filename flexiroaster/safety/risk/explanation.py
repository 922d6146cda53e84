"""The explanation of one number as a base value plus a contribution from each feature group, in the number's own units.

Contributions to a probability are exact Shapley values: all coalitions of the groups are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from html import escape
from importlib.util import find_spec
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexiroaster.errors import InputError
from flexiroaster.safety.risk.factors import FEATURES, GROUPS, FactorScore, Past
from flexiroaster.safety.risk.facts import StartContext, facts
from flexiroaster.safety.risk.model import RiskModel
from flexiroaster.safety.risk.state import Start

if TYPE_CHECKING:
    import shap  # type: ignore[import-untyped] # ships no types

__all__ = [
    "Contribution",
    "Explanation",
    "ExplanationKind",
    "coalitions",
    "explain_probability",
    "explain_score",
    "shapley_values",
]


Floats = NDArray[np.float64]
Values = Mapping[str, float | None]

MIN_MENTIONED = 0.005
"""The text leaves out smaller contributions."""

MAX_PLAYERS = 12


class ExplanationKind(StrEnum):
    """The kind of number explained."""

    PROBABILITY = "probability"
    FACTOR_SCORE = "factor_score"


@dataclass(frozen=True, slots=True)
class Contribution:
    """The amount one feature group adds, the fact behind it in words, and the feature values."""

    name: str
    amount: float
    fact: str
    values: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """An additive explanation: `base` plus all contributions equals `total`, a probability or a factor score."""

    kind: ExplanationKind
    subject: str
    base: float
    total: float
    contributions: tuple[Contribution, ...]

    def data(self) -> dict[str, Any]:
        """Return the explanation as strict JSON values."""
        return {
            "kind": self.kind.value,
            "subject": self.subject,
            "base": self.base,
            "total": self.total,
            "contributions": [asdict(contribution) for contribution in self.contributions],
            "text": self.text,
        }

    @property
    def text(self) -> str:
        """The explanation in a few sentences, the largest contributions first."""
        raising = [c for c in self._by_size() if c.amount >= MIN_MENTIONED]
        lowering = [c for c in self._by_size() if c.amount <= -MIN_MENTIONED]
        parts = [self._headline(), _sentence("Raised by", raising), _sentence("Lowered by", lowering)]
        return " ".join(part for part in parts if part)

    def to_shap(self) -> shap.Explanation:
        """Convert to a `shap.Explanation` for shap's plots, with one number per group for colors and labels.

        Raises InputError if shap or matplotlib is not installed (the extra `plots`).
        """
        if missing := [name for name in ("shap", "matplotlib") if find_spec(name) is None]:
            raise InputError(f"shap plots require {' and '.join(missing)}: pip install 'flexiroaster[plots]'")
        import shap

        measured = [_measured(contribution) for contribution in self.contributions]
        data = [math.nan if value is None else value for _, value, _ in measured]
        shown = [none if value is None else _shown(value) for _, value, none in measured]
        return shap.Explanation(
            values=np.array([c.amount for c in self.contributions]),
            base_values=self.base,
            data=np.array(data, dtype=np.float64),
            display_data=np.array(shown, dtype=object),
            feature_names=[name for name, _, _ in measured],
        )

    def to_html(self) -> str:
        """Render a table with bars as self-contained HTML: escaped, without scripts or external references."""
        widest = max((abs(c.amount) for c in self.contributions), default=0.0) or 1.0
        rows = "".join(_row(c, widest) for c in self._by_size())
        return (
            f'<figure style="font-family:sans-serif;margin:0"><figcaption>{escape(self._headline())}</figcaption>'
            f'<table style="border-collapse:collapse">{rows}</table></figure>'
        )

    _repr_html_ = to_html

    def _by_size(self) -> list[Contribution]:
        return sorted(self.contributions, key=lambda c: -abs(c.amount))

    def _headline(self) -> str:
        if self.kind is ExplanationKind.FACTOR_SCORE:
            return f"The factor score of {self.subject} is {self.total:.2f}."
        return f"{self.subject} fails with probability {self.total:.2f}; a typical run with {self.base:.2f}."


def _sentence(beginning: str, contributions: list[Contribution]) -> str:
    parts = "; ".join(f"{c.name} {c.amount:+.2f} ({c.fact})" for c in contributions)
    return f"{beginning} {parts}." if parts else ""


def _row(contribution: Contribution, widest: float) -> str:
    colour = "#b3261e" if contribution.amount > 0 else "#1a5fb4"
    width = 100 * abs(contribution.amount) / widest
    bar = f'<div style="background:{colour};height:0.8em;width:{width:.1f}px"></div>'
    cells = (escape(contribution.name), f"{contribution.amount:+.3f}", bar, escape(contribution.fact))
    return "<tr>" + "".join(f'<td style="padding:2px 8px">{cell}</td>' for cell in cells) + "</tr>"


def explain_probability(model: RiskModel, row: Floats, start: Start, past: Past) -> Explanation:
    """Explain the probability that the chosen model gives this start; `row` holds the start's features."""
    values = _coalition_values(model, row)
    amounts = dict(zip(GROUPS, shapley_values(values).tolist(), strict=True))
    usual = model.background.mean(axis=0).tolist()
    named = dict(zip(FEATURES, row.tolist(), strict=True))
    context = StartContext(start, past, named, dict(zip(FEATURES, usual, strict=True)))
    reasons = facts(context, model.chosen.model, amounts)
    contributions = tuple(
        Contribution(group, amounts[group], reasons[group], {name: named[name] for name in names})
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


@cache
def coalitions(players: int) -> NDArray[np.bool_]:
    """Return all coalitions (2^n x n): row k contains player i if bit i of k is set. ValueError above 12 players."""
    if players > MAX_PLAYERS:
        raise ValueError(f"{players} players are too many for exact Shapley values; the maximum is {MAX_PLAYERS}")
    numbers = np.arange(1 << players)[:, None]
    return np.asarray((numbers >> np.arange(players)) & 1, dtype=bool)


def shapley_values(values: Floats) -> Floats:
    """Return each player's contribution, from the values of all coalitions in the order of `coalitions`.

    The contributions sum to the value of all players minus that of none.
    """
    players = len(values).bit_length() - 1
    return np.asarray(_weights(players) @ values, dtype=np.float64)


@cache
def _weights(players: int) -> Floats:
    """Return players x coalitions: +w(|S| - 1) with the player, -w(|S|) without; w(s) = s! (n - s - 1)! / n!."""
    present = coalitions(players)
    sizes = present.sum(axis=1)
    share = np.array([factorial(s) * factorial(players - s - 1) / factorial(players) for s in range(players)] + [0.0])
    return np.asarray(np.where(present.T, share[sizes - 1], -share[sizes]), dtype=np.float64)


def _measured(contribution: Contribution) -> tuple[str, float | None, str]:
    """Return the name, the number, and the text shown if there is no number."""
    if contribution.name not in _MEASURES:  # a factor is a single number already
        return contribution.name, contribution.values.get(contribution.name), "none"
    unit, value, none = _MEASURES[contribution.name]
    return f"{contribution.name} ({unit})", value(contribution.values), none


def _shown(value: float) -> float:
    """Return counts unchanged and everything else rounded to three significant digits."""
    count = round(value)
    return count if abs(value - count) < 1e-6 else float(f"{value:.3g}")


def _number(values: Values, name: str) -> float:
    return values.get(name) or 0.0


def _count(values: Values, name: str) -> float:
    """Invert a feature stored as log(1 + number)."""
    return math.expm1(_number(values, name))


def _percent(values: Values, name: str) -> float:
    return 100 / (1 + math.exp(-_number(values, name)))


def _streak(values: Values) -> float:
    return _count(values, "failures_in_a_row") - _count(values, "successes_in_a_row")


def _hours(values: Values) -> float | None:
    return None if values.get("never_succeeded") else _count(values, "log_hours_since_success")


def _group_lead(values: Values) -> float:
    return _percent(values, "group_recent") - _percent(values, "rate_all")


def _stages(values: Values) -> float | None:
    return None if values.get("stages_unknown") else _count(values, "log_stages")


_MEASURES: dict[str, tuple[str, Callable[[Values], float | None], str]] = {
    "recent failures": ("% failed", lambda values: _percent(values, "rate_2"), "none"),
    "streak": ("failures, or - successes", _streak, "none"),
    "overall rate": ("% failed", lambda values: _percent(values, "rate_all"), "none"),
    "experience": ("runs", lambda values: _count(values, "log_runs"), "none"),
    "rhythm": ("hours since success", _hours, "never"),
    "duration": ("usual seconds", lambda values: _count(values, "log_duration"), "none"),
    "surroundings": ("group - own % failed", _group_lead, "none"),
    "shape": ("stages", _stages, "unknown"),
}
"""The most informative number of each group: unit, value, and the text shown without a value."""
