"""Error reports and exit codes of commands.

Exit codes: 0 success, 1 failure, 2 invalid definition, settings or command line, 130 interrupted.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer

from flexiroaster.cli.text import emit_json, one_line
from flexiroaster.errors import DefinitionError, FlexiRoasterError, SettingsError

__all__ = ["FAILED", "INTERRUPTED", "INVALID", "UsageError", "reported"]

FAILED, INVALID, INTERRUPTED = 1, 2, 130

P = ParamSpec("P")
R = TypeVar("R")


class UsageError(FlexiRoasterError):
    """The command line is invalid; the message says how to correct it."""

    code = "usage"


def reported(command: Callable[P, R]) -> Callable[P, R]:
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
