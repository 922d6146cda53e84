"""The routes of the safety engine: decisions about an execution and their overrides, insights."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query

from flexiroaster.errors import InputError, NotFoundError
from flexiroaster.service.safety import decisions, insights
from rest_compat.dependencies import EmptyIsAbsent, ExecutionId, Hours, Limit, Operating, Reading, Text
from rest_compat.models import Done
from rest_compat.models.safety import Decision, Decisions, FalseAlarms, Insight, Insights, OverrideRequest
from rest_compat.responses import refusals

__all__ = ["decisions_router", "insights_router"]


decisions_router = APIRouter(prefix="/{execution_id}/decisions")
"""The routes below an execution."""

insights_router = APIRouter(tags=["insights"])

_OVERRIDE = refusals(
    {
        400: "The execution's status does not allow it, or the action does not fit the decision.",
        404: "The execution has no such decision.",
        409: "A newer decision exists, or the pipeline's concurrency limit is reached.",
    }
)

DecisionId = Annotated[Text, Path(description="The id of the decision.")]
OfPipeline = Annotated[Text | None, EmptyIsAbsent(), Query(description="Return only insights about this pipeline.")]
OfExecution = Annotated[Text | None, EmptyIsAbsent(), Query(description="Return only insights about this execution.")]
UnresolvedOnly = Annotated[bool, Query(description="Return only insights whose cause persists.")]


@decisions_router.get("", responses=refusals({404: "There is no such execution."}))
def list_decisions(call: Reading, execution_id: ExecutionId) -> Decisions:
    """The decisions of the safety engine about an execution, with reasons and overrides, oldest first."""
    rows = decisions.of_execution(call.installation, execution_id)
    return Decisions(decisions=[Decision.of(row) for row in rows], total=len(rows))


@decisions_router.post("/{decision_id}/override", responses=_OVERRIDE)
def override_decision(
    call: Operating, execution_id: ExecutionId, decision_id: DecisionId, override: OverrideRequest
) -> Done:
    """Override a decision with another action."""
    try:
        with call.audited("overrideDecision", decision_id, override.model_dump(mode="json")):
            if decisions.get(call.installation, decision_id).execution_id != execution_id:
                raise NotFoundError(f"Decision not found: {decision_id}", decision_id=decision_id)
            decisions.override(
                call.installation, decision_id, override.action, override.reason, requested_by=call.viewer.name
            )
    except InputError as error:  # the body is valid, but the action does not fit the decision
        raise HTTPException(400, error.message) from error
    return Done(message=f"{override.action.capitalize()} requested instead of decision {decision_id}")


@insights_router.get("/insights")
def list_insights(
    call: Reading,
    pipeline_id: OfPipeline = None,
    execution_id: OfExecution = None,
    unresolved_only: UnresolvedOnly = False,
    hours: Hours = 24,
    limit: Limit = 50,
) -> Insights:
    """The insights of the safety engine from the last `hours`, newest first."""
    rows, total = insights.listing(
        call.installation,
        pipeline_id=pipeline_id,
        execution_id=execution_id,
        unresolved_only=unresolved_only,
        hours=hours,
        limit=limit,
    )
    accuracy = [FalseAlarms.from_row(row) for row in insights.accuracy(call.installation)]
    return Insights(insights=[Insight.from_row(row) for row in rows], total=total, false_alarms=accuracy)
