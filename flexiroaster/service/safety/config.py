"""The safety configuration of a pipeline, which overrides the settings: `risk` and `policy` in its `config`.

`{"risk": {"medium": 0.3, "high": 0.6, "at_high": "require_approval"}, "policy": {"mode": "act", "pause": true}}`; every
field is optional.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flexiroaster.config import PolicyMode, Settings
from flexiroaster.errors import Problem
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.model.validation_messages import shown, suggestion_hint
from flexiroaster.safety.policy import Costs, Gate, PolicyRules, Thresholds

__all__ = ["GateRules", "policy_of", "policy_problems", "risk_problems", "rules_of"]


@dataclass(frozen=True, slots=True)
class GateRules:
    """The thresholds of a pipeline, and whether its gate only records its answers without acting (`shadow`)."""

    thresholds: Thresholds
    shadow: bool


def rules_of(pipeline: Pipeline, settings: Settings) -> GateRules:
    """Return the gate rules of a pipeline with a valid definition."""
    own: Mapping[str, Any] = pipeline.config.get("risk") or {}
    high = float(own.get("high", max(settings.ai_risk_threshold_high, own.get("medium", 0.0))))
    medium = float(own.get("medium", min(settings.ai_risk_threshold_medium, high)))
    usual = Gate.BLOCK if settings.ai_block_high_risk else Gate.WARN
    at_high = Gate(own.get("at_high", usual))
    thresholds = Thresholds(medium, high, at_high, block_unknown="at_high" in own)  # applies to the first run
    return GateRules(thresholds, bool(own.get("shadow", settings.ai_gate_shadow)))


def policy_of(pipeline: Pipeline, settings: Settings) -> PolicyRules:
    """Return the policy rules of a pipeline with a valid definition."""
    own: Mapping[str, Any] = pipeline.config.get("policy") or {}
    return PolicyRules(
        PolicyMode(own.get("mode", settings.ai_policy)),
        bool(own.get("pause", settings.ai_policy_pause)),
        bool(own.get("rollback", settings.ai_policy_rollback)),
        Costs(
            float(own.get("attempt_cost", settings.ai_policy_attempt_cost)),
            float(own.get("failure_cost", settings.ai_policy_failure_cost)),
        ),
    )


def risk_problems(pipeline: Pipeline) -> list[Problem]:
    """Return the problems in a pipeline's gate configuration."""
    own = pipeline.config.get("risk")
    problems = _problems("config.risk", own, _RISK_FIELDS)
    if own and not problems and "medium" in own and "high" in own and own["medium"] > own["high"]:
        problems.append(Problem("config.risk.medium", f"must not exceed high ({own['high']})", "range"))
    return problems


def policy_problems(pipeline: Pipeline) -> list[Problem]:
    """Return the problems in a pipeline's policy configuration."""
    return _problems("config.policy", pipeline.config.get("policy"), _POLICY_FIELDS)


@dataclass(frozen=True, slots=True)
class _Field:
    """What a field must be, in words and as a check, and the code of the problem if it is not."""

    requirement: str
    accepts: Callable[[object], bool]
    code: str


def _problems(path: str, own: object, fields: Mapping[str, _Field]) -> list[Problem]:
    if own is None:
        return []
    if not isinstance(own, Mapping):
        return [Problem(path, f"must be a mapping with {', '.join(fields)}, not {shown(own)}", "type")]
    problems = [
        Problem(f"{path}.{name}", f"is not a known field{suggestion_hint(name, tuple(fields))}", "unknown")
        for name in own
        if name not in fields
    ]
    problems += [
        Problem(f"{path}.{name}", f"must be {field.requirement}, not {shown(own[name])}", field.code)
        for name, field in fields.items()
        if name in own and not field.accepts(own[name])
    ]
    return problems


def _number(accepts: Callable[[float], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and accepts(value)


def _one_of(values: list[str]) -> _Field:
    return _Field(f"one of {', '.join(values)}", lambda value: value in values, "invalid")


_PROBABILITY = _Field("a probability from 0 to 1", _number(lambda value: 0 <= value <= 1), "range")
_COST = _Field("a number greater than 0", _number(lambda value: 0 < value < math.inf), "range")
_FLAG = _Field("true or false", lambda value: isinstance(value, bool), "type")

_RISK_FIELDS = {
    "medium": _PROBABILITY,
    "high": _PROBABILITY,
    "at_high": _one_of([answer.value for answer in Gate]),
    "shadow": _FLAG,
}
_POLICY_FIELDS = {
    "mode": _one_of([mode.value for mode in PolicyMode]),
    "pause": _FLAG,
    "rollback": _FLAG,
    "attempt_cost": _COST,
    "failure_cost": _COST,
}
