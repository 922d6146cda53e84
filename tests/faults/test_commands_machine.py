"""Commands, attempts, crashes and hand-overs in any order, against the state machine and the journal; no processes.

The machine plays the driver of one execution, with the same calls in the same order as `engine/driver.py` makes them,
and everybody else besides: those who ask for commands, the clock, and the crash after which another driver comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flexiroaster.config import Settings, load_settings
from flexiroaster.engine.executor import Execution
from flexiroaster.engine.obedience import obey
from flexiroaster.engine.restore import restore
from flexiroaster.errors import ConflictError, ErrorClass, NotAllowedError
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import Event, EventType, utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, StageStatus
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.service.installation import Installation
from flexiroaster.store import claims, commands, definitions, recovery
from flexiroaster.store.changes import NewExecution, NewStage, Transition
from flexiroaster.store.tables import events, executions, stage_runs
from tests.faults.checker import replayed
from tests.faults.tiers import FULL, record, trials

OWNER, LEASE = "machine", 3600.0
EFFECT = {"rows": 1, "effect": {"kind": "database", "rows": 1}}
SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "chain": {"a": (), "b": ("a",), "c": ("b",)},
    "diamond": {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")},
    "wide": {"a": (), "b": (), "c": (), "d": ("a",)},
}


def _stage(stage_id: str, dependencies: tuple[str, ...], *, critical: bool, output: bool) -> dict[str, Any]:
    kind = "output" if output else "transform" if dependencies else "input"
    common = {"max_retries": 2, "retry_delay": 5.0, "is_critical": critical, "dependencies": list(dependencies)}
    return {"id": stage_id, "type": kind, **common}


class Commands(RuleBasedStateMachine):
    """One execution, its driver if it has one, and the database."""

    installation: Installation
    revisions: dict[tuple[str, str, bool], Any]
    ran = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).ran += 1
        self.driven: Execution | None = None
        self.seen: set[int] = set()
        self.attempts: dict[str, str] = {}  # stage -> key: what runs in processes
        self.stale: list[Transition] = []
        self.lines = 0

    @property
    def database(self) -> Any:
        return self.installation.database

    @initialize(shape=st.sampled_from(sorted(SHAPES)), soft=st.sampled_from(["", "b", "c"]), slots=st.booleans())
    def _create(self, shape: str, soft: str, slots: bool) -> None:
        key = (shape, soft, slots)
        if key not in self.revisions:
            stages = [_stage(i, d, critical=i != soft, output=i in "bd") for i, d in SHAPES[shape].items()]
            body: dict[str, Any] = {"name": "Machine", "stages": stages, "concurrency": 1000 if slots else None}
            body["id"] = f"machine-{len(self.revisions)}"
            self.revisions[key] = definitions.create(self.database, Pipeline.model_validate(body))
        revision = self.revisions[key]
        self.pipeline: Pipeline = revision.pipeline
        self.id = f"machine-{type(self).ran}-{id(self)}"
        self.names = {stage.id: stage.title for stage in self.pipeline.stages}
        new = NewExecution(
            execution_id=self.id,
            pipeline_id=revision.id,
            pipeline_name=self.pipeline.name,
            revision=1,
            variables={},
            triggered_by="machine",
            stages=tuple(NewStage(i, self.names[i]) for i in self.pipeline.order()),
            event=Event(self.id, 1, EventType.EXECUTION_CREATED, "created"),
            concurrency=self.pipeline.concurrency,
        )
        assert self.id in self.installation.journal.apply([new])

    # --- everybody else --------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(sorted(CommandKind)), interrupt=st.booleans())
    def request(self, kind: CommandKind, interrupt: bool) -> None:
        mode = {"mode": "interrupt" if interrupt else "drain"}
        try:
            commands.request(
                self.database, self.id, kind, mode, requested_by="ann", concurrency=self.pipeline.concurrency
            )
        except (NotAllowedError, ConflictError):
            return

    @precondition(lambda self: self.driven is None)
    @rule()
    def claim(self) -> None:
        """As scheduler and driver do: claim, load, restore, carry the commands out, begin."""
        claimed = claims.claim_one(self.database, OWNER, self.id, lease_seconds=LEASE)
        if claimed is None:
            return
        stored = recovery.load(self.database, self.id)
        self.driven = restore(stored, claimed.token, utc_now())
        self.seen, self.attempts = set(), {}
        self.driven.waits = stored.queued
        self._obey(stored.commands)
        self.driven.begin_if_pending(utc_now())
        self._commit()

    @precondition(lambda self: self.driven is not None)
    @rule(unwritten=st.booleans())
    def crash(self, unwritten: bool) -> None:
        """Its driver is gone, perhaps with what it had not written; later it comes back and writes that after all."""
        assert self.driven is not None
        if unwritten and self.driven.startable:
            self.driven.start_next(utc_now())
            if (transition := self.driven.take()) is not None:
                self.stale.append(transition)
        self._forget()
        self._expire()

    @precondition(lambda self: self.driven is None and self.stale)
    @rule()
    def come_back(self) -> None:
        """A driver that was replaced writes: nothing lands once anybody has claimed since."""
        transition = self.stale.pop()
        row = self._row()
        landed = self.installation.journal.apply([transition])
        if row.fencing_token != transition.token:
            assert landed == {}
            assert self._row() == row
        else:
            assert landed, "nobody has claimed, so it is still the driver"
            self._expire()

    # --- the driver ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.driven is not None)
    @rule()
    def look_for_commands(self) -> None:
        self._obey(commands.pending(self.database, [self.id]))
        self._commit()

    @precondition(lambda self: self.driven is not None and self.driven.startable)
    @rule(count=st.integers(1, 3))
    def start(self, count: int) -> None:
        assert self.driven is not None
        for _ in range(count):
            task = self.driven.start_next(utc_now())
            if task is not None:
                assert task.stage_id not in self.attempts, "two attempts of one stage at a time"
                self.attempts[task.stage_id] = task.key
        self._commit()

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        self._end(data, lambda driven, stage: driven.stage_completed(stage, dict(EFFECT), utc_now()))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), error=st.sampled_from(sorted(ErrorClass)))
    def fail(self, data: st.DataObject, error: ErrorClass) -> None:
        described = {"message": "it failed", "class": error.value, "type": "error"}
        self._end(data, lambda driven, stage: driven.stage_failed(stage, described, utc_now()))

    @precondition(lambda self: self.driven is not None and self._waiting())
    @rule(data=st.data())
    def wait_is_over(self, data: st.DataObject) -> None:
        assert self.driven is not None
        self.driven.retry(data.draw(st.sampled_from(self._waiting())))
        self._commit()

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def say_something(self, data: st.DataObject) -> None:
        assert self.driven is not None
        self.driven.progress(data.draw(st.sampled_from(sorted(self.attempts))), 0.5, "half", utc_now())
        self._commit()

    @precondition(lambda self: self.driven is not None and self.driven.status is ExecutionStatus.RUNNING)
    @rule()
    def exceed_the_limit(self) -> None:
        assert self.driven is not None
        self.driven.time_out(1.0, utc_now())
        self._commit()

    @precondition(lambda self: self.driven is not None)
    @rule()
    def hand_over(self) -> None:
        assert self.driven is not None
        self.driven.prepare_interrupt()
        self.attempts = {}
        self.driven.interrupt(utc_now())
        self._commit()
        if self.driven is not None:
            self._forget()
            claims.release(self.database, OWNER, [self.id])

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def the_log_tells_the_rows(self) -> None:
        if not hasattr(self, "id"):
            return
        with self.database.read() as connection:
            row = connection.execute(sqlalchemy.select(executions).where(executions.c.id == self.id)).one()
            stages = connection.execute(sqlalchemy.select(stage_runs).where(stage_runs.c.execution_id == self.id)).all()
            log = connection.execute(
                sqlalchemy.select(events).where(events.c.execution_id == self.id).order_by(events.c.seq)
            ).all()
        replay = replayed(self.id, stages, log)
        assert replay.problems == []
        assert row.last_seq == len(log)
        assert (row.status, {s.stage_id: s.status for s in stages}) == (replay.status, replay.stages)
        assert row.completed_stages == sum(s.status == "completed" for s in stages)
        if row.status in TERMINAL and row.goal == "run" and self.driven is None and not self._pending():
            assert row.slot is None
            assert row.claimable_at is None

    @invariant()
    def the_next_driver_would_find_the_same(self) -> None:
        if self.driven is None:
            return
        stored = recovery.load(self.database, self.id)
        found = restore(stored, self.driven.token, utc_now())
        for command in stored.commands:  # a stop is handled only when it is over
            if command.id in self.seen:
                obey(found, command, utc_now())
        left = deepcopy(self.driven)
        left.interrupt(utc_now())
        assert _facts(found) == _facts(left)

    def teardown(self) -> None:
        """From wherever it is, it can be brought to an end."""
        if not hasattr(self, "id"):
            return
        for _ in range(100):
            row = self._row()
            if row.status in TERMINAL and row.goal == "run" and not self._pending():
                return
            if row.status == ExecutionStatus.PAUSED and self.driven is None and not self._pending():
                self.request(CommandKind.RESUME, False)
            self._go_on()
        raise AssertionError(f"it does not come to an end: {self._row()}")

    def _go_on(self) -> None:
        if self.driven is None:
            self.claim()
            return
        self.look_for_commands()
        while self.driven is not None and (self.driven.startable or self.attempts or self._waiting()):
            for stage in self._waiting():
                self.driven.retry(stage)
            if self.driven.startable:
                self.start(3)
            for stage in tuple(self.attempts):
                if self.driven is not None:
                    self._ended(stage, lambda driven, stage: driven.stage_completed(stage, dict(EFFECT), utc_now()))
        if self.driven is not None and self.driven.status is ExecutionStatus.PAUSED:
            raise AssertionError("it is paused, nothing runs, and still it is driven")

    # --- how -------------------------------------------------------------------------------------------------------

    def _end(self, data: st.DataObject, how: Callable[[Execution, str], object]) -> None:
        self._ended(data.draw(st.sampled_from(sorted(self.attempts))), how)

    def _ended(self, stage: str, how: Callable[[Execution, str], object]) -> None:
        assert self.driven is not None
        del self.attempts[stage]
        how(self.driven, stage)
        self._commit()

    def _obey(self, pending: list[Any]) -> None:
        assert self.driven is not None
        for command in pending:
            if command.id not in self.seen:
                self.seen.add(command.id)
                obey(self.driven, command, utc_now())

    def _commit(self) -> None:
        assert self.driven is not None
        transition = self.driven.take()
        if transition is None:
            return
        assert self.id in self.installation.journal.apply([transition]), "it did not land"
        if transition.release:
            assert not self.attempts, "it is let go while something runs"
            self._forget()

    def _forget(self) -> None:
        self.driven, self.attempts = None, {}

    def _expire(self) -> None:
        past = utc_now() - timedelta(seconds=1)
        with self.database.write() as connection:
            held = (executions.c.id == self.id) & executions.c.claimable_at.is_not(None)
            connection.execute(sqlalchemy.update(executions).where(held).values(claimable_at=past, claims=1))

    def _waiting(self) -> list[str]:
        if self.driven is None:
            return []
        return [i for i, run in self.driven.stages.items() if run.status is StageStatus.WAITING]

    def _pending(self) -> list[Any]:
        return commands.pending(self.database, [self.id])

    def _row(self) -> Any:
        with self.database.read() as connection:
            return connection.execute(sqlalchemy.select(executions).where(executions.c.id == self.id)).one()


def _facts(execution: Execution) -> dict[str, Any]:
    """What two drivers of one execution must agree on."""
    runs = execution.stages.items()
    return {
        "status": execution.status,
        "goal": execution.goal,
        "completed": execution.completed,
        "slot": execution.slot,
        "error": execution.error,
        "ended": execution.ended,
        "stages": {i: (r.status, r.attempt, r.output, r.error, r.started_at, r.retry_at) for i, r in runs},
        "missing": {i: r.missing for i, r in runs if r.status is StageStatus.PENDING},
        "ready": sorted(i for i in execution.ready if execution.stages[i].status is StageStatus.PENDING),
        "to undo": list(execution.rollback.todo) if execution.rollback is not None else None,
    }


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all runs: nothing in it knows of another execution."""
    import psycopg
    from sqlalchemy.engine import make_url

    folder = tmp_path_factory.mktemp("machine")
    url = f"sqlite:///{folder / 'machine.db'}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_uri")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS machine")
            connection.execute("CREATE DATABASE machine")
            connection.execute("ALTER DATABASE machine SET synchronous_commit = off")
        url = make_url(server).set(database="machine").render_as_string(hide_password=False)
    installation = Installation(_settings(url))
    yield installation
    installation.close()


def _settings(url: str) -> Settings:
    return load_settings(database_url=url, redis_url="redis://127.0.0.1:1/0")


def test_whatever_happens_in_whatever_order(opened: Installation) -> None:
    machine = type("Machine", (Commands,), {"installation": opened, "revisions": {}, "ran": 0})
    name = "SQLite" if opened.database.is_sqlite else "PostgreSQL"
    count = trials(50, 1400 if opened.database.is_sqlite else 600)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=count,
            stateful_step_count=60,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate,) if FULL else (Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    record("Commands, crashes and completion in any order: only states and moves of the table", name, machine.ran, [])
