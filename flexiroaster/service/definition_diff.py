"""Diff of two definitions: field by field, with stages matched by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Change", "ChangeKind", "differences"]


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
    kept = [stage_id for stage_id in old if stage_id in new]
    if kept != [stage_id for stage_id in new if stage_id in old]:
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
