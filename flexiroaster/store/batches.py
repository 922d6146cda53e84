"""Batch reads for many executions or pipelines, each with one statement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, FromClause, Row, Table, and_, select, true

from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.store.database import Database
from flexiroaster.store.rows import (
    STAGE_COLUMNS,
    ExecutionRow,
    StageRow,
    event_of,
    execution_columns,
    execution_row,
    stage_row,
)
from flexiroaster.store.tables import events, executions, pipelines, stage_runs

__all__ = ["events_of_types", "executions_by_id", "first_events", "latest_executions", "stages_by_execution"]


def executions_by_id(
    database: Database, execution_ids: Collection[str], leave_out: Collection[str] = ()
) -> dict[str, ExecutionRow]:
    """Return those of these executions that exist, by id."""
    statement = select(*execution_columns(leave_out)).where(executions.c.id.in_(execution_ids))
    with database.read() as connection:
        return {row.id: execution_row(row) for row in connection.execute(statement)}


def stages_by_execution(database: Database, execution_ids: Collection[str]) -> dict[str, list[StageRow]]:
    """Return the stages of each execution, in topological order."""
    statement = select(*STAGE_COLUMNS).where(stage_runs.c.execution_id.in_(execution_ids))
    found: defaultdict[str, list[StageRow]] = defaultdict(list)
    with database.read() as connection:
        for row in connection.execute(statement.order_by(stage_runs.c.execution_id, stage_runs.c.position)):
            found[row.execution_id].append(stage_row(row))
    return dict(found)


def latest_executions(
    database: Database, pipeline_ids: Collection[str], limit: int = 1, leave_out: Collection[str] = ()
) -> dict[str, list[ExecutionRow]]:
    """Return the `limit` newest executions of each pipeline, newest first."""
    found: defaultdict[str, list[ExecutionRow]] = defaultdict(list)
    with database.read() as connection:
        for row in _first_of_each(
            connection,
            parent=pipelines.c.id.in_(pipeline_ids),
            child=executions,
            link=executions.c.pipeline_id,
            to=pipelines.c.id,
            key=executions.c.id,
            order=lambda table: (table.c.pipeline_id.desc(), table.c.created_at.desc(), table.c.id.desc()),
            columns=execution_columns(leave_out),
            limit=limit,
        ):
            found[row.pipeline_id].append(execution_row(row))
    for rows in found.values():
        rows.sort(key=lambda row: (row.created_at, row.id), reverse=True)
    return dict(found)


def first_events(
    database: Database,
    execution_ids: Collection[str],
    limit: int,
    *,
    after: int = 0,
    levels: Collection[Level] | None = None,
) -> dict[str, list[Event]]:
    """Return the first `limit` events of each execution after number `after`, in order; only of `levels`, if given."""

    def wanted(table: FromClause) -> list[ColumnElement[bool]]:
        among = [] if levels is None else [table.c.level.in_(levels)]
        return [table.c.seq > after, *among]

    found: defaultdict[str, list[Event]] = defaultdict(list)
    with database.read() as connection:
        for row in _first_of_each(
            connection,
            parent=executions.c.id.in_(execution_ids),
            child=events,
            link=events.c.execution_id,
            to=executions.c.id,
            key=events.c.seq,
            order=lambda table: (table.c.execution_id.asc(), table.c.seq.asc()),
            columns=list(events.c),
            limit=limit,
            conditions=wanted,
        ):
            found[row.execution_id].append(event_of(row))
    for rows in found.values():
        rows.sort(key=lambda event: event.seq)
    return dict(found)


def events_of_types(database: Database, execution_ids: Collection[str], types: Collection[EventType]) -> list[Event]:
    """Return all events of these types of these executions, in order within each execution."""
    statement = select(events).where(events.c.execution_id.in_(execution_ids), events.c.type.in_(types))
    with database.read() as connection:
        return [event_of(row) for row in connection.execute(statement.order_by(events.c.execution_id, events.c.seq))]


def _first_of_each(
    connection: Connection,
    *,
    parent: ColumnElement[bool],
    child: Table,
    link: Column[Any],
    to: Column[Any],
    key: Column[Any],
    order: Callable[[FromClause], Sequence[ColumnElement[Any]]],
    columns: Sequence[ColumnElement[Any]],
    limit: int,
    conditions: Callable[[FromClause], Sequence[ColumnElement[bool]]] = lambda _table: (),
) -> Sequence[Row[Any]]:
    """Return the first `limit` rows of `child` for each parent row, unordered; `link` holds the parent's key (`to`).

    Each database needs its own form to read only these rows. PostgreSQL uses a lateral join. It compares `link` as a
    range and sorts by it: with an equality the planner may scan an index over the remaining order, through the rows of
    all other parents. SQLite has no lateral join and uses a list of keys for each parent.
    """
    if connection.dialect.name == "postgresql":
        each = select(*columns).where(link.between(to, to), *conditions(child)).order_by(*order(child)).limit(limit)
        lateral = each.correlate(to.table).lateral()
        return connection.execute(select(lateral).select_from(to.table.join(lateral, true())).where(parent)).all()
    inner = child.alias("inner_rows")
    keys = select(inner.c[key.name]).where(inner.c[link.name] == to, *conditions(inner)).order_by(*order(inner))
    chosen = key.in_(keys.limit(limit).correlate(to.table))
    joined = to.table.join(child, and_(link == to, chosen) if link.primary_key else chosen)
    return connection.execute(select(*columns).select_from(joined).where(parent)).all()
