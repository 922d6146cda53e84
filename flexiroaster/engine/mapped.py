"""An Arrow file as a frame whose columns are the mapped file itself: nothing is copied, and nothing looked at.

Polars' own reader copies every column it reads, and checks all text. Here the caller has checked the file as a whole.
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
"""Less is read faster than pyarrow is imported."""

MOST_BYTES = 256 * 1024 * 1024
"""More is read piece by piece: what is mapped counts as the process's memory, although the system can take it back."""

_FLAT = re.compile(r"U?Int(8|16|32|64)|Float(32|64)|Boolean|String|Binary|Date|Time|Duration\(.*|Datetime\(.*")


def can_map(size: int, types: Iterable[str]) -> bool:
    """Whether a file of that size, with columns of these types, comes through pyarrow as it is."""
    return LEAST_BYTES <= size <= MOST_BYTES and all(_FLAT.fullmatch(dtype) for dtype in types)


def map_file(path: Path) -> pl.LazyFrame:
    """The file's table. It stays mapped as long as any of its columns is in use."""
    import polars as pl
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            table = pl.from_arrow(pa.ipc.open_file(source).read_all())  # pl.DataFrame(...) would copy
    except pa.ArrowNotImplementedError:  # a column that is in the file and of no use to the table
        return pl.scan_ipc(path, glob=False, hive_partitioning=False)
    return cast("pl.DataFrame", table).lazy()
