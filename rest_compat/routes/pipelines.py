"""The routes of pipelines: create, list, read, update, delete, activate and deactivate them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from flexiroaster.service import pipelines
from flexiroaster.service.pipelines import PipelineFilter, PipelineSort, Revision
from rest_compat.dependencies import EmptyIsAbsent, Operating, PipelineId, Reading, RequestedPage
from rest_compat.models import Done
from rest_compat.models.pipelines import Changes, Definition, PipelineDetail, PipelineList, PipelineSummary
from rest_compat.responses import links, refusals

__all__ = ["router"]

router = APIRouter(prefix="/pipelines", tags=["pipelines"])

_UNKNOWN = refusals({404: "There is no such pipeline."})
_CONFLICT = refusals({409: "The request conflicts with the stored state."})
_LINKS = links(
    "pipeline_id",
    "$response.body#/id",
    "get_pipeline",
    "update_pipeline",
    "activate_pipeline",
    "deactivate_pipeline",
    "execute_pipeline",
    "delete_pipeline",
)

IsActive = Annotated[
    bool | None, EmptyIsAbsent(), Query(description="Return only active, or only inactive, pipelines.")
]
IfNoneMatch = Annotated[str | None, Header(description="The `ETag` of the client's copy.")]


@router.post("", status_code=201, responses={201: _LINKS, **_CONFLICT})
def create_pipeline(call: Operating, definition: Definition) -> PipelineDetail:
    """Validate a definition completely and store it as a new pipeline."""
    with call.audited("createPipeline", None, definition):
        return PipelineDetail.of_revision(pipelines.create(call.installation, definition))


@router.get("")
def list_pipelines(call: Reading, requested: RequestedPage, is_active: IsActive = None) -> PipelineList:
    """The pipelines, oldest first."""
    installation, wanted = call.installation, PipelineFilter(is_active=is_active)
    rows, total, cursor = requested.read(
        lambda skip, limit: pipelines.offset_page(installation, wanted, skip, limit),
        lambda window: pipelines.page(installation, wanted, window=window),
        lambda: pipelines.count(installation, wanted),
        PipelineSort.OLDEST.value.cursor,
    )
    return PipelineList(pipelines=[PipelineSummary.of(row) for row in rows], total=total, cursor=cursor)


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
    tag = _etag(revision)
    headers = {"etag": tag, "cache-control": "private, no-cache"}  # clients may cache it, but must revalidate each time
    if _matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
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
        pipelines.activate(call.installation, pipeline_id)
    return Done(message=f"Pipeline activated: {pipeline_id}")


@router.post("/{pipeline_id}/deactivate", responses=_UNKNOWN)
def deactivate_pipeline(call: Operating, pipeline_id: PipelineId) -> Done:
    """Deactivate the pipeline so it cannot be started; live executions continue."""
    with call.audited("deactivatePipeline", pipeline_id, {}):
        pipelines.deactivate(call.installation, pipeline_id)
    return Done(message=f"Pipeline deactivated: {pipeline_id}")


def _etag(revision: Revision) -> str:
    """The ETag of a pipeline (RFC 9110). A pipeline that is deleted and created again gets different tags."""
    changed = revision.updated_at or revision.created_at
    return f'W/"{revision.revision}-{changed.timestamp():.6f}"'


def _matches(if_none_match: str | None, tag: str) -> bool:
    """Whether the header `If-None-Match` matches the tag: it lists the tag, or is `*`."""
    tags = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags
