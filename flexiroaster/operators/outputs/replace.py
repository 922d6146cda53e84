"""A table replaced by another: built aside, then swapped by renaming; the former one is kept for the undo.

What belongs to the former table and not to its name stays with it: indexes, constraints, grants, triggers, defaults.
Views and foreign keys that would go on meaning the former table are a reason to refuse.
"""

from __future__ import annotations

from typing import Any

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.outputs.bulk import load
from flexiroaster.operators.outputs.creation import create_table
from flexiroaster.operators.outputs.destination import Job, Undo, undo_table
from flexiroaster.operators.outputs.statements import dependents, rename

__all__ = ["undo", "write"]


def write(job: Job) -> dict[str, Any]:
    """Put a new table with the rows in the place of the former; what the effect says of it."""
    new = create_table(job, job.new_table, tracked=False)
    load(job, new)
    job.lock()
    former = job.existing()
    if former is not None:
        staying = dependents(job.connection, former)
        if staying:
            listed = ", ".join(staying)
            message = f"table {job.table!r} cannot be replaced: {listed} would go on using the former one; use `upsert`"
            raise StageError(message, ErrorClass.CONFIGURATION)
        rename(job.connection, former, job.undo_table)
    rename(job.connection, new, job.table)
    return {"created": former is None}


def undo(task: Undo) -> str:
    """Put the former table back in its place, or drop the new one where there was none."""
    current = task.existing()
    former = None if task.effect.get("created") else task.kept()
    if current is not None:
        current.drop(task.connection, checkfirst=False)
    if former is None:
        return f"dropped table {task.table!r}, which this stage had created"
    rename(task.connection, former, task.table)
    return f"put the former table {task.table!r} back (it was kept as {undo_table(task.context)!r})"
