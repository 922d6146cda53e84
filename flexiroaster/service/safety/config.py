"""The risk gate configuration of a pipeline: `risk` in its `config`, which overrides the settings.

`{"medium": 0.3, "high": 0.6, "at_high": "require_approval", "shadow": true}`; every field is optional.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexiroaster.config import PolicyMode, Settings
from flexiroaster.errors import Problem
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.model.validation_messages import shown, suggestion_hint
from flexiroaster.safety.policy import Costs, PolicyRules
from flexiroaster.safety.risk.assessment import Gate, Thresholds

__all__ = ["GateRules", "policy_of", "policy_problems", "risk_problems", "rules_of", "unknown_fields"]


RISK_FIELDS = ("medium", "high", "at_high", "shadow")
RISK_PATH = "config.risk"


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


def risk_problems(pipeline: Pipeline) -> list[Problem]:
    """Return the problems in a pipeline's gate configuration."""
    own = pipeline.config.get("risk")
    if own is None:
        return []
    if not isinstance(own, Mapping):
        return [Problem(RISK_PATH, f"must be a mapping with {', '.join(RISK_FIELDS)}, not {shown(own)}", "type")]
    problems = unknown_fields(RISK_PATH, own, RISK_FIELDS)
    problems += [
        Problem(f"{RISK_PATH}.{name}", f"must be a probability from 0 to 1, not {shown(own[name])}", "range")
        for name in ("medium", "high")
        if name in own and not _is_probability(own[name])
    ]
    answers = [answer.value for answer in Gate]
    if "at_high" in own and own["at_high"] not in answers:
        problems.append(
            Problem(f"{RISK_PATH}.at_high", f"must be one of {', '.join(answers)}, not {shown(own['at_high'])}")
        )
    if "shadow" in own and not isinstance(own["shadow"], bool):
        problems.append(Problem(f"{RISK_PATH}.shadow", f"must be true or false, not {shown(own['shadow'])}", "type"))
    if not problems and "medium" in own and "high" in own and own["medium"] > own["high"]:
        problems.append(Problem(f"{RISK_PATH}.medium", f"must not exceed high ({own['high']})", "range"))
    return problems


def unknown_fields(path: str, own: Mapping[str, Any], fields: tuple[str, ...]) -> list[Problem]:
    """Return a problem for every field of a mapping that is not in `fields`."""
    return [
        Problem(f"{path}.{name}", f"is not a known field{suggestion_hint(name, fields)}", "unknown")
        for name in own
        if name not in fields
    ]


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


# The failure policy configuration of a pipeline: `policy` in its `config`, which overrides the settings.
POLICY_FIELDS = ("mode", "pause", "rollback", "attempt_cost", "failure_cost")
POLICY_PATH = "config.policy"


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


def policy_problems(pipeline: Pipeline) -> list[Problem]:
    """Return the problems in a pipeline's policy configuration."""
    own = pipeline.config.get("policy")
    if own is None:
        return []
    if not isinstance(own, Mapping):
        return [Problem(POLICY_PATH, f"must be a mapping with {', '.join(POLICY_FIELDS)}, not {shown(own)}", "type")]
    problems = unknown_fields(POLICY_PATH, own, POLICY_FIELDS)
    modes = [mode.value for mode in PolicyMode]
    if "mode" in own and own["mode"] not in modes:
        problems.append(Problem(f"{POLICY_PATH}.mode", f"must be one of {', '.join(modes)}, not {shown(own['mode'])}"))
    problems += [
        Problem(f"{POLICY_PATH}.{name}", f"must be true or false, not {shown(own[name])}", "type")
        for name in ("pause", "rollback")
        if name in own and not isinstance(own[name], bool)
    ]
    problems += [
        Problem(f"{POLICY_PATH}.{name}", f"must be a number greater than 0, not {shown(own[name])}", "range")
        for name in ("attempt_cost", "failure_cost")
        if name in own and not _is_cost(own[name])
    ]
    return problems


def _is_cost(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
