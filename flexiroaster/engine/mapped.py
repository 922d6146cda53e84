"""Memory-mapped Arrow files: frames whose columns are the mapped file, without copies and without validation.

Polars' own reader copies every column it reads and validates all text. Here the caller has verified the whole file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LEAST_BYTES", "MOST_BYTES", "can_map", "map_file"]

LEAST_BYTES = 4 * 1024 * 1024
"""Smaller files are read faster than pyarrow is imported."""

MOST_BYTES = 256 * 1024 * 1024
"""Larger files are streamed: mapped pages count as process memory, although the system can reclaim them."""

_FLAT = re.compile(r"U?Int(8|16|32|64)|Float(32|64)|Boolean|String|Binary|Date|Time|Duration\(.*|Datetime\(.*")


def can_map(size: int, types: Iterable[str]) -> bool:
    """Whether pyarrow can map a file of this size, with columns of these types, without conversion."""
    return LEAST_BYTES <= size <= MOST_BYTES and all(_FLAT.fullmatch(dtype) for dtype in types)


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
