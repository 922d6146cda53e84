"""The driver's loop by itself, without processes: what other threads do to it, and what it does not take harm from."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from flexiroaster.engine.driven_execution import DrivenExecution, DrivenExecutionRegistry, Limits
from flexiroaster.engine.driver import Driver, commit
from flexiroaster.engine.event_loop import Listeners
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import LeaseLostError, StoreError
from flexiroaster.model.pipeline import parse_pipeline
from flexiroaster.store.journal.transitions import Applied, Transition
from tests.waiting import eventually

PIPELINE = parse_pipeline({"id": "p", "name": "Pipe", "stages": [{"id": "a", "type": "transform"}]})


class NoProcesses:
    """A runner whose processes are all busy."""

    free = 0

    def kill_processes(self) -> None: ...
    def close(self) -> None: ...


class Written:
    """A journal that refuses only the executions that `refused` names."""

    def __init__(self, refused: Callable[[str], StoreError | None] = lambda _: None) -> None:
        self.refused = refused
        self.calls: list[list[str]] = []

    def apply_each(self, changes: Sequence[Transition]) -> tuple[dict[str, Applied], dict[str, StoreError]]:
        ids = [change.execution_id for change in changes]
        self.calls.append(ids)
        refused = {i: error for i in ids if (error := self.refused(i)) is not None}
        return {i: Applied() for i in ids if i not in refused}, refused


def execution(name: str) -> Execution:
    return Execution(name, PIPELINE, {}, token=1)


def driven(execution: Execution) -> DrivenExecution:
    nothing: Any = None
    return DrivenExecution(execution, nothing, nothing, Limits(), nothing, nothing)


@pytest.fixture
def driver() -> Iterator[Driver]:
    journal: Any = Written()
    made = Driver(lambda: journal, lambda _ids: [], lambda *_: NoProcesses())  # type: ignore[arg-type, return-value]
    yield made
    made.close()


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_it_survives_what_is_submitted_while_it_looks_at_all_it_drives(driver: Driver, switching: None) -> None:
    done = threading.Event()

    def submit() -> None:
        for number in range(2000):
            driver.submit(execution(f"x{number}"))
        done.set()

    thread = threading.Thread(target=submit)
    thread.start()
    while not done.is_set():
        driver.look_for_commands()
        assert driver.suspects == 0
        assert driver.driven is not driver.driven
    thread.join()
    assert len(driver.driven) == 2000
    assert driver.alive
    assert driver.hand_over(60) == {f"x{number}" for number in range(2000)}


def test_what_is_iterated_over_is_a_copy() -> None:
    known = DrivenExecutionRegistry()
    known.add(driven(execution("a")))
    for each in known.all():
        known.remove(each)
        known.add(driven(execution("b")))
    assert known.ids() == {"b"}
    known.remove(driven(execution("b")))
    assert known.ids() == {"b"}, "another one under that id"


def test_a_driver_that_has_failed_hands_nothing_over_and_says_why(driver: Driver) -> None:
    def fail() -> None:
        raise KeyError("x")

    driver.submit(execution("a"))
    driver._post(fail)
    eventually(lambda: not driver.alive)
    assert driver.failure == "KeyError: 'x'"
    assert driver.hand_over(60) == set()
    assert driver.driven == set()
    driver.submit(execution("b"))
    assert driver.driven == set(), "what comes later is given up at once"


def test_a_listener_may_end_its_listening_twice_and_while_it_hears() -> None:
    listeners, heard = Listeners(), []
    ends: list[Callable[[], None]] = []

    def once(events: Sequence[Any]) -> None:
        heard.append(events)
        ends[0]()

    ends.append(listeners.add(once))
    listeners.publish(["first"])  # type: ignore[list-item]
    listeners.publish(["second"])  # type: ignore[list-item]
    ends[0]()
    assert heard == [["first"]]


def transition(name: str) -> Transition:
    x = execution(name)
    x.begin_if_pending(x.started_at)  # type: ignore[arg-type]
    taken = x.collect_transition()
    assert taken is not None
    return taken


def test_a_change_that_cannot_be_written_fails_only_its_execution() -> None:
    journal: Any = Written(lambda name: StoreError("it cannot be encoded") if name == "bad" else None)
    refusals = commit(lambda: journal, [transition(name) for name in ("a", "bad", "b")])
    assert {name: str(error) for name, error in refusals.items()} == {"bad": "it cannot be encoded"}
    assert journal.calls == [["a", "bad", "b"]]


def test_without_a_journal_no_change_is_written() -> None:
    def away() -> Any:
        raise StoreError("away")

    refusals = commit(away, [transition(name) for name in ("a", "b")])
    assert {name: str(error) for name, error in refusals.items()} == {"a": "away", "b": "away"}


def test_what_did_not_land_has_lost_its_lease() -> None:
    class Lossy(Written):
        def apply_each(self, changes: Sequence[Transition]) -> tuple[dict[str, Applied], dict[str, StoreError]]:
            landed, refused = super().apply_each(changes)
            return {name: one for name, one in landed.items() if name != "lost"}, refused

    journal: Any = Lossy()
    refusals = commit(lambda: journal, [transition(name) for name in ("a", "lost")])
    assert list(refusals) == ["lost"]
    assert isinstance(refusals["lost"], LeaseLostError)
