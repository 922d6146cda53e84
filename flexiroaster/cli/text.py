"""Terminal formatting of values, and JSON output."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "console",
    "duration",
    "emit_json",
    "emit_ndjson",
    "moment",
    "one_line",
    "printable",
    "rows",
    "styled",
    "table",
]

STYLES = {
    "completed": "green",
    "running": "cyan",
    "waiting": "yellow",
    "failed": "red",
    "cancelled": "yellow",
    "paused": "yellow",
    "rolled_back": "magenta",
    "skipped": "dim",
    "pending": "dim",
}
"""Status of an execution or stage -> rich style."""

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Escape control characters, because messages may contain input data that could control the terminal."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """Return the text as one printable line."""
    return printable(" ".join(text.split()))


def duration(seconds: float | None) -> str:
    """Format seconds: `0.12 s`, `34.5 s`, `2 min 05 s`, `1 h 02 min`, or a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(at: datetime | None) -> str:
    """Format a time in the local time zone, to the second, or a dash for None."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def rows(output: dict[str, Any] | None) -> int | None:
    """Return the number of rows of a stage's table, or None if it has no table."""
    count = (output or {}).get("rows")
    return count if isinstance(count, int) else None


def emit_json(document: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write one JSON document to stdout."""
    _write(document, indent=True)


def emit_ndjson(documents: Sequence[Any]) -> None:
    """Write JSON documents to stdout, one per line."""
    for document in documents:
        _write(document, indent=False)


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr, which wraps lines only on a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 10_000
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def table(*headings: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table without borders; the columns named in `right` are right-aligned."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left")
    return made


def styled(status: str) -> Text:
    """Return a status in its color."""
    from rich.text import Text

    return Text(status, style=STYLES.get(status, ""))


def _write(document: Any, *, indent: bool) -> None:  # noqa: ANN401 - any JSON value
    import orjson

    option = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    sys.stdout.write(orjson.dumps(document, option=option).decode())
    sys.stdout.flush()
