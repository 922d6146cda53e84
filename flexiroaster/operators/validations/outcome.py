"""What a validation found: for the report (JSON), and in one line for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Finding", "Outcome", "plain"]

LONGEST_TEXT = 100


def plain(value: object) -> object:
    """An offending value as JSON: numbers, booleans and text stay, anything else as text, long text cut."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 3]}..."


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold. `table` says that it concerns the table as a whole: then `detail` is a sentence."""

    rule: str
    column: str | None
    count: int
    detail: str
    examples: tuple[object, ...] = ()
    table: bool = False

    def report(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rule": self.rule,
            "column": self.column,
            "count": self.count,
            "examples": [plain(value) for value in self.examples],
            "detail": self.detail,
        }

    def sentence(self) -> str:
        """`age: range (min 0): 3 rows, such as -1, -7`."""
        if self.table:
            return self.detail
        shown = ", ".join(repr(plain(value)) for value in self.examples[:3])
        rows = f"{self.count} row{'' if self.count == 1 else 's'}"
        return f"{reason(self.rule, self.column, self.detail)}: {rows}{f', such as {shown}' if shown else ''}"


def reason(rule: str, column: str | None, detail: str) -> str:
    """What a row offends against: `age: range (min 0)`."""
    return f"{f'{column}: ' if column else ''}{rule}{f' ({detail})' if detail else ''}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything found in a table of `rows` rows."""

    rows: int
    invalid_rows: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def concerns_table(self) -> bool:
        """Whether something is wrong with the table as a whole."""
        return any(finding.table for finding in self.findings)

    def report(self) -> dict[str, Any]:
        """As JSON: `valid`, `rows`, `invalid_rows`, and each rule that does not hold."""
        return {
            "valid": not self.findings,
            "rows": self.rows,
            "invalid_rows": self.invalid_rows,
            "rules": [finding.report() for finding in self.findings],
        }

    def message(self) -> str:
        """One line with all findings."""
        rows = f"{self.invalid_rows} of {self.rows} row{'' if self.rows == 1 else 's'}"
        head = "the table is invalid" if self.concerns_table else f"{rows} invalid"
        return f"{head}: {'; '.join(finding.sentence() for finding in self.findings)}"
