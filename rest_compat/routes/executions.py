"""The routes of executions: list, read, stop, pause and resume them, and read their logs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from flexiroaster.model.event import Level, utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.executions.executions import ExecutionFilter
from flexiroaster.service.paging import Window
from rest_compat.models.base import Done, Refusal, Responses
from rest_compat.models.executions import ExecutionDetail, ExecutionList, ExecutionSummary, LogLine, Logs
from rest_compat.parameters import LARGEST, Cursor, EmptyIsAbsent, ExecutionId, Hours, Limit, Skip, Text
from rest_compat.requests import Call, Operating, Reading

__all__ = ["router"]

router = APIRouter(prefix="/executions", tags=["executions"])

_UNKNOWN: Responses = {404: {"model": Refusal, "description": "There is no such execution."}}
_STATUS: Responses = {400: {"model": Refusal, "description": "The execution's status does not allow it."}}

_RUNNING = ExecutionFilter(statuses=(ExecutionStatus.RUNNING,))

OfPipeline = Annotated[
    Text | None, EmptyIsAbsent(), Query(description="Return only executions of this pipeline, of any age.")
]
InStatus = Annotated[
    ExecutionStatus | None, EmptyIsAbsent(), Query(description="Return only executions with this status.")
]
AtLeast = Annotated[Level | None, EmptyIsAbsent(), Query(description="Return only lines at or above this level.")]
AfterLine = Annotated[int, Query(ge=0, le=LARGEST, description="Return only lines after this id.")]


@router.get("")
def list_executions(
    call: Reading,
    pipeline_id: OfPipeline = None,
    status: InStatus = None,
    hours: Hours = 24,
    skip: Skip = 0,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> ExecutionList:
    """The executions, newest first: all those of a given pipeline, otherwise those of the last `hours`."""
    wanted = ExecutionFilter(
        pipeline_ids=None if pipeline_id is None else (pipeline_id,),
        statuses=None if status is None else (status,),
        created_after=utc_now() - timedelta(hours=hours) if pipeline_id is None else None,
    )
    return _listed(call, wanted, skip, limit, cursor)


@router.get("/running")
def list_running_executions(call: Reading, skip: Skip = 0, limit: Limit = 100, cursor: Cursor = None) -> ExecutionList:
    """The executions that are running, newest first."""
    return _listed(call, _RUNNING, skip, limit, cursor)


@router.get("/{execution_id}", responses=_UNKNOWN)
def get_execution(call: Reading, execution_id: ExecutionId) -> ExecutionDetail:
    """An execution with its stages."""
    row = executions.get(call.installation, execution_id)
    return ExecutionDetail.of_rows(row, executions.stages(call.installation, execution_id))


@router.post("/{execution_id}/stop", responses={**_UNKNOWN, **_STATUS})
def stop_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Stop an execution: its stages are asked to end, and killed after a grace period."""
    return _asked(call, "stop", commands.stop, execution_id)


@router.post("/{execution_id}/pause", responses={**_UNKNOWN, **_STATUS})
def pause_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Pause an execution: no further stage starts until it is resumed; running stages may finish."""
    return _asked(call, "pause", commands.pause, execution_id)


@router.post("/{execution_id}/resume", responses={**_UNKNOWN, **_STATUS})
def resume_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Resume a paused execution."""
    return _asked(call, "resume", commands.resume, execution_id)


@router.get("/{execution_id}/logs", responses=_UNKNOWN)
def get_logs(
    call: Reading, execution_id: ExecutionId, level: AtLeast = None, limit: Limit = 500, after: AfterLine = 0
) -> Logs:
    """The log of an execution, oldest line first."""
    least = level or Level.DEBUG
    lines = executions.logs(call.installation, execution_id, level=least, after=after, limit=limit)
    total = executions.count_logs(call.installation, execution_id, level=least)
    last = lines[-1].seq if lines else after
    return Logs(logs=[LogLine.of(event) for event in lines], total=total, after=last)


def _listed(call: Call, wanted: ExecutionFilter, skip: int, limit: int, cursor: str | None) -> ExecutionList:
    """Read a page, by offset or by cursor."""
    if cursor is None:
        rows, total = executions.part(call.installation, wanted, skip, limit, _UNSHOWN)
        more = skip + len(rows) < total
    else:
        window = Window(first=limit, after=cursor)
        page = executions.page(call.installation, wanted, window=window, leave_out=_UNSHOWN)
        rows, more, total = list(page.items), page.has_next, executions.count(call.installation, wanted)
    following = executions.cursor(rows[-1]) if rows and more else None
    return ExecutionList(executions=[ExecutionSummary.of(row) for row in rows], total=total, cursor=following)


_UNSHOWN = frozenset({"variables"})


def _asked(call: Call, what: str, ask: Callable[..., None], execution_id: str) -> Done:
    with call.audited(f"{what}Execution", execution_id, {}):
        ask(call.installation, execution_id, requested_by=call.viewer.name)
    return Done(message=f"{what.capitalize()} requested: {execution_id}")
