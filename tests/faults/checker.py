"""Reads a database after the faults and says what is wrong with it: a pure function over its rows.

It knows the promises and nothing of how they are kept: it replays the events of each execution through the table of
`flexiroaster.model.execution`, holds the result against the rows, and counts the effects where they were taken.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Row, select

from flexiroaster.config import psycopg_url
from flexiroaster.model.event import EventType
from flexiroaster.model.execution import (
    MOVES,
    STAGE_MOVES,
    TERMINAL,
    ExecutionStatus,
    StageStatus,
)
from flexiroaster.store.tables import events, executions, stage_runs
from tests.faults.workload import OUTPUTS, ROWS, TABLE

__all__ = ["Checker", "Replay", "replayed"]

E, S, T = ExecutionStatus, StageStatus, EventType

EXECUTION_EVENTS: Mapping[EventType, ExecutionStatus] = {
    T.EXECUTION_STARTED: E.RUNNING,
    T.EXECUTION_RESUMED: E.RUNNING,
    T.EXECUTION_RETRIED: E.RUNNING,
    T.EXECUTION_PAUSED: E.PAUSED,
    T.EXECUTION_COMPLETED: E.COMPLETED,
    T.EXECUTION_FAILED: E.FAILED,
    T.EXECUTION_CANCELLED: E.CANCELLED,
    T.ROLLBACK_COMPLETED: E.ROLLED_BACK,
    T.ROLLBACK_FAILED: E.FAILED,
}
STAGE_EVENTS: Mapping[EventType, StageStatus] = {
    T.STAGE_STARTED: S.RUNNING,
    T.STAGE_COMPLETED: S.COMPLETED,
    T.STAGE_RETRYING: S.WAITING,
    T.STAGE_FAILED: S.FAILED,
    T.STAGE_SKIPPED: S.SKIPPED,
    T.STAGE_CANCELLED: S.CANCELLED,
    T.STAGE_INTERRUPTED: S.PENDING,
    T.STAGE_UNDONE: S.ROLLED_BACK,
}
BY_COMMAND = frozenset(
    {T.EXECUTION_CLAIMED, T.EXECUTION_RETRIED, T.ROLLBACK_STARTED, T.COMMAND_REFUSED, T.EXECUTION_RELEASED}
)
"""What may follow a terminal state: all of it because somebody asked."""

UNDOING = frozenset(
    {
        T.STAGE_UNDOING,
        T.STAGE_UNDONE,
        T.STAGE_UNDO_FAILED,
        T.STAGE_LOG,
        T.STAGE_PROGRESS,
        T.ROLLBACK_COMPLETED,
        T.ROLLBACK_FAILED,
    }
)


class Replay:
    """The states of one execution as its events tell them, and where they break a rule."""

    def __init__(self, execution_id: str, stages: Iterable[str], taken_over: Collection[str] = ()) -> None:
        self.id = execution_id
        self.status = E.PENDING
        self.stages = {stage: S.COMPLETED if stage in taken_over else S.PENDING for stage in stages}
        self.problems: list[str] = []
        self._undoing = False

    def add(self, kind: EventType, stage_id: str | None, seq: int, again: Collection[str] = ()) -> None:
        self._check_final(kind, seq)
        if kind is T.ROLLBACK_STARTED:
            self._undoing = True
        if kind in {T.ROLLBACK_COMPLETED, T.ROLLBACK_FAILED}:
            self._undoing = False
        if kind in EXECUTION_EVENTS:
            self._move(EXECUTION_EVENTS[kind], kind, seq)
        if kind in STAGE_EVENTS:
            self._move_stage(stage_id or "", STAGE_EVENTS[kind], seq)
        for stage in again:
            self._move_stage(stage, S.PENDING, seq)

    def _check_final(self, kind: EventType, seq: int) -> None:
        allowed = BY_COMMAND | UNDOING if self._undoing else BY_COMMAND
        if self.status in TERMINAL and kind not in allowed:
            self._problem(f"event {seq} ({kind}) after the terminal state {self.status}")

    def _move(self, status: ExecutionStatus, kind: EventType, seq: int) -> None:
        same = kind is T.ROLLBACK_FAILED and self.status is E.FAILED
        if status not in MOVES[self.status] and not same:
            self._problem(f"event {seq}: {self.status} -> {status}")
        self.status = status

    def _move_stage(self, stage: str, status: StageStatus, seq: int) -> None:
        if stage not in self.stages:
            self._problem(f"event {seq}: unknown stage {stage!r}")
            return
        if status not in STAGE_MOVES[self.stages[stage]]:
            self._problem(f"event {seq}: stage {stage} {self.stages[stage]} -> {status}")
        self.stages[stage] = status

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self.id}: {text}")


def replayed(execution_id: str, stages: Sequence[Row[Any]], log: Sequence[Row[Any]]) -> Replay:
    """Replay an execution's events (type, stage_id, seq, data) in order; numbers that have a gap are a problem too."""
    taken_over = {row.stage_id for row in stages if row.status == S.COMPLETED and row.started_at is None}
    replay = Replay(execution_id, [row.stage_id for row in stages], taken_over)
    if [row.seq for row in log] != list(range(1, len(log) + 1)):
        replay.problems.append(f"{execution_id}: its events are not numbered 1..{len(log)}")
    for row in log:
        begin_anew = EventType(row.type) in {T.EXECUTION_RETRIED, T.EXECUTION_RESUMED}
        replay.add(EventType(row.type), row.stage_id, row.seq, row.data["again"] if begin_anew else ())
    return replay


