"""Pipelines: create, revise, read, activate, deactivate and delete them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from flexiroaster.errors import ConflictError, DefinitionError, NotFoundError, Problem
from flexiroaster.model.pipeline import RESPONSE_FIELDS, Pipeline
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.service.definition import check, with_defaults
from flexiroaster.service.installation import Installation, from_store
from flexiroaster.store import pipelines
from flexiroaster.store.pipelines import PipelineFilter, PipelineRow, PipelineSort, Revision, RevisionRow

__all__ = [
    "Change",
    "ChangeKind",
    "PipelineFilter",
    "PipelineRow",
    "PipelineSort",
    "Revision",
    "RevisionRow",
    "activate",
    "by_ids",
    "by_keys",
    "count",
    "create",
    "deactivate",
    "definition",
    "delete",
    "diff",
    "differences",
    "get",
    "listing",
    "offset_page",
    "page",
    "replace",
    "revision_rows",
    "revisions",
    "save",
    "update",
]


# --- write -----------------------------------------------------------------------------------------------------------


def create(installation: Installation, raw: object) -> Revision:
    """Check a definition and store it as a new pipeline. Raises DefinitionError, ConflictError (the id is taken)."""
    pipeline = with_defaults(check(raw, installation.access), installation.settings)
    pipeline_id = pipeline.id or f"pipeline-{secrets.token_hex(6)}"
    return pipelines.create(installation.database, pipeline.model_copy(update={"id": pipeline_id}))


def replace(
    installation: Installation, pipeline_id: str, raw: object, expected_revision: int | None = None
) -> Revision:
    """Check a definition and store it as the next revision of a pipeline; existing executions keep their revision.

    A definition without `is_active` leaves the pipeline active or inactive as it is.

    Raises DefinitionError, NotFoundError, ConflictError (the pipeline is no longer at `expected_revision`).
    """
    pipeline = with_defaults(check(raw, installation.access), installation.settings)
    pipeline = pipeline.model_copy(update={"id": pipeline_id})
    fields = raw.model_fields_set if isinstance(raw, Pipeline) else raw
    keep_active = isinstance(fields, Collection) and "is_active" not in fields
    return pipelines.replace(installation.database, pipeline, expected_revision, keep_active=keep_active)


def save(installation: Installation, raw: object) -> Revision:
    """Create the pipeline, or its next revision if a pipeline with the id exists."""
    if isinstance(raw, Pipeline) and raw.id is not None:
        pipeline_id: str | None = raw.id
    else:
        pipeline_id = raw.get("id") if isinstance(raw, Mapping) else None
    if pipeline_id is not None:
        try:
            return replace(installation, pipeline_id, raw)
        except NotFoundError:
            pass  # the pipeline does not exist yet
    try:
        return create(installation, raw)
    except ConflictError:
        if pipeline_id is None:
            raise
        return replace(installation, pipeline_id, raw)  # another process has just created it


def update(
    installation: Installation, pipeline_id: str, changes: Mapping[str, Any], expected_revision: int | None = None
) -> Revision:
    """Replace some fields of a definition and keep the others; the resulting definition is checked completely.

    None resets a field to its default. Fields that only responses have (`revision`, `created_at`) are ignored, so a
    client can send back an edited response. Raises DefinitionError, NotFoundError, ConflictError (the pipeline is no
    longer at `expected_revision`, or another request changed it at the same time).
    """
    present = pipelines.get(installation.database, pipeline_id)
    changes = {name: value for name, value in changes.items() if name not in RESPONSE_FIELDS}
    unknown = [name for name in changes if name not in Pipeline.model_fields]
    if unknown:
        known = list(Pipeline.model_fields)
        raise DefinitionError(
            Problem(n, f"is not a known field{suggestion_hint(n, known)}", "extra_forbidden") for n in unknown
        )
    if changes.get("id", pipeline_id) != pipeline_id:
        raise DefinitionError([Problem("id", "cannot be changed", "fixed")])
    document = {**present.pipeline.document(), **changes}
    whole = {name: value for name, value in document.items() if value is not None or name == "concurrency"}
    expected = present.revision if expected_revision is None else expected_revision
    return replace(installation, pipeline_id, whole, expected)


def activate(installation: Installation, pipeline_id: str) -> None:
    """Activate a pipeline so it can be started. Raises NotFoundError."""
    pipelines.set_active(installation.database, pipeline_id, True)


def deactivate(installation: Installation, pipeline_id: str) -> None:
    """Deactivate a pipeline so it cannot be started; live executions continue. Raises NotFoundError."""
    pipelines.set_active(installation.database, pipeline_id, False)


delete = from_store(pipelines.delete)

# --- read ------------------------------------------------------------------------------------------------------------


def definition(installation: Installation, pipeline_id: str, revision: int) -> Pipeline:
    """Read the definition of a pipeline at a revision for display.

    A revision never changes, so it may come from a cache. Raises NotFoundError.
    """
    signals = installation.open_signals
    if signals is None:
        return installation.definition(pipeline_id, revision)
    load = partial(pipelines.definition, installation.database, pipeline_id, revision)
    return signals.definitions.get_for_display(pipeline_id, revision, load)


get = from_store(pipelines.get)
listing = from_store(pipelines.listing)
page = from_store(pipelines.pipeline_page)
offset_page = from_store(pipelines.pipeline_offset_page)
count = from_store(pipelines.pipeline_count)
by_ids = from_store(pipelines.pipelines_by_id)
by_keys = from_store(pipelines.by_keys)
revision_rows = from_store(pipelines.revision_rows)
revisions = from_store(pipelines.revision_page)


# --- differences of two definitions: field by field, with stages matched by id ---------------------------------------


class ChangeKind(StrEnum):
    """What happened to a field or a stage."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `path` looks like `variables.day` or `stages[load].config.path`; both values are JSON.

    A list is compared as one value, except `stages`: a new order of stages is one change at `stages`, with their ids.
    """

    path: str
    kind: ChangeKind
    before: Any = None
    after: Any = None


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """List the changes from one definition (from `Pipeline.document`) to another, in the order of their fields."""
    old, new = ({stage["id"]: stage for stage in document["stages"]} for document in (before, after))
    changes = list(_between("", _without_stages(before), _without_stages(after)))
    if [stage_id for stage_id in old if stage_id in new] != [stage_id for stage_id in new if stage_id in old]:
        changes.append(Change("stages", ChangeKind.CHANGED, list(old), list(new)))
    for stage_id in dict.fromkeys((*old, *new)):
        changes += _of_stage(f"stages[{stage_id}]", old.get(stage_id), new.get(stage_id))
    return changes


def _without_stages(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "stages"}


def _of_stage(path: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[Change]:
    if before is None:
        yield Change(path, ChangeKind.ADDED, after=after)
    elif after is None:
        yield Change(path, ChangeKind.REMOVED, before=before)
    else:
        yield from _between(path, before, after)


def _between(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys((*before, *after)):
        here = f"{path}.{name}" if path else name
        if name not in after:
            yield Change(here, ChangeKind.REMOVED, before=before[name])
        elif name not in before:
            yield Change(here, ChangeKind.ADDED, after=after[name])
        elif isinstance(before[name], Mapping) and isinstance(after[name], Mapping):
            yield from _between(here, before[name], after[name])
        elif not _equal(before[name], after[name]):
            yield Change(here, ChangeKind.CHANGED, before[name], after[name])


def _equal(before: object, after: object) -> bool:
    """Compare as JSON values: 1 equals 1.0 but not True, although all three are equal in Python."""
    if isinstance(before, bool) is not isinstance(after, bool):
        return False
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_equal, before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() == after.keys() and all(_equal(before[key], after[key]) for key in before)
    return before == after


def diff(installation: Installation, pipeline_id: str, before: int, after: int) -> list[Change]:
    """List the changes between two revisions of a pipeline. Raises NotFoundError (pipeline, revision)."""
    found = pipelines.by_keys(installation.database, [(pipeline_id, before), (pipeline_id, after)])
    for revision in (before, after):
        if (pipeline_id, revision) not in found:
            message = f"Pipeline {pipeline_id} has no revision {revision}"
            raise NotFoundError(message, pipeline_id=pipeline_id, revision=revision)
    return differences(*(found[pipeline_id, revision].pipeline.document() for revision in (before, after)))
