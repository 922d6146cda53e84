"""A table in several files side by side: columns that a stage leaves as they are stay in the file they are in.

The summary of such a table has two fields more. `order` names all its columns, `beside` the files that hold those
which the stage did not write: `{url, bytes, checksum, columns, where}` each. Row n of the table is row n of every file,
where `where` is given row n of those for which it is true: it is `{url, bytes, checksum}` of a file with one boolean
column. The summary's own file, at `url`, can have a `where`, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "LEAST_BYTES",
    "MOST_FILES",
    "Part",
    "parts_of",
    "put_beside",
    "select_rows",
    "total_bytes",
    "worth_selecting",
    "worth_sharing",
]

LEAST_BYTES = 1 << 20
"""Less is copied: a table in one file is simpler."""

MOST_FILES = 8
"""A table in more files is written as one: every file is one to open and one that can be missing."""


class Part(NamedTuple):
    """One file, and which of its columns and rows belong to the table; None: all."""

    url: str
    bytes: int
    checksum: str
    columns: Sequence[str] | None = None
    where: Mapping[str, Any] | None = None


def parts_of(summary: Mapping[str, Any]) -> list[Part]:
    """The files of a table; the first is the summary's own."""
    own = Part(summary["url"], summary["bytes"], summary["checksum"], None, summary.get("where"))
    if "order" not in summary:
        return [own]
    others = [Part(**fields) for fields in summary["beside"]]
    elsewhere = {name for part in others for name in part.columns or ()}
    return [own._replace(columns=[name for name in summary["order"] if name not in elsewhere]), *others]


def total_bytes(summary: Mapping[str, Any]) -> int:
    """The size of all files of a table."""
    return sum(part.bytes for part in parts_of(summary))


def worth_sharing(base: Mapping[str, Any], columns: Collection[str]) -> bool:
    """Whether a table that has these columns of `base` should refer to its files rather than copy from them."""
    kept = _kept(base, columns)
    return sum(part.bytes for part in kept) >= LEAST_BYTES and len(kept) < MOST_FILES


def worth_selecting(base: Mapping[str, Any], rows: int) -> bool:
    """Whether a table of so many of the rows of `base` should refer to its files rather than copy from them."""
    parts = parts_of(base)
    return total_bytes(base) >= LEAST_BYTES and 2 * rows >= base["rows"] and all(part.where is None for part in parts)


def select_rows(base: Mapping[str, Any], where: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The summary of a table with those `rows` rows of `base` for which the column in `where`, a file, is true."""
    chosen = {field: where[field] for field in ("url", "bytes", "checksum")}
    selected = {**base, "rows": rows, "where": chosen}
    if "beside" in base:
        selected["beside"] = [{**part, "where": chosen} for part in base["beside"]]
    return selected


def put_beside(own: Mapping[str, Any] | None, base: Mapping[str, Any], schema: Mapping[str, str]) -> dict[str, Any]:
    """The summary of a table with the columns of `schema`: those of `own`, a file of its own, the others of `base`."""
    fresh = own["schema"] if own is not None else {}
    kept = _kept(base, [name for name in schema if name not in fresh])
    parts = kept if own is None else [Part(own["url"], own["bytes"], own["checksum"], list(fresh)), *kept]
    first, *others = parts
    return {
        "url": first.url,
        "rows": base["rows"],
        "columns": len(schema),
        "bytes": first.bytes,
        "schema": dict(schema),
        "checksum": first.checksum,
        "order": list(schema),
        "beside": [part._asdict() for part in others],
        **({"where": first.where} if first.where is not None else {}),
    }


def _kept(base: Mapping[str, Any], columns: Collection[str]) -> list[Part]:
    """The files of `base` that hold any of these columns, with those only."""
    wanted = set(columns)
    named = [
        part if part.columns is not None else part._replace(columns=list(base["schema"])) for part in parts_of(base)
    ]
    kept = [part._replace(columns=[name for name in part.columns or () if name in wanted]) for part in named]
    return [part for part in kept if part.columns]
