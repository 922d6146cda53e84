"""What a user sees when a command cannot do what was asked, and the exit code that says so to a script.

0 done, 1 failed, 2 the definition, the settings or the command line are wrong, 130 interrupted.
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
    """The command line asks for what makes no sense; the message says what would."""

    code = "usage"


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command end with a line (with `--json`: a document) and an exit code where it raises an error of ours."""

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
    """Whether DEBUG is on; the settings may be what is wrong, so that it is read leniently."""
    from flexiroaster.config import load_settings

    try:
        return load_settings().debug
    except SettingsError:
        return os.environ.get("DEBUG", "").lower() in {"1", "true", "yes", "on"}
