"""The routes of pipelines: create, list, read, update, delete, activate and deactivate them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from flexiroaster.service import pipelines
from flexiroaster.service.pipelines import PipelineFilter, PipelineSort
from flexiroaster.service.reads import Window
from rest_compat import requests
from rest_compat.models.base import Done, Refusal, Responses
from rest_compat.models.pipelines import Changes, Definition, PipelineDetail, PipelineList, PipelineSummary
from rest_compat.requests import Cursor, EmptyIsAbsent, Limit, Operating, PipelineId, Reading, Skip

__all__ = ["router"]

router = APIRouter(prefix="/pipelines", tags=["pipelines"])

_UNKNOWN: Responses = {404: {"model": Refusal, "description": "There is no such pipeline."}}
_CONFLICT: Responses = {409: {"model": Refusal, "description": "The request conflicts with the stored state."}}

IsActive = Annotated[
    bool | None, EmptyIsAbsent(), Query(description="Return only active, or only inactive, pipelines.")
]
IfNoneMatch = Annotated[str | None, Header(description="The `ETag` of the client's copy.")]


@router.post("", status_code=201, responses={201: requests.PIPELINE, **_CONFLICT})
def create_pipeline(call: Operating, definition: Definition) -> PipelineDetail:
    """Validate a definition completely and store it as a new pipeline."""
    with call.audited("createPipeline", None, definition):
        return PipelineDetail.of_revision(pipelines.create(call.installation, definition))


@router.get("")
def list_pipelines(
    call: Reading, is_active: IsActive = None, skip: Skip = 0, limit: Limit = 100, cursor: Cursor = None
) -> PipelineList:
    """The pipelines, oldest first."""
    wanted = PipelineFilter(is_active=is_active)
    if cursor is None:
        rows, total = pipelines.offset_page(call.installation, wanted, skip, limit)
        more = skip + len(rows) < total
    else:
        page = pipelines.page(call.installation, wanted, window=Window(first=limit, after=cursor))
        rows, more, total = list(page.items), page.has_next, pipelines.count(call.installation, wanted)
    following = PipelineSort.OLDEST.value.cursor(rows[-1]) if rows and more else None
    return PipelineList(pipelines=[PipelineSummary.of(row) for row in rows], total=total, cursor=following)


@router.get(
    "/{pipeline_id}",
    response_model=PipelineDetail,
    responses={**_UNKNOWN, 304: {"description": "The client's copy is current."}},
)
def get_pipeline(
    call: Reading, pipeline_id: PipelineId, response: Response, if_none_match: IfNoneMatch = None
) -> Response | PipelineDetail:
    """A pipeline with its stages. The `ETag` changes with the pipeline."""
    revision = pipelines.get(call.installation, pipeline_id)
    tag = requests.of(revision)
    if requests.matches(if_none_match, tag):
        return Response(status_code=304, headers=requests.headers(tag))
    response.headers.update(requests.headers(tag))
    return PipelineDetail.of_revision(revision)


@router.put("/{pipeline_id}", responses={**_UNKNOWN, **_CONFLICT})
def update_pipeline(call: Operating, pipeline_id: PipelineId, changes: Changes) -> PipelineDetail:
    """Replace some fields of a pipeline; executions keep the revision they started with."""
    with call.audited("updatePipeline", pipeline_id, changes):
        return PipelineDetail.of_revision(pipelines.update(call.installation, pipeline_id, changes))


@router.delete("/{pipeline_id}", responses={**_UNKNOWN, **_CONFLICT})
def delete_pipeline(call: Operating, pipeline_id: PipelineId) -> Done:
    """Delete a pipeline and keep its history; refused while it has a live execution."""
    with call.audited("deletePipeline", pipeline_id, {}):
        pipelines.delete(call.installation, pipeline_id)
    return Done(message=f"Pipeline deleted: {pipeline_id}")


@router.post("/{pipeline_id}/activate", responses=_UNKNOWN)
def activate_pipeline(call: Operating, pipeline_id: PipelineId) -> Done:
    """Activate the pipeline so it can be started."""
    with call.audited("activatePipeline", pipeline_id, {}):
        pipelines.set_active(call.installation, pipeline_id, True)
    return Done(message=f"Pipeline activated: {pipeline_id}")


@router.post("/{pipeline_id}/deactivate", responses=_UNKNOWN)
def deactivate_pipeline(call: Operating, pipeline_id: PipelineId) -> Done:
    """Deactivate the pipeline so it cannot be started; live executions continue."""
    with call.audited("deactivatePipeline", pipeline_id, {}):
        pipelines.set_active(call.installation, pipeline_id, False)
    return Done(message=f"Pipeline deactivated: {pipeline_id}")