class Checker:
    """What is to be checked: the database, where the effects were taken, and which executions were asked for."""

    def __init__(self, database_url: str, output_url: str, files: Path) -> None:
        self._database = sqlalchemy.create_engine(psycopg_url(database_url))
        self._outputs = sqlalchemy.create_engine(psycopg_url(output_url))
        self._files = files

    def close(self) -> None:
        self._database.dispose()
        self._outputs.dispose()

    def violations(self, wanted: Collection[str], *, ends: Collection[str] = TERMINAL) -> list[str]:
        """Everything that breaks a promise, a sentence each; `ends` are the states that executions must be in."""
        with self._database.connect() as connection:
            found = {row.id: row for row in connection.execute(select(executions)) if row.id in wanted}
            problems = [f"{i}: lost" for i in wanted if i not in found]
            for row in found.values():
                problems += self._state(connection, row, ends)
        return problems

    def _state(self, connection: Connection, row: Row[Any], ends: Collection[str]) -> Iterator[str]:
        key = row.id
        stages = connection.execute(select(stage_runs).where(stage_runs.c.execution_id == key)).all()
        log = connection.execute(select(events).where(events.c.execution_id == key).order_by(events.c.seq)).all()
        replay = replayed(key, stages, log)
        yield from replay.problems
        if row.status not in ends:
            yield f"{key}: stuck in {row.status}"
        if row.status != replay.status:
            yield f"{key}: is {row.status}, its events say {replay.status}"
        if row.last_seq != len(log):
            yield f"{key}: last_seq is {row.last_seq}, it has {len(log)} events"
        for stage in stages:
            if stage.status != replay.stages[stage.stage_id]:
                yield f"{key}: stage {stage.stage_id} is {stage.status}, its events say {replay.stages[stage.stage_id]}"
        if row.status in TERMINAL and (row.claimable_at or row.lease_owner or row.slot is not None):
            yield f"{key}: has ended and still holds a lease or a slot"
        if row.completed_stages != sum(stage.status == S.COMPLETED for stage in stages):
            yield f"{key}: counts {row.completed_stages} completed stages, which is not so"
        yield from self._effects(key, {stage.stage_id: S(stage.status) for stage in stages})

    def _effects(self, key: str, stages: Mapping[str, StageStatus]) -> Iterator[str]:
        rows = self._rows(key)
        for stage in (stage for stage in OUTPUTS if stage in stages):
            count = self._lines(key) if stage == "file" else rows[stage]
            expected = {S.COMPLETED: {ROWS}, S.ROLLED_BACK: {0}, S.PENDING: {0, ROWS}}.get(stages[stage], {0, ROWS})
            if count not in expected:
                told = "missing" if count < min(expected) else "duplicated"
                yield f"{key}: the effect of {stage} ({stages[stage]}) is {told}: {count} rows"

    def _rows(self, key: str) -> Counter[str]:
        with self._outputs.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table(TABLE):
                return Counter()
            statement = sqlalchemy.text(
                f"SELECT _stage_id, count(*) FROM {TABLE} WHERE _execution_id = :key AND execution = :key GROUP BY 1"
            )
            return Counter({row[0]: row[1] for row in connection.execute(statement, {"key": key})})

    def _lines(self, key: str) -> int:
        path = self._files / f"{key}.csv"
        return len(path.read_text().splitlines()) - 1 if path.exists() else 0

    def overlaps(self, wanted: Collection[str]) -> list[str]:
        """Of executions of which only one may run at a time, those that began before another had ended."""
        with self._database.connect() as connection:
            statement = select(executions).where(executions.c.id.in_(wanted)).order_by(executions.c.started_at)
            rows = connection.execute(statement).all()
        return [
            f"{later.id}: began before {former.id} had ended"
            for former, later in itertools.pairwise(rows)
            if not (later.started_at and former.completed_at and later.started_at >= former.completed_at)
        ]

    def snapshot(self, wanted: Collection[str]) -> list[Any]:
        """All rows of these executions, to see whether anything was written between two looks."""
        tables = (
            (executions, executions.c.id),
            (stage_runs, stage_runs.c.execution_id),
            (events, events.c.execution_id),
        )
        with self._database.connect() as connection:
            return [
                [tuple(map(str, row)) for row in connection.execute(select(table).order_by(*table.primary_key.columns))
                 if row._mapping[key.name] in wanted]
                for table, key in tables
            ]  # fmt: skip

    def count_events(self, kind: EventType, containing: str = "") -> int:
        statement = select(sqlalchemy.func.count()).where(events.c.type == kind, events.c.message.contains(containing))
        with self._database.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    def statuses(self, wanted: Collection[str]) -> dict[str, str]:
        with self._database.connect() as connection:
            statement = select(executions.c.id, executions.c.status).where(executions.c.id.in_(wanted))
            return {row.id: row.status for row in connection.execute(statement)}

    def all_ended(self, wanted: Collection[str]) -> bool:
        return set(self.statuses(wanted).values()) <= set(TERMINAL)

    def execution(self, key: str) -> Row[Any]:
        with self._database.connect() as connection:
            return connection.execute(select(executions).where(executions.c.id == key)).one()

    def log_of(self, key: str) -> Sequence[Row[Any]]:
        with self._database.connect() as connection:
            return connection.execute(select(events).where(events.c.execution_id == key).order_by(events.c.seq)).all()
