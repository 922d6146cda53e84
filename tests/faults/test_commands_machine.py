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
from sqlalchemy.engine import make_url

from flexiroaster.config import load_settings
from flexiroaster.engine.scheduler import restore
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import ErrorClass, NotAllowedError
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, Goal
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.safety.anomaly.watch import Watch
from flexiroaster.safety.policy import PolicyRules
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store import commands, leases, pipelines
from flexiroaster.store.journal.transitions import Transition
from flexiroaster.store.tables import events, executions, stage_runs
from tests.faults.checker import replayed
from tests.faults.command_model import CommandModel
from tests.faults.machine_parts import EFFECT, SHAPES, facts, new_execution, shaped_pipeline
from tests.faults.tiers import record, trials

OWNER, LEASE = "machine", 3600.0


class Commands(RuleBasedStateMachine):
    """One execution, its driver if it has one, and the database."""

    installation: Installation
    revisions: dict[tuple[str, str, bool], Any]
    ran = 0
    reached: set[str]

    def __init__(self) -> None:
        super().__init__()
        type(self).ran += 1
        self.driven: Execution | None = None
        self.seen: set[int] = set()
        self.attempts: dict[str, str] = {}  # stage -> key: what runs in processes
        self.stale: list[Transition] = []
        self.touched = False  # something was written since the last look
        self.row: Any = None
        self.states: dict[str, str] = {}

    database = property(lambda self: self.installation.database)

    @initialize(
        shape=st.sampled_from(sorted(SHAPES)),
        soft=st.sampled_from(["", "b", "c"]),
        slots=st.booleans(),
        pause=st.booleans(),
        rollback=st.booleans(),
    )
    def _create(self, shape: str, soft: str, slots: bool, pause: bool = False, rollback: bool = False) -> None:
        self.rules = PolicyRules(pause=pause, rollback=rollback)
        key = (shape, soft, slots)
        if key not in self.revisions:
            pipeline = shaped_pipeline(f"machine-{len(self.revisions)}", shape, soft=soft, slots=slots)
            self.revisions[key] = pipelines.create(self.database, pipeline)
        self.pipeline: Pipeline = self.revisions[key].pipeline
        self.id = f"machine-{type(self).ran}-{id(self)}"
        assert self.id in self.installation.journal.apply([new_execution(self.id, self.revisions[key])])
        self.model = CommandModel(frozenset(stage.id for stage in self.pipeline.stages if stage.is_critical))
        self.touched = True

    # --- everybody else --------------------------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(sorted(CommandKind)),
        interrupt=st.booleans(),
        deadline=st.booleans(),
        skip=st.sampled_from(["", "a", "b"]),
    )
    def request(self, kind: CommandKind, interrupt: bool, deadline: bool, skip: str = "") -> None:
        arguments: dict[str, Any] = {"mode": "interrupt" if interrupt else "drain"}
        if skip:
            arguments["skip"] = [skip]
        if deadline:
            arguments["deadline"] = (utc_now() + timedelta(days=1)).isoformat()
        undone = "rolled_back" in self.states.values()
        allowed = self.model.may_ask(kind, self.row.status, anything_undone=undone)
        try:
            commands.request(
                self.database, self.id, kind, arguments, requested_by="ann", concurrency=self.pipeline.concurrency
            )
        except NotAllowedError:
            assert not allowed, f"{kind} was refused"
        else:
            assert allowed, f"{kind} was accepted"
            self.touched = True

    @precondition(lambda self: self._paused_until() is not None)
    @rule()
    def nobody_resumes_it(self) -> None:
        """The deadline of its pause passes; who drives it has a timer for that, else it becomes claimable."""
        past = utc_now() - timedelta(seconds=1)
        values = {"pause_deadline": past} | ({"claimable_at": past} if self.driven is None else {})
        with self.database.write() as connection:
            connection.execute(sqlalchemy.update(executions).where(executions.c.id == self.id).values(values))
        self.touched = True
        if self.driven is not None:
            self.driven.pause_deadline = past
            self._end_pause()
            self._commit()

    @precondition(lambda self: self.driven is None)
    @rule()
    def claim(self) -> None:
        """As scheduler and driver do: claim, load, restore, carry the commands out, begin."""
        owner = self._row().lease_owner
        claimed = leases.claim_one(self.database, OWNER, self.id, lease_seconds=LEASE)
        if claimed is None:
            return
        assert claimed.lost_by == owner
        self.touched = True
        stored = self._load()
        watch = Watch(rules=self.rules)
        self.driven = restore(stored, claimed.token, utc_now(), watch, lost_by=claimed.lost_by)
        self.seen, self.attempts = set(), {}
        self.driven.waits = stored.queued
        self._obey(stored.commands)
        if self.driven.overdue:
            self._end_pause()
        self.driven.begin_if_pending(utc_now())
        self._commit()

    @precondition(lambda self: self.driven is not None)
    @rule(unwritten=st.booleans())
    def crash(self, unwritten: bool) -> None:
        """Its driver is gone, perhaps with what it had not written; later it comes back and writes that after all."""
        assert self.driven is not None
        if unwritten and self.driven.startable:
            self.driven.start_next(utc_now())
            if (transition := self.driven.collect_transition()) is not None:
                self.stale.append(transition)
        self._forget()
        self._expire()

    @precondition(lambda self: self.driven is None and self.stale)
    @rule()
    def come_back(self) -> None:
        """A driver that was replaced writes: nothing lands once anybody has claimed since."""
        transition, row = self.stale.pop(), self._row()
        self.touched = True
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
        self._complete(data.draw(st.sampled_from(sorted(self.attempts))))

    @precondition(lambda self: self.driven is not None and (self.driven.startable or self.attempts))
    @rule(times=st.integers(1, 4))
    def go_well(self, times: int) -> None:
        """A few stages run, or are undone, without anything in between: what comes late is reached more often."""
        for _ in range(times):
            if self.driven is not None and self.driven.startable:
                self.start(3)
            if self.attempts:
                self._complete(min(self.attempts))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), error=st.sampled_from(sorted(ErrorClass)))
    def fail(self, data: st.DataObject, error: ErrorClass) -> None:
        described = {"message": "it failed", "class": error.value, "type": "error"}
        stage = data.draw(st.sampled_from(sorted(self.attempts)))
        self._ended(stage, lambda driven, stage: driven.stage_failed(stage, described, utc_now()))

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
        self.model.timed_out()
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
            leases.release(self.database, OWNER, [self.id])
            self.touched = True

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def all_agree(self) -> None:
        """The rows, the log, the driver, and the one that would take its place; looked at after every write."""
        if self.touched:
            self.touched = False
            self._the_log_tells_the_rows()
            self._the_next_driver_would_find_the_same()

    def _the_log_tells_the_rows(self) -> None:
        with self.database.read() as connection:
            row = connection.execute(sqlalchemy.select(executions).where(executions.c.id == self.id)).one()
            stages = connection.execute(sqlalchemy.select(stage_runs).where(stage_runs.c.execution_id == self.id)).all()
            log = connection.execute(
                sqlalchemy.select(events).where(events.c.execution_id == self.id).order_by(events.c.seq)
            ).all()
        self.row, self.states = row, {stage.stage_id: stage.status for stage in stages}
        self.reached.add(row.status)
        replay = replayed(self.id, stages, log)
        assert replay.problems == []
        assert row.last_seq == len(log)
        assert (row.status, self.states) == (replay.status, replay.stages)
        assert row.completed_stages == sum(status == "completed" for status in self.states.values())
        if row.status in TERMINAL and row.goal == "run" and self.driven is None and not self._pending():
            assert row.slot is None
            assert row.claimable_at is None

    def _the_next_driver_would_find_the_same(self) -> None:
        if self.driven is None:
            return
        stored = self._load()
        found = restore(stored, self.driven.token, utc_now(), Watch(rules=self.rules))
        for command in stored.commands:  # a stop is handled only when it is over
            if command.id in self.seen:
                found.apply_command(command, utc_now())
        if found.overdue:
            found.end_pause(utc_now())
        left = deepcopy(self.driven)
        for command in stored.commands:  # it has yet to hear of the slot that was taken for a retry
            left.slot = command.slot or left.slot
        left.interrupt(utc_now())
        assert facts(found) == facts(left)

    def teardown(self) -> None:
        """From wherever it is, it can be brought to an end."""
        if not hasattr(self, "id"):
            return
        for _ in range(100):
            self.all_agree()
            row = self.row
            if row.status in TERMINAL and row.goal == "run" and not self._pending():
                assert self.model.wrong_end(row.status, self.states, len((row.error or {}).get("left", ()))) is None
                return
            if row.status == ExecutionStatus.PAUSED and self.driven is None and not self._pending():
                self.request(CommandKind.RESUME, False, False)
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
                    self._complete(stage)
        paused = self.driven is not None and self.driven.status is ExecutionStatus.PAUSED
        assert not paused, "nothing runs, and still it is driven"

    def _complete(self, stage: str) -> None:
        self._ended(stage, lambda driven, stage: driven.stage_completed(stage, dict(EFFECT), utc_now()))

    def _ended(self, stage: str, how: Callable[[Execution, str], object]) -> None:
        assert self.driven is not None
        del self.attempts[stage]
        before = self.driven.goal
        how(self.driven, stage)
        if before is Goal.RUN and self.driven.goal is Goal.ROLLBACK:  # the policy has chosen so
            self.model.carried_out("rollback")
        self._commit()

    def _obey(self, pending: list[Any]) -> None:
        assert self.driven is not None
        for command in pending:
            if command.id not in self.seen:
                self.seen.add(command.id)
                self.driven.apply_command(command, utc_now())
                if command.id not in [number for number, outcome in self.driven.handled if outcome != "done"]:
                    self.model.carried_out(command.kind)

    def _end_pause(self) -> None:
        assert self.driven is not None
        if self.driven.end_pause(utc_now()):
            self.model.stopped()

    def _paused_until(self) -> Any:
        if self.driven is not None:
            return self.driven.pause_deadline
        return self.row.pause_deadline if self.row is not None else None

    def _commit(self) -> None:
        assert self.driven is not None
        transition = self.driven.collect_transition()
        if transition is None:
            return
        assert self.id in self.installation.journal.apply([transition]), "it did not land"
        self.touched = True
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
        self.touched = True

    def _waiting(self) -> list[str]:
        return [] if self.driven is None else sorted(self.driven.retries)

    def _pending(self) -> list[Any]:
        return commands.pending(self.database, [self.id])

    def _load(self) -> leases.Stored:
        return leases.load_execution(self.database, self.id, lambda _pipeline, _revision: self.pipeline)

    def _row(self) -> Any:
        with self.database.read() as connection:
            return connection.execute(sqlalchemy.select(executions).where(executions.c.id == self.id)).one()


@pytest.fixture
def opened(database_url: str) -> Iterator[Installation]:
    """One installation for all runs: nothing in it knows of another execution."""
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":  # no power cut is played here, and it is twice as fast
        url = url.update_query_dict({"options": "-c synchronous_commit=off"})
    database = url.render_as_string(hide_password=False)
    with open_installation(load_settings(database_url=database, redis_url="redis://127.0.0.1:1/0")) as installation:
        yield installation


def test_whatever_happens_in_whatever_order(opened: Installation) -> None:
    machine = type("Machine", (Commands,), {"installation": opened, "revisions": {}, "ran": 0, "reached": set()})
    name = "SQLite" if opened.database.is_sqlite else "PostgreSQL"
    count = trials(40, 1400 if opened.database.is_sqlite else 600)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=count,
            stateful_step_count=60,
            deadline=None,
            database=None,
            derandomize=True,  # the same runs each time: what fails can be repeated
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert machine.reached == set(ExecutionStatus)
    record("Commands, crashes and completion in any order: only allowed transitions", name, count, [])
