"""JSON values: finds the values in definitions and variables that JSON or a database cannot store.

A database would accept some of them without an error and return something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from pathlib import PurePath
from types import NoneType
from typing import Any
from uuid import UUID

from flexiroaster.errors import Problem
from flexiroaster.model.validation_messages import Location, key_text, render_path, shown

__all__ = ["MAX_DEPTH", "NOT_FINITE", "unstorable"]

MAX_DEPTH = 100
"""Maximum nesting depth of mappings and lists."""

NOT_FINITE = "not_finite"
"""Problem code for a number that is NaN or infinite."""

_WITH_A_TEXT = date | time | Decimal | UUID | PurePath
"""Python types that are stored as text."""

_PLAIN = frozenset({bool, NoneType})


def unstorable(value: object, prefix: Location = ()) -> Iterator[Problem]:
    """Find everything in a value that cannot be stored unchanged, each with its path.

    Nesting beyond MAX_DEPTH, such as a container within itself, is reported once and ends the search.
    """
    todo: list[tuple[object, Location]] = [(value, prefix)]
    seen: dict[int, int] = {}  # container id -> level of its last visit; deeper, it may contain itself
    while todo:
        container, path = todo.pop()
        if len(path) > MAX_DEPTH:
            yield Problem(render_path(path[:3]), f"is nested more than {MAX_DEPTH} levels deep", "depth")
            return
        if seen.get(id(container), -1) >= len(path):
            continue
        seen[id(container)] = len(path)
        inner: list[tuple[object, Location]] = []
        for key, item in _items(container):
            if type(item) in _PLAIN or (type(item) is str and item.isascii() and "\0" not in item):
                continue  # nearly all values
            if isinstance(item, Mapping | list | tuple):
                inner.append((item, (*path, key)))
            elif (reason := _objection(item)) is not None:
                code = NOT_FINITE if isinstance(item, float) else "value"
                yield Problem(render_path((*path, key)), reason, code)
        todo += reversed(inner)
        yield from _unstorable_keys(container, path)


def _items(container: object) -> Iterable[tuple[int | str, Any]]:
    if isinstance(container, Mapping):
        return container.items()
    return enumerate(container) if isinstance(container, list | tuple) else ()


def _unstorable_keys(container: object, path: Location) -> Iterator[Problem]:
    for key in container if isinstance(container, Mapping) else ():
        if not isinstance(key, str):
            yield Problem(render_path(path), key_text(key), "key")
        elif (reason := _objection_to_text(key)) is not None:
            yield Problem(render_path(path), f"the key {shown(key)} {reason}", "key")


def _objection(item: object) -> str | None:
    """The reason why a single value cannot be stored, or None."""
    if isinstance(item, str):
        return _objection_to_text(item)
    if isinstance(item, float):
        return None if math.isfinite(item) else f"is {_NAMES[str(item)]}, which JSON cannot represent; use null or text"
    if isinstance(item, int):
        return None if -(2**63) <= item < 2**64 else "is an integer beyond 64 bits; write it as text"
    return None if isinstance(item, _WITH_A_TEXT) else f"is {_qualified(type(item))}, which JSON cannot represent"


_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _objection_to_text(text: str) -> str | None:
    if text.isascii() and "\0" not in text:
        return None
    if "\0" in text:
        return "contains the character NUL, which databases refuse"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"is not valid Unicode text (a lone surrogate at position {error.start})"
    return None


def _qualified(kind: type) -> str:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a Python {name}"
