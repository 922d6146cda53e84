"""Effects: their keys, reserved table names, placeholders, results and errors, shared by all outputs.

The key of an effect is (execution_id, stage_id). A repeated attempt with the same key takes no second effect, and after
an undo it takes none at all: an attempt that was frozen meanwhile must not bring back what was reverted.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from flexiroaster.errors import ErrorClass, StageError, configuration_error
from flexiroaster.operators.base import Result, StageContext

__all__ = [
    "EFFECTS_TABLE",
    "MAX_NAME_BYTES",
    "RESERVED_PREFIX",
    "Key",
    "already_undone_error",
    "cannot_undo_error",
    "count_noun",
    "default_table",
    "effect_result",
    "fill_placeholders",
    "is_reserved",
    "key_hash",
    "now",
    "repeated_result",
]


RESERVED_PREFIX = "flexiroaster_"
"""The prefix of the tables that outputs create for their own use."""

EFFECTS_TABLE = f"{RESERVED_PREFIX}effects"

MAX_NAME_BYTES = 63
"""PostgreSQL's limit for a name; it cuts off longer names silently."""

T = TypeVar("T")


def is_reserved(table: str, own_tables: Collection[str]) -> bool:
    """Whether a table's name, in any case, is reserved for FlexiRoaster: no output writes to it, in any database."""
    name = table.casefold()
    return name in own_tables or name.startswith(RESERVED_PREFIX)


class Key(Protocol):
    """The key of an effect: the context of a stage, or a row of the effects table."""

    @property
    def execution_id(self) -> str:
        """The id of the execution."""

    @property
    def stage_id(self) -> str:
        """The id of the stage in the execution."""


def key_hash(key: Key) -> str:
    """16 hexadecimal digits that identify (execution_id, stage_id) in names of tables and files."""
    return hashlib.sha256(f"{key.execution_id}\0{key.stage_id}".encode()).hexdigest()[:16]


def fill_placeholders(value: T, names: Mapping[str, str]) -> T:
    """Replace `{name}` in all strings of a JSON value; other braces stay."""
    if isinstance(value, str):
        text: str = value
        for name, replacement in names.items():
            text = text.replace(f"{{{name}}}", replacement)
        return text  # type: ignore[return-value]  # a str, as it was
    if isinstance(value, Mapping):
        return {key: fill_placeholders(item, names) for key, item in value.items()}  # type: ignore[return-value]  # as it was
    if isinstance(value, list):
        return [fill_placeholders(item, names) for item in value]  # type: ignore[return-value]  # as it was
    return value


def now() -> str:
    """The current time in UTC, ISO 8601, always of the same width."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def count_noun(number: int, noun: str) -> str:
    """Write a number with its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def effect_result(effect: Mapping[str, Any], context: StageContext) -> Result:
    """Build the result of an attempt: the effect, a short report of it, and the input for stages downstream."""
    report = {name: effect[name] for name in ("rows", "table", "path", "url", "batches") if name in effect}
    only = next(iter(context.inputs)) if len(context.inputs) == 1 else None
    return Result(passthrough_stage=only, report=report, effect=dict(effect))


def repeated_result(effect: Mapping[str, Any], at: str, context: StageContext) -> Result:
    """Build the result of a repeated attempt, with a line in the log."""
    context.logger.info("an earlier attempt already took effect at %s; nothing is written again", at)
    return effect_result(effect, context)


def already_undone_error(at: str) -> StageError:
    """Build the error of an attempt that runs after the undo."""
    return StageError(f"the effect of this stage was undone at {at}; it is not applied again", ErrorClass.CANCELLED)


def cannot_undo_error(what: str) -> StageError:
    """Build the error of an undo whose data was discarded, or that a change by others made impossible."""
    return configuration_error(f"cannot be undone: {what}")


def default_table(pipeline_name: str, stage_id: str, own_tables: Collection[str]) -> str:
    """Name a table: `Daily Sales` and `save` give `daily_sales_save`, in [a-z0-9_], with at most 63 characters.

    Reserved names, including `own_tables`, get the prefix `output_`. If letters are lost or the name is cut, a hash of
    the whole keeps different names different.
    """
    whole = f"{pipeline_name}_{stage_id}"
    plain = unicodedata.normalize("NFKD", whole).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9_]+", "_", plain.lower()).strip("_")
    if is_reserved(name, own_tables) or name.startswith(("sqlite_", "pg_")):
        name = f"output_{name}"
    lost = any(letter.isalnum() and not unicodedata.normalize("NFKD", letter)[0].isascii() for letter in whole)
    if not lost and 0 < len(name) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME_BYTES - 9]}_{digest}".lstrip("_")
