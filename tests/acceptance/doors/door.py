"""What can be done with the product, whichever door one comes through, and what is seen there: plain values.

Each door says what it shows in these values and nothing else, so that what two doors show can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flexiroaster.model.command import CommandKind
from tests.waiting import eventually

__all__ = ["Definition", "Door", "Execution", "Line", "Problem", "RefusedError", "Stage"]

Definition = Mapping[str, Any]
"""A definition as its author writes it; it has an `id`."""

LIVE = {"pending", "running"}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a definition; the path is in the model's spelling, such as `stages[1].max_retries`."""

    path: str
    message: str
    code: str


class RefusedError(Exception):
    """What was asked for is not done: the code of the error, its sentence, and the problems of a definition."""

    def __init__(self, code: str, message: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(code, message, problems)
        self.code = code
        self.message = message
        self.problems = problems


@dataclass(frozen=True)
class Stage:
    """A stage's part of an execution."""

    id: str
    name: str
    status: str
    rows: int | None
    error: str | None


@dataclass(frozen=True)
class Execution:
    """An execution with its stages, in topological order. `error` is the sentence."""

    id: str
    pipeline_id: str
    pipeline_name: str
    status: str
    completed: int
    variables: dict[str, Any]
    risk_score: float | None
    error: str | None
    stages: tuple[Stage, ...]

    @property
    def outline(self) -> list[tuple[str, str, int | None]]:
        """Of each stage its id, its status and the rows it gave."""
        return [(stage.id, stage.status, stage.rows) for stage in self.stages]


@dataclass(frozen=True)
class Line:
    """A line of the log. `error_class`: of the error that it tells of."""

    seq: int
    level: str
    stage_id: str | None
    message: str
    error_class: str | None


class Door:
    """A way into an installation. What a door cannot do it does not override; docs/doors.md says why."""

    name: str

    def validate(self, definition: Definition) -> list[Problem]:
        """All that is wrong with it."""
        raise NotImplementedError

    def run(self, definition: Definition, variables: Mapping[str, Any] | None = None) -> str:
        """Store it unless it is stored, start it, wait for its end; the execution's id."""
        raise NotImplementedError

    def create(self, definition: Definition) -> str:
        """Store it as a new pipeline; its id."""
        raise NotImplementedError

    def definition(self, pipeline_id: str) -> dict[str, Any]:
        """The stored definition."""
        raise NotImplementedError

    def pipelines(self) -> dict[str, bool]:
        """Of every pipeline whether it is active."""
        raise NotImplementedError

    def activate(self, pipeline_id: str) -> None:
        """Let it be started again."""
        raise NotImplementedError

    def deactivate(self, pipeline_id: str) -> None:
        """Refuse starts."""
        raise NotImplementedError

    def delete(self, pipeline_id: str) -> None:
        """Take it out of use."""
        raise NotImplementedError

    def start(self, pipeline_id: str, variables: Mapping[str, Any] | None = None) -> str:
        """Start a stored pipeline and come back at once; the execution's id."""
        raise NotImplementedError

    def start_once(self, pipeline_id: str, key: str, variables: Mapping[str, Any] | None = None) -> str:
        """The same with an idempotency key."""
        raise NotImplementedError

    def show(self, execution_id: str) -> Execution | None:
        """It as it stands; None where a door says so of one that there is not."""
        raise NotImplementedError

    def executions(self, pipeline_id: str) -> dict[str, str]:
        """The status of every execution of a pipeline, newest first."""
        raise NotImplementedError

    def logs(self, execution_id: str) -> list[Line]:
        """What happened, from the level `info` on, oldest first."""
        raise NotImplementedError

    def stop(self, execution_id: str) -> None:
        """Ask for it."""
        raise NotImplementedError

    def pause(self, execution_id: str) -> None:
        """Ask for it."""
        raise NotImplementedError

    def resume(self, execution_id: str) -> None:
        """Ask for it."""
        raise NotImplementedError

    def retry(self, execution_id: str) -> None:
        """Ask for it."""
        raise NotImplementedError

    def rerun(self, execution_id: str, from_stage: str) -> str:
        """Start a new execution from a stage on; its id."""
        raise NotImplementedError

    def rollback(self, execution_id: str) -> None:
        """Ask for it."""
        raise NotImplementedError

    # --- the same for all -------------------------------------------------------------------------------------------

    def seen(self, execution_id: str) -> Execution:
        """One that there is."""
        found = self.show(execution_id)
        assert found is not None
        return found

    def ask(self, command: CommandKind, execution_id: str) -> None:
        """Ask for a command by its name."""
        asked: Callable[[str], None] = getattr(self, command)
        asked(execution_id)

    def wait(self, execution_id: str) -> None:
        """Until it has ended or is paused."""
        eventually(lambda: self.seen(execution_id).status not in LIVE, within=60)
