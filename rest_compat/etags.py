"""ETags for conditional reads of definitions (RFC 9110): a tag changes with its pipeline.

Tags are weak, because a compressed response still contains the same definition.
"""

from __future__ import annotations

from flexiroaster.service.pipelines import Revision

__all__ = ["headers", "matches", "of"]


def of(revision: Revision) -> str:
    """Return the current tag of a pipeline. A pipeline that is deleted and created again gets different tags."""
    changed = revision.updated_at or revision.created_at
    return f'W/"{revision.revision}-{changed.timestamp():.6f}"'


def matches(given: str | None, tag: str) -> bool:
    """Whether the header `If-None-Match: given` matches the tag: it lists the tag, or is `*`."""
    if given is None:
        return False
    tags = [each.strip().removeprefix("W/") for each in given.split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags


def headers(tag: str) -> dict[str, str]:
    """Return the headers of a response with this tag: clients may cache it, but must revalidate it each time."""
    return {"etag": tag, "cache-control": "private, no-cache"}
