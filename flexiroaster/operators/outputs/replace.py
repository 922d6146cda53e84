"""`mode: replace`: a new table, built aside and swapped in by renaming; the former one is kept for the undo.

Indexes, constraints, grants, triggers and defaults belong to the former table, not to its name, and stay with it. A
replacement is refused if views or foreign keys would keep using the former table.
"""

from __future__ import annotations

from typing import Any

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.outputs.bulk import load
from flexiroaster.operators.outputs.database.destination import Job, Undo, undo_table
from flexiroaster.operators.outputs.database.tables import create_table
from flexiroaster.operators.outputs.statements import dependents, rename

__all__ = ["undo", "write"]


def write(job: Job) -> dict[str, Any]:
    """Replace the table with a new one that has the rows; return the details of the effect."""
    new = create_table(job, job.new_table, tracked=False)
    load(job, new)
    job.lock()
    former = job.existing()
    if former is not None:
        staying = dependents(job.connection, former)
        if staying:
            listed = ", ".join(staying)
            message = f"table {job.table!r} cannot be replaced: {listed} would keep using the former one; use `upsert`"
            raise StageError(message, ErrorClass.CONFIGURATION)
        rename(job.connection, former, job.undo_table)
    rename(job.connection, new, job.table)
    return {"created": former is None}


def undo(task: Undo) -> str:
    """Put the former table back in place, or drop the new one if there was none."""
    current = task.existing()
    former = None if task.effect.get("created") else task.kept()
    if current is not None:
        current.drop(task.connection, checkfirst=False)
    if former is None:
        return f"dropped table {task.table!r}, which this stage had created"
    rename(task.connection, former, task.table)
    return f"restored the former table {task.table!r} (it was kept as {undo_table(task.context)!r})"
