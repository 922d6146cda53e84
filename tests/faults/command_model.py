"""A plain model of commands: when each may be asked for, and how an execution may end after what was carried out.

It is written from the documentation, not from the product: a table, one word for what was wanted last, and no history.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MAY_BE_ASKED", "CommandModel"]

MAY_BE_ASKED: Mapping[str, frozenset[str]] = {
    "stop": frozenset({"pending", "running", "paused"}),
    "pause": frozenset({"running"}),
    "resume": frozenset({"paused"}),
    "retry": frozenset({"failed", "cancelled"}),
    "rollback": frozenset({"paused", "completed", "failed", "cancelled"}),
}


class CommandModel:
    """What is wanted of one execution: "run", "stop", "time out" or "roll back"."""

    def __init__(self, critical: frozenset[str]) -> None:
        self.wanted = "run"
        self._critical = critical

    def may_ask(self, kind: str, status: str, *, anything_undone: bool) -> bool:
        """Whether the command is accepted. What was undone in part is not retried: its effects are gone."""
        return status in MAY_BE_ASKED[kind] and not (kind == "retry" and anything_undone)

    def carried_out(self, kind: str) -> None:
        """A command was obeyed, not refused."""
        if kind == "stop":
            self.stopped()
        elif kind == "retry":
            self.wanted = "run"
        elif kind == "rollback":
            self.wanted = "roll back"

    def stopped(self) -> None:
        """By a command, or by the deadline of a pause: what came first counts."""
        if self.wanted == "run":
            self.wanted = "stop"

    def timed_out(self) -> None:
        """The limit of the whole execution was exceeded."""
        if self.wanted == "run":
            self.wanted = "time out"

    def wrong_end(self, status: str, stages: Mapping[str, str], left: int) -> str | None:
        """Why this is no right end; None where it is one. `left` counts the effects that could not be undone."""
        expected = self._end(stages, left)
        if status != expected:
            return f"wanted: {self.wanted}, {left} left to undo, stages {dict(stages)}: {status}, not {expected}"
        unfinished = {stage: was for stage, was in stages.items() if was in {"pending", "running", "waiting"}}
        return f"it is {status}, and these stages have not ended: {unfinished}" if unfinished else None

    def _end(self, stages: Mapping[str, str], left: int) -> str:
        failed = any(stages[stage] == "failed" for stage in self._critical)
        match self.wanted:
            case "roll back":
                return "failed" if left else "rolled_back"
            case "time out":
                return "failed"
            case "stop":
                return "failed" if failed else "cancelled"
            case _:
                return "failed" if failed else "completed"
