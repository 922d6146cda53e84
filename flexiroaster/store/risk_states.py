"""The compact states behind the answers of the safety engine, and the part of the run history folded into them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from flexiroaster.store.safety_tables import risk_models, risk_progress, risk_states

__all__ = [
    "ALARMS",
    "BURST",
    "GROUP",
    "INSTALLATION",
    "ODDS",
    "PIPELINE",
    "STAGES",
    "Key",
    "Progress",
    "advance",
    "forget_all",
    "load",
    "locked_progress",
    "progress",
    "progress_and",
    "save",
]

Key = tuple[str, str]
"""Scope and name of a state."""

PIPELINE, GROUP, INSTALLATION, BURST = "pipeline", "group", "installation", "burst"
STAGES, ODDS, ALARMS = "stages", "odds", "alarms"
"""Scopes: the stages of a pipeline; the odds of repeated attempts, and the outcomes of alarms (both: empty name)."""

CHUNK = 400


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest end time in the states, the number of completed and failed runs in them, and their version."""

    folded_until: datetime | None
    runs: int
    version: int
    model_id: int | None = None


def progress(connection: Connection) -> Progress:
    """Return the progress of the states, with the id of the newest model."""
    return Progress(*connection.execute(select(*_PROGRESS, _NEWEST)).one())


def progress_and(connection: Connection, condition: ColumnElement[bool]) -> tuple[Progress, bool]:
    """Return the progress, and whether a condition on other tables holds."""
    *values, holds = connection.execute(select(*_PROGRESS, _NEWEST, condition)).one()
    return Progress(*values), bool(holds)


def locked_progress(connection: Connection) -> Progress:
    """Return the progress, locked until the transaction ends, so that only one process folds runs at a time."""
    return Progress(*connection.execute(select(*_PROGRESS, _NEWEST).with_for_update(of=risk_progress)).one())


def advance(connection: Connection, before: Progress, until: datetime | None, runs: int) -> Progress:
    """Record that `runs` runs were folded, the newest of which, if any, ended at `until`; return the new progress."""
    newest = max((at for at in (until, before.folded_until) if at is not None), default=None)
    now = Progress(newest, before.runs + runs, before.version + 1, before.model_id)
    values = {"folded_until": now.folded_until, "runs": now.runs, "version": now.version}
    connection.execute(update(risk_progress).values(**values))
    return now


def load(connection: Connection, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
    """Return those of these states that exist, by key."""
    found: dict[Key, dict[str, Any]] = {}
    key, wanted = tuple_(risk_states.c.scope, risk_states.c.name), list(keys)
    for begin in range(0, len(wanted), CHUNK):
        rows = connection.execute(select(risk_states).where(key.in_(wanted[begin : begin + CHUNK])))
        found |= {(row.scope, row.name): row.state for row in rows}
    return found


def save(connection: Connection, states: Mapping[Key, dict[str, Any]]) -> None:
    """Insert states, or replace those with the same keys."""
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(risk_states)
    written = insert.on_conflict_do_update(
        index_elements=[risk_states.c.scope, risk_states.c.name], set_={"state": insert.excluded.state}
    )
    rows = [{"scope": scope, "name": name, "state": state} for (scope, name), state in states.items()]
    for begin in range(0, len(rows), CHUNK):
        connection.execute(written, rows[begin : begin + CHUNK])


def forget_all(connection: Connection) -> Progress:
    """Delete the states that come from the run history, so that it can be folded again; takes the lock.

    The newest folded end stays recorded. The states learned from stages stay, since stages have no history.
    """
    before = locked_progress(connection)
    connection.execute(delete(risk_states).where(risk_states.c.scope.not_in((STAGES, ODDS, ALARMS))))
    connection.execute(update(risk_progress).values(runs=0, version=before.version + 1))
    return Progress(before.folded_until, 0, before.version + 1)


_NEWEST = select(risk_models.c.id).order_by(risk_models.c.id.desc()).limit(1).scalar_subquery()
_PROGRESS = (risk_progress.c.folded_until, risk_progress.c.runs, risk_progress.c.version)
