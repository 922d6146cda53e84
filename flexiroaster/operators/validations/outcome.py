"""Validation outcome: the findings as a JSON report and as a one-line message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Finding", "Outcome", "plain"]

LONGEST_TEXT = 100


def plain(value: object) -> object:
    """Return a value as JSON: numbers, booleans and text as they are, other values as text; long text is truncated."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 3]}..."


@dataclass(frozen=True, slots=True)
class Finding:
    """A violated rule. If `table` is true, the rule concerns the whole table and `detail` is a sentence."""

    rule: str
    column: str | None
    count: int
    detail: str
    examples: tuple[object, ...] = ()
    table: bool = False

    def report(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return {
            "rule": self.rule,
            "column": self.column,
            "count": self.count,
            "examples": [plain(value) for value in self.examples],
            "detail": self.detail,
        }

    def sentence(self) -> str:
        """Return a sentence such as `age: range (min 0): 3 rows, such as -1, -7`."""
        if self.table:
            return self.detail
        shown = ", ".join(repr(plain(value)) for value in self.examples[:3])
        rows = f"{self.count} row{'' if self.count == 1 else 's'}"
        return f"{reason(self.rule, self.column, self.detail)}: {rows}{f', such as {shown}' if shown else ''}"


def reason(rule: str, column: str | None, detail: str) -> str:
    """Return the rule that a row violates, such as `age: range (min 0)`."""
    return f"{f'{column}: ' if column else ''}{rule}{f' ({detail})' if detail else ''}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The findings in a table of `rows` rows."""

    rows: int
    invalid_rows: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def concerns_table(self) -> bool:
        """Whether a finding concerns the whole table."""
        return any(finding.table for finding in self.findings)

    def report(self) -> dict[str, Any]:
        """Return the outcome as JSON: `valid`, `rows`, `invalid_rows`, and the violated rules."""
        return {
            "valid": not self.findings,
            "rows": self.rows,
            "invalid_rows": self.invalid_rows,
            "rules": [finding.report() for finding in self.findings],
        }

    def message(self) -> str:
        """Return all findings in one line."""
        rows = f"{self.invalid_rows} of {self.rows} row{'' if self.rows == 1 else 's'}"
        head = "the table is invalid" if self.concerns_table else f"{rows} invalid"
        return f"{head}: {'; '.join(finding.sentence() for finding in self.findings)}"
