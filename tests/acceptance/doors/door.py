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
    """A problem of a definition; the path is in the model's spelling, such as `stages[1].max_retries`."""

    path: str
    message: str
    code: str


class RefusedError(Exception):
    """A refused request: the code of the error, its message, and the problems of a definition."""

    def __init__(self, code: str, message: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(code, message, problems)
        self.code = code
        self.message = message
        self.problems = problems


@dataclass(frozen=True)
class Stage:
    """A stage of an execution."""

    id: str
    name: str
    status: str
    rows: int | None
    error: str | None


@dataclass(frozen=True)
class Execution:
    """An execution with its stages, in topological order. `error` is the message."""

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
        """The id, status and number of rows of each stage."""
        return [(stage.id, stage.status, stage.rows) for stage in self.stages]


@dataclass(frozen=True)
class Line:
    """A line of the log. `error_class` is the class of the error that it reports."""

    seq: int
    level: str
    stage_id: str | None
    message: str
    error_class: str | None


class Door:
    """An interface of an installation. It overrides only the calls that it has; docs/doors.md gives the reasons."""

    name: str

    def validate(self, definition: Definition) -> list[Problem]:
        """Return all problems of a definition."""
        raise NotImplementedError

    def run(self, definition: Definition, variables: Mapping[str, Any] | None = None) -> str:
        """Store a definition if needed, start it and wait for its end; return the execution's id."""
        raise NotImplementedError

    def create(self, definition: Definition) -> str:
        """Store a definition as a new pipeline; return its id."""
        raise NotImplementedError

    def definition(self, pipeline_id: str) -> dict[str, Any]:
        """Return the stored definition."""
        raise NotImplementedError

    def pipelines(self) -> dict[str, bool]:
        """Map each pipeline to whether it is active."""
        raise NotImplementedError

    def activate(self, pipeline_id: str) -> None:
        """Activate the pipeline so it can be started."""
        raise NotImplementedError

    def deactivate(self, pipeline_id: str) -> None:
        """Deactivate the pipeline so it cannot be started."""
        raise NotImplementedError

    def delete(self, pipeline_id: str) -> None:
        """Delete the pipeline."""
        raise NotImplementedError

    def start(self, pipeline_id: str, variables: Mapping[str, Any] | None = None) -> str:
        """Start a stored pipeline without waiting; return the execution's id."""
        raise NotImplementedError

    def start_once(self, pipeline_id: str, key: str, variables: Mapping[str, Any] | None = None) -> str:
        """Like `start`, with an idempotency key."""
        raise NotImplementedError

    def show(self, execution_id: str) -> Execution | None:
        """Return the execution; None if the interface reports a missing one that way."""
        raise NotImplementedError

    def executions(self, pipeline_id: str) -> dict[str, str]:
        """Return the status of each execution of a pipeline, newest first."""
        raise NotImplementedError

    def logs(self, execution_id: str) -> list[Line]:
        """Return the log at level `info` and above, oldest first."""
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
        """Start a new execution from a stage; return its id."""
        raise NotImplementedError

    def rollback(self, execution_id: str) -> None:
        """Ask for it."""
        raise NotImplementedError

    # --- the same for all -------------------------------------------------------------------------------------------

    def seen(self, execution_id: str) -> Execution:
        """Return an execution that exists."""
        found = self.show(execution_id)
        assert found is not None
        return found

    def ask(self, command: CommandKind, execution_id: str) -> None:
        """Send a command by its name."""
        asked: Callable[[str], None] = getattr(self, command)
        asked(execution_id)

    def wait(self, execution_id: str) -> None:
        """Wait until the execution has ended or is paused."""
        eventually(lambda: self.seen(execution_id).status not in LIVE, within=60)
