"""What a pipeline may leave to the policy, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from flexiroaster.config import PolicyMode, load_settings
from flexiroaster.errors import DefinitionError
from flexiroaster.operators.base import Access
from flexiroaster.safety.policy import Costs, PolicyRules
from flexiroaster.service.definition import check
from flexiroaster.service.safety.config import policy_of


def pipeline(policy: Any) -> dict[str, Any]:
    stage = {"id": "a", "type": "input", "config": {"source": "api"}}
    return {"name": "p", "stages": [stage], "config": {"policy": policy}}


def test_a_pipeline_goes_before_the_settings() -> None:
    settings = load_settings(ai_policy=PolicyMode.SHADOW, ai_policy_pause=True, ai_policy_failure_cost=5)
    assert policy_of(check(pipeline({}), Access()), settings) == PolicyRules(
        PolicyMode.SHADOW, pause=True, rollback=False, costs=Costs(1.0, 5.0)
    )
    own = {"mode": "act", "pause": False, "rollback": True, "attempt_cost": 2, "failure_cost": 100}
    assert policy_of(check(pipeline(own), Access()), settings) == PolicyRules(
        PolicyMode.ACT, pause=False, rollback=True, costs=Costs(2.0, 100.0)
    )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (3, "config.policy: must be a mapping with mode, pause, rollback, attempt_cost, failure_cost, not 3"),
        ({"mod": "act"}, "config.policy.mod: is not a known field; did you mean 'mode'?"),
        ({"mode": "on"}, 'config.policy.mode: must be one of off, shadow, act, not "on"'),
        ({"pause": "yes"}, 'config.policy.pause: must be true or false, not "yes"'),
        ({"rollback": 1}, "config.policy.rollback: must be true or false, not 1"),
        ({"attempt_cost": 0}, "config.policy.attempt_cost: must be a number greater than 0, not 0"),
        ({"failure_cost": True}, "config.policy.failure_cost: must be a number greater than 0, not true"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_path(policy: Any, message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        check(pipeline(policy), Access())
    assert [str(problem) for problem in caught.value.problems] == [message]
