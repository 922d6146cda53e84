"""The default table of an output without `table`, named after its pipeline and stage."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection

from flexiroaster.operators.outputs.effects import is_reserved

__all__ = ["MAX_NAME", "default_table"]

MAX_NAME = 63
"""PostgreSQL's limit for a name, in bytes; it cuts off longer names silently."""


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
    if not lost and 0 < len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}_{digest}".lstrip("_")
