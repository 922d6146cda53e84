"""Conditional reads of definitions, by RFC 9110: a tag that changes with the pipeline.

The tag is a weak one: an answer that is compressed on the way is still the same definition.
"""

from __future__ import annotations

from flexiroaster.service.pipelines import Revision

__all__ = ["headers", "matches", "of"]


def of(revision: Revision) -> str:
    """The tag of a pipeline as it is now. Deleting it and making it anew begins another series of tags."""
    changed = revision.updated_at or revision.created_at
    return f'W/"{revision.revision}-{changed.timestamp():.6f}"'


def matches(given: str | None, tag: str) -> bool:
    """Whether a client that sends `If-None-Match: given` has this version: any of its tags, or `*`."""
    if given is None:
        return False
    tags = [each.strip().removeprefix("W/") for each in given.split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags


def headers(tag: str) -> dict[str, str]:
    """What an answer with this tag says: keep it, and ask each time whether it still holds."""
    return {"etag": tag, "cache-control": "private, no-cache"}
