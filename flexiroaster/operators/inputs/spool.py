"""Rows that arrive in pieces, kept on disk until the types that hold for all of them are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flexiroaster.operators.inputs.type_inference import Shape, series

__all__ = ["Spool"]


class Spool:
    """One Arrow file per piece, with the types known so far; `finish` rewrites the pieces whose types have changed.

    Memory holds one piece at a time. `shapes` gives columns known beforehand, with what is known about their types.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, Shape] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._shapes: dict[str, Shape] = dict(shapes or {})
        self._pieces: list[tuple[Path, pl.Schema]] = []

    def append(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add a piece: columns of equal length. Raises StageError (data) for a value that no column can hold."""
        for name, values in columns.items():
            self._shapes.setdefault(name, Shape()).observe(values)
        height = len(next(iter(columns.values()), ()))
        if height:
            self._write(self._folder / f"{len(self._pieces):05d}.arrow", columns, height)

    def append_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add a piece given as records; missing keys are null."""
        names = dict.fromkeys(key for record in records for key in record)
        self.append({name: [record.get(name) for record in records] for name in names})

    def finish(self) -> pl.LazyFrame:
        """Return all rows, in order, as a lazy frame."""
        schema = pl.Schema({name: shape.dtype() for name, shape in self._shapes.items()})
        for path, written in self._pieces:
            if written != schema:
                frame = pl.read_ipc(path)
                _write_frame(path, self._frame(frame.to_dict(as_series=False), frame.height))
        if not self._pieces:
            return pl.LazyFrame(schema=schema)
        return pl.scan_ipc([path for path, _ in self._pieces], glob=False)

    def _write(self, path: Path, columns: Mapping[str, Sequence[Any]], height: int) -> None:
        frame = self._frame(columns, height)
        _write_frame(path, frame)
        self._pieces.append((path, frame.schema))

    def _frame(self, columns: Mapping[str, Sequence[Any]], height: int) -> pl.DataFrame:
        return pl.DataFrame(list(self._series(columns, height)))

    def _series(self, columns: Mapping[str, Sequence[Any]], height: int) -> Iterable[pl.Series]:
        for name, shape in self._shapes.items():
            values = columns.get(name)
            yield series(name, [None] * height if values is None else values, shape)


def _write_frame(path: Path, frame: pl.DataFrame) -> None:
    written = path.with_suffix(".new")
    frame.write_ipc(written)
    written.replace(path)
