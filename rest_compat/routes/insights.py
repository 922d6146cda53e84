"""The route of insights: findings of the safety engine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from flexiroaster.service.safety import insights
from rest_compat.models.risk import FalseAlarms, Insight, Insights
from rest_compat.parameters import EmptyIsAbsent, Hours, Limit, Text
from rest_compat.requests import Reading

__all__ = ["router"]

router = APIRouter(tags=["insights"])

OfPipeline = Annotated[Text | None, EmptyIsAbsent(), Query(description="Return only insights about this pipeline.")]
OfExecution = Annotated[Text | None, EmptyIsAbsent(), Query(description="Return only insights about this execution.")]
UnresolvedOnly = Annotated[bool, Query(description="Return only insights whose cause persists.")]


@router.get("/insights")
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
    accuracy = [FalseAlarms.of(known) for known in insights.accuracy(call.installation)]
    return Insights(insights=[Insight.of(row) for row in rows], total=total, false_alarms=accuracy)
