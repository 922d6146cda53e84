"""What all outputs share: the key of an effect, the names that are ours, placeholders, sentences.

The key of an effect is (execution_id, stage_id). A repeated attempt of the same key takes no second effect, and after
an undo none at all: an attempt that was frozen meanwhile must not bring back what was reverted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.base import Result, StageContext

__all__ = [
    "EFFECTS_TABLE",
    "RESERVED_PREFIX",
    "Key",
    "already",
    "count",
    "fill",
    "gone",
    "is_reserved",
    "key_hash",
    "now",
    "outcome",
    "withdrawn",
]

RESERVED_PREFIX = "flexiroaster_"
"""Begins the names of the tables that outputs keep for themselves."""

EFFECTS_TABLE = f"{RESERVED_PREFIX}effects"

T = TypeVar("T")


def is_reserved(table: str, own_tables: Collection[str]) -> bool:
    """Whether a table's name, in any case, is one of FlexiRoaster's own: no output writes to it, in any database."""
    name = table.casefold()
    return name in own_tables or name.startswith(RESERVED_PREFIX)


class Key(Protocol):
    """Who took an effect: a stage's context, or a row of the effects table."""

    @property
    def execution_id(self) -> str:
        """The execution."""

    @property
    def stage_id(self) -> str:
        """The stage in it."""


def key_hash(key: Key) -> str:
    """16 hexadecimal digits that stand for (execution_id, stage_id) in names of tables and files."""
    return hashlib.sha256(f"{key.execution_id}\0{key.stage_id}".encode()).hexdigest()[:16]


def fill(value: T, names: Mapping[str, str]) -> T:
    """A JSON value with `{name}` replaced in all its strings; other braces stay."""
    if isinstance(value, str):
        text: str = value
        for name, replacement in names.items():
            text = text.replace(f"{{{name}}}", replacement)
        return text  # type: ignore[return-value]  # a str, as it was
    if isinstance(value, Mapping):
        return {key: fill(item, names) for key, item in value.items()}  # type: ignore[return-value]  # as it was
    if isinstance(value, list):
        return [fill(item, names) for item in value]  # type: ignore[return-value]  # as it was
    return value


def now() -> str:
    """The time in UTC, ISO 8601, always of the same width."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def count(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def outcome(effect: Mapping[str, Any], context: StageContext) -> Result:
    """What an attempt gives back: the effect, a short report of it, and its input for stages downstream."""
    report = {name: effect[name] for name in ("rows", "table", "path", "url", "batches") if name in effect}
    only = next(iter(context.inputs)) if len(context.inputs) == 1 else None
    return Result(unchanged=only, report=report, effect=dict(effect))


def already(effect: Mapping[str, Any], at: str, context: StageContext) -> Result:
    """The outcome of a repeated attempt, with a line in the log."""
    context.logger.info("an earlier attempt already took effect at %s; nothing is written again", at)
    return outcome(effect, context)


def withdrawn(at: str) -> StageError:
    """The error of an attempt that comes after the undo."""
    return StageError(f"the effect of this stage was undone at {at}; it is not taken again", ErrorClass.CANCELLED)


def gone(what: str) -> StageError:
    """The error of an undo that comes after `forget`, or that somebody else made impossible."""
    return StageError(f"cannot be undone: {what}", ErrorClass.CONFIGURATION)
