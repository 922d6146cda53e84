"""Placeholders: `${name}` in a stage's config is replaced by the variable of that name when the stage runs.

A string that consists of one placeholder takes the variable's value with its type; inside a longer string the value is
rendered as text. `$${name}` is an escape for a literal `${name}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["malformed", "placeholders", "substitute"]

_MALFORMED = re.compile(r"(?<!\$)\$\{(?![A-Za-z_][A-Za-z0-9_]*\})[^}]{0,60}\}?")
_PATTERN = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def placeholders(value: object) -> Iterator[str]:
    """The names of all placeholders in a JSON value, in order, with duplicates."""
    if isinstance(value, str):
        yield from _PATTERN.findall(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from placeholders(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from placeholders(item)


def malformed(value: object, path: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Find malformed placeholders such as `${my-day}` or `${ day }`: the path and text of each."""
    if isinstance(value, str):
        yield from ((path, found) for found in _MALFORMED.findall(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from malformed(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from malformed(item, (*path, index))


def substitute(value: Any, variables: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON value in, the same out
    """Replace the placeholders in a JSON value; those without a variable stay unchanged."""
    if isinstance(value, str):
        return _substitute_text(value, variables) if "${" in value else value
    if isinstance(value, Mapping):
        return {key: substitute(item, variables) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(item, variables) for item in value]
    return value


def _substitute_text(text: str, variables: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a variable has any JSON type
    whole = _PATTERN.fullmatch(text)
    if whole and whole[1] in variables:
        return variables[whole[1]]

    def render(match: re.Match[str]) -> str:
        return str(variables[match[1]]) if match[1] in variables else match[0]

    return _PATTERN.sub(render, text).replace("$${", "${")
