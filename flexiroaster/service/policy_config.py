"""The failure policy configuration of a pipeline: `policy` in its `config`, which overrides the settings.

`{"mode": "act", "pause": true, "rollback": true, "attempt_cost": 1, "failure_cost": 100}`; every field is optional.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flexiroaster.config import PolicyMode, Settings
from flexiroaster.errors import Problem
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.model.validation_messages import shown
from flexiroaster.safety.policy import Costs, PolicyRules
from flexiroaster.service.safety.config import unknown_fields

__all__ = ["policy_of", "policy_problems"]

FIELDS = ("mode", "pause", "rollback", "attempt_cost", "failure_cost")
PATH = "config.policy"


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
        return [Problem(PATH, f"must be a mapping with {', '.join(FIELDS)}, not {shown(own)}", "type")]
    problems = unknown_fields(PATH, own, FIELDS)
    modes = [mode.value for mode in PolicyMode]
    if "mode" in own and own["mode"] not in modes:
        problems.append(Problem(f"{PATH}.mode", f"must be one of {', '.join(modes)}, not {shown(own['mode'])}"))
    problems += [
        Problem(f"{PATH}.{name}", f"must be true or false, not {shown(own[name])}", "type")
        for name in ("pause", "rollback")
        if name in own and not isinstance(own[name], bool)
    ]
    problems += [
        Problem(f"{PATH}.{name}", f"must be a number greater than 0, not {shown(own[name])}", "range")
        for name in ("attempt_cost", "failure_cost")
        if name in own and not _is_cost(own[name])
    ]
    return problems


def _is_cost(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
