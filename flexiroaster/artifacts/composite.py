"""Composite tables: several files side by side, so that columns a stage leaves unchanged are not copied.

The summary of such a table has two more fields. `order` names all its columns. `beside` lists the files with the
columns that the stage did not write, each as `{url, bytes, checksum, columns, where}`. Row n of the table is row n of
every file. `where` filters the rows of a file: it is `{url, bytes, checksum}` of a file with one boolean column, and
row n of the table is row n of the rows for which that column is true. The summary's own file, at `url`, can have a
`where` too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Part",
    "can_map",
    "combine_columns",
    "is_worth_selecting",
    "is_worth_sharing",
    "map_file",
    "parts_of",
    "select_rows",
    "total_bytes",
]

MIN_BYTES_TO_SHARE = 1 << 20
"""Smaller tables are copied, because a single file is simpler."""

MAX_FILES = 8
"""A table that would need more files is written as one: each file must be opened and can be missing."""

MIN_BYTES_TO_MAP = 4 * 1024 * 1024
"""Smaller files are read faster than pyarrow is imported."""

MAX_BYTES_TO_MAP = 256 * 1024 * 1024
"""Larger files are streamed: mapped pages count as process memory, although the system can reclaim them."""

_FLAT = re.compile(r"U?Int(8|16|32|64)|Float(32|64)|Boolean|String|Binary|Date|Time|Duration\(.*|Datetime\(.*")


class Part(NamedTuple):
    """One file, and the columns and rows of it that belong to the table; None means all."""

    url: str
    bytes: int
    checksum: str
    columns: Sequence[str] | None = None
    where: Mapping[str, Any] | None = None


def parts_of(summary: Mapping[str, Any]) -> list[Part]:
    """The files of a table; the first one is the summary's own."""
    own = Part(summary["url"], summary["bytes"], summary["checksum"], None, summary.get("where"))
    if "order" not in summary:
        return [own]
    others = [Part(**fields) for fields in summary["beside"]]
    elsewhere = {name for part in others for name in part.columns or ()}
    return [own._replace(columns=[name for name in summary["order"] if name not in elsewhere]), *others]


def total_bytes(summary: Mapping[str, Any]) -> int:
    """Total size of all files of a table, in bytes."""
    return sum(part.bytes for part in parts_of(summary))


def is_worth_sharing(base: Mapping[str, Any], columns: Collection[str]) -> bool:
    """Whether a table with these columns of `base` should refer to the files of `base` rather than copy from them."""
    parts = _parts_with(base, columns)
    return sum(part.bytes for part in parts) >= MIN_BYTES_TO_SHARE and len(parts) < MAX_FILES


def is_worth_selecting(base: Mapping[str, Any], rows: int) -> bool:
    """Whether a table with `rows` rows of `base` should refer to the files of `base` rather than copy from them."""
    parts = parts_of(base)
    return (
        total_bytes(base) >= MIN_BYTES_TO_SHARE
        and 2 * rows >= base["rows"]
        and all(part.where is None for part in parts)
    )


def select_rows(base: Mapping[str, Any], where: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Summary of a table with the `rows` rows of `base` for which the boolean column in the file `where` is true."""
    chosen = {field: where[field] for field in ("url", "bytes", "checksum")}
    selected = {**base, "rows": rows, "where": chosen}
    if "beside" in base:
        selected["beside"] = [{**part, "where": chosen} for part in base["beside"]]
    return selected


def combine_columns(
    own: Mapping[str, Any] | None, base: Mapping[str, Any], schema: Mapping[str, str]
) -> dict[str, Any]:
    """Summary of a table with the columns of `schema`: some are in the new file `own`, the others in `base`."""
    fresh = own["schema"] if own is not None else {}
    parts = _parts_with(base, [name for name in schema if name not in fresh])
    if own is not None:
        parts.insert(0, Part(own["url"], own["bytes"], own["checksum"], list(fresh)))
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


def _parts_with(base: Mapping[str, Any], columns: Collection[str]) -> list[Part]:
    """The files of `base` that contain any of these columns, limited to these columns."""
    wanted = set(columns)
    found = []
    for part in parts_of(base):
        names = base["schema"] if part.columns is None else part.columns
        if shared := [name for name in names if name in wanted]:
            found.append(part._replace(columns=shared))
    return found


# --- memory mapping: frames whose columns are the mapped file, without copies and without validation ---------------


def can_map(size: int, types: Iterable[str]) -> bool:
    """Whether pyarrow can map a file of this size, with columns of these types, without conversion."""
    return MIN_BYTES_TO_MAP <= size <= MAX_BYTES_TO_MAP and all(_FLAT.fullmatch(dtype) for dtype in types)


def map_file(path: Path) -> pl.LazyFrame:
    """Map the file as a table. It stays mapped while any of its columns is in use."""
    import polars as pl
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            table = pl.from_arrow(pa.ipc.open_file(source).read_all())  # pl.DataFrame(...) would copy
    except pa.ArrowNotImplementedError:  # the file has a column of another type that the table does not use
        return pl.scan_ipc(path, glob=False, hive_partitioning=False)
    return cast("pl.DataFrame", table).lazy()
