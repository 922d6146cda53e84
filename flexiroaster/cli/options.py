"""Shared command line options and their parsers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiroaster.cli.failures import UsageError

if TYPE_CHECKING:
    from flexiroaster.config import Settings
    from flexiroaster.operators.base import Access

__all__ = ["AsJson", "File", "Modules", "Roots", "Variables", "access_for", "parse_duration", "parse_variables"]

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
    from dataclasses import replace

    from flexiroaster.service.access import access_of

    access = access_of(settings)
    return replace(
        access,
        file_roots=(*access.file_roots, str(file.resolve().parent), *(roots or ())),
        python_modules=(*access.python_modules, *(modules or ())),
    )


def _value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
