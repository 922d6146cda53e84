"""What the commands share: terminal and JSON output, error reports with exit codes, and options with their parsers."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from flexiroaster.errors import DefinitionError, FlexiRoasterError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from flexiroaster.config import Settings
    from flexiroaster.operators.base import Access
    from flexiroaster.service.installation import Installation

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "INVALID",
    "AsJson",
    "File",
    "Modules",
    "Roots",
    "UsageError",
    "Variables",
    "access_for",
    "console",
    "duration",
    "emit_json",
    "moment",
    "one_line",
    "open_installation",
    "parse_duration",
    "parse_variables",
    "printable",
    "report_errors",
    "rows",
    "styled",
    "table",
]

FAILED, INVALID, INTERRUPTED = 1, 2, 130
"""Exit codes: the execution or the command failed, the input is invalid, a signal interrupted the command."""

P = ParamSpec("P")
R = TypeVar("R")

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


def emit_json(document: Any, *, indent: bool = True) -> None:  # noqa: ANN401 - any JSON value
    """Write a JSON document to stdout: indented, or on one line."""
    import orjson

    option = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    sys.stdout.write(orjson.dumps(document, option=option).decode())
    sys.stdout.flush()


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


# --- errors and exit codes -------------------------------------------------------------------------------------------


class UsageError(FlexiRoasterError):
    """The command line is invalid; the message says how to correct it."""

    code = "usage"


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command report a FlexiRoasterError in one line (with `--json`: as a document) and set the exit code."""

    @functools.wraps(command)
    def guarded(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return command(*arguments, **options)
        except FlexiRoasterError as error:
            if _debugging():
                traceback.print_exc()
            _report(error, as_json=bool(options.get("as_json")))
            invalid = isinstance(error, DefinitionError | SettingsError | UsageError)
            raise typer.Exit(INVALID if invalid else FAILED) from error

    return guarded


def _report(error: FlexiRoasterError, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {"code": error.code, "message": error.message}
        if isinstance(error, DefinitionError):
            document["problems"] = error.details["problems"]
        emit_json({"error": document})
    elif isinstance(error, DefinitionError):
        for problem in error.problems:
            typer.echo(f"{'' if problem.path else 'Error: '}{one_line(str(problem))}", err=True)
    else:
        typer.echo(f"Error: {one_line(error.message)}", err=True)


def _debugging() -> bool:
    """Return whether DEBUG is on; falls back to the environment, because the settings may be invalid."""
    from flexiroaster.config import load_settings

    try:
        return load_settings().debug
    except SettingsError:
        return os.environ.get("DEBUG", "").lower() in {"1", "true", "yes", "on"}


# --- options ---------------------------------------------------------------------------------------------------------

File = Annotated[Path, typer.Argument(metavar="FILE", help="A pipeline definition in YAML or JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Variables = Annotated[
    list[str] | None,
    typer.Option("--var", metavar="NAME=VALUE", help="Set a variable; valid JSON is parsed, other values are text."),
]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-module", metavar="MODULE", help="Allow python stages to call a module; pkg.* allows a package."
    ),
]
Roots = Annotated[
    list[str] | None,
    typer.Option("--root", metavar="FOLDER", help="Allow stages to use a folder or URL prefix, besides FILE's folder."),
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"([0-9]{1,6})([dhms])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def parse_variables(given: Iterable[str] | None) -> dict[str, Any]:
    """Parse variables: `["n=3", "by=[\\"a\\"]", "day=2026-01-01"]` -> `{"n": 3, "by": ["a"], "day": "2026-01-01"}`.

    A value that is valid JSON is parsed as JSON, any other value is text. Raises UsageError if an item is not
    NAME=VALUE.
    """
    variables = {}
    for item in given or ():
        name, separator, text = item.partition("=")
        if not separator:
            raise UsageError(f"--var {item!r}: must be NAME=VALUE")
        if not _NAME.fullmatch(name):
            raise UsageError(f"--var {item!r}: use letters, digits and _ in a name; it must not begin with a digit")
        variables[name] = _value(text)
    return variables


def parse_duration(option: str, text: str) -> timedelta:
    """Parse `"90d"`, `"12h"`, `"30m"` or `"45s"`. Raises UsageError that names the option for any other text."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"{option} {text!r}: must be a number followed by d, h, m or s, such as 90d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def access_for(settings: Settings, file: Path, roots: Iterable[str] | None, modules: Iterable[str] | None) -> Access:
    """Return the access of a file's stages: the settings, plus the file's folder, `roots` and `modules`."""
    from flexiroaster.service.stage_access import access_of

    access = access_of(settings)
    return replace(
        access,
        file_roots=(*access.file_roots, str(file.resolve().parent), *(roots or ())),
        python_modules=(*access.python_modules, *(modules or ())),
    )


def open_installation(
    settings: Settings | None = None, access: Access | None = None
) -> AbstractContextManager[Installation]:
    """Open an installation for a block, see `service.installation`; imported now, because the import is slow."""
    from flexiroaster.service.installation import open_installation

    return open_installation(settings, access)


def _value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
