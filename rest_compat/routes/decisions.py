"""Decisions about an execution: look at them, and have something else done."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path

from flexiroaster.errors import InputError, NotFoundError
from flexiroaster.service import decisions
from rest_compat.calls import Operating, Reading
from rest_compat.models.base import Done, Refusal, Responses
from rest_compat.models.decisions import Decision, Decisions, OverrideRequest
from rest_compat.parameters import ExecutionId, Text

__all__ = ["router"]

router = APIRouter(prefix="/executions/{execution_id}/decisions", tags=["executions"])

_UNKNOWN: Responses = {404: {"model": Refusal, "description": "There is no such execution."}}
_OVERRIDE: Responses = {
    400: {"model": Refusal, "description": "Its status does not allow that, or the action does not fit the decision."},
    404: {"model": Refusal, "description": "There is no such decision about that execution."},
    409: {"model": Refusal, "description": "Something was decided since, or the pipeline runs already."},
}

DecisionId = Annotated[Text, Path(description="The decision's id.")]


@router.get("", responses=_UNKNOWN)
def list_decisions(call: Reading, execution_id: ExecutionId) -> Decisions:
    """What the safety engine decided about an execution, why, and what people had done instead; oldest first."""
    found = decisions.of_execution(call.installation, execution_id)
    return Decisions(decisions=[Decision.of(row) for row in found], total=len(found))


@router.post("/{decision_id}/override", responses=_OVERRIDE)
def override_decision(
    call: Operating, execution_id: ExecutionId, decision_id: DecisionId, asked: OverrideRequest
) -> Done:
    """Have something else done than was decided."""
    try:
        with call.audited("overrideDecision", decision_id, asked.model_dump(mode="json")):
            if decisions.get(call.installation, decision_id).execution_id != execution_id:
                raise NotFoundError(f"Decision not found: {decision_id}", decision_id=decision_id)
            decisions.override(
                call.installation, decision_id, asked.action, asked.reason, requested_by=call.viewer.name
            )
    except InputError as error:  # the body holds: what is asked for does not fit the decision
        raise HTTPException(400, error.message) from error
    return Done(message=f"{asked.action.capitalize()} requested instead of decision {decision_id}")
