"""Errors of csv files, located by line.

Polars names neither the line nor the field, so the file is read again here, only after a read has failed. Lines beyond
the first million are not searched.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from flexiroaster.operators.dtypes import friendly_name
from flexiroaster.operators.inputs.failures import damaged, not_utf8, reading

__all__ = ["CsvFile"]

_MISFIT = re.compile(r"could not parse `(.*?)` as dtype `(.*?)` at column '(.*?)' \(column number (\d+)\)", re.DOTALL)
_MOST_LINES = 1_000_000
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A csv file to read.

    `dialect` holds the options of `polars.scan_csv`, `types` the types of its columns, and `overridden` the columns
    whose type the config sets.
    """

    path: Path
    label: str
    dialect: Mapping[str, Any]
    types: Mapping[str, pl.DataType] = field(default_factory=dict)
    overridden: Collection[str] = ()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn polars errors into StageError (data) that names the file and, if it can be found, the line."""
        with reading(self.label):
            try:
                yield
            except PolarsError as error:
                reason = self._reason(str(error))
                if reason is None:
                    raise
                raise damaged(self.label, reason) from error

    def _reason(self, text: str) -> str | None:
        """Explain the common errors in our own words; None for other errors."""
        if "utf-8" in text:
            return not_utf8(self.path)
        if text.startswith("found more fields"):
            return self._first_long_line()
        found = _MISFIT.match(text)
        if found is None:
            return None
        value, _, column, number = found.groups()
        if value.startswith(self.dialect.get("quote_char") or "\0"):
            return (
                f"{self._line_of_text(value)}a quote is not closed, or text follows the closing quote: {_shown(value)}"
            )
        return self._misfit(value, column, int(number) - 1)

    def _misfit(self, value: str, column: str, index: int) -> str:
        line = next((n for n, row in self._rows() if index < len(row) and row[index] == value), None)
        place = f"line {line}: " if line else ""
        fits = f"{place}column {column!r}: {_shown(value)} does not fit {friendly_name(self.types[column])}"
        if column in self.overridden:
            return f"{fits}, its type in `schema`"
        return f"{fits}, the type of the first rows: set another type in `schema`"

    def _first_long_line(self) -> str | None:
        wanted = 0
        for line, row in self._rows(header=True):
            wanted = wanted or len(row)
            if len(row) > wanted:
                first = "the header" if self.dialect["has_header"] else "the first line"
                return f"line {line}: has {len(row)} fields, but {first} has {wanted}"
        return None

    def _rows(self, *, header: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yield each row's fields with the number of the line where the row ends; the header only if `header`."""
        skipped = self.dialect["skip_rows"]
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            quoting: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
            if self.dialect["quote_char"]:
                quoting = {"quotechar": self.dialect["quote_char"]}
            reader = csv.reader(islice(file, skipped, _MOST_LINES), delimiter=self.dialect["separator"], **quoting)
            try:
                for number, row in enumerate(filter(None, reader)):
                    if header or number or not self.dialect["has_header"]:
                        yield skipped + reader.line_num, row
            except csv.Error:  # a field exceeds the limit of the csv module: no line can be named
                return

    def _line_of_text(self, text: str) -> str:
        with self.path.open(encoding="utf-8", errors="replace", newline="") as file:
            first = text.splitlines()[0]
            line = next((n for n, line in enumerate(islice(file, _MOST_LINES), 1) if first in line), None)
        return f"line {line}: " if line else ""


def _shown(value: str) -> str:
    return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")
