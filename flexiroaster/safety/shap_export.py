"""Conversion of an explanation to a `shap.Explanation` for shap's bar, waterfall and beeswarm plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from flexiroaster.errors import InputError
from flexiroaster.safety.risk.explanation import Contribution, Explanation

if TYPE_CHECKING:
    import shap  # type: ignore[import-untyped] # ships no types

__all__ = ["to_shap"]

Values = Mapping[str, float | None]
Measured = tuple[str, Callable[[Values], float | None], str]


def to_shap(explanation: Explanation) -> shap.Explanation:
    """Convert the contributions, with one number each that shap uses for colors and labels.

    Raises InputError if shap or matplotlib is not installed (the extra `plots`).
    """
    if missing := [name for name in ("shap", "matplotlib") if find_spec(name) is None]:
        needed = " and ".join(missing)
        raise InputError(f"shap plots require {needed}: pip install 'flexiroaster[plots]'")
    import numpy as np
    import shap

    measured = [_measured(contribution) for contribution in explanation.contributions]
    data = [math.nan if value is None else value for _, value, _ in measured]
    shown = [none if value is None else _shown(value) for _, value, none in measured]
    return shap.Explanation(
        values=np.array([c.amount for c in explanation.contributions]),
        base_values=explanation.base,
        data=np.array(data, dtype=np.float64),
        display_data=np.array(shown, dtype=object),
        feature_names=[name for name, _, _ in measured],
    )


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


_MEASURES: dict[str, Measured] = {
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
