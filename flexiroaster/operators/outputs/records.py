"""The record of one file that a stage writes: the step it was about to take, and the steps it has taken.

    writing --> prepared --> done --> undoing --> undone
       |________________________________________^

`writing`: the rows go to a file beside the target. `prepared`: that file is complete, the former version is kept, and
the file is about to replace the target. Each step is on disk before the next begins, so the state found after a crash
says what was done.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = ["Record", "State"]


class State(StrEnum):
    """The step that a record has reached."""

    WRITING = "writing"
    PREPARED = "prepared"
    DONE = "done"
    UNDOING = "undoing"
    UNDONE = "undone"


class Record(BaseModel):
    """One record, stored as a JSON file. `attempt` is the only attempt that may continue; all others are superseded.

    `replaces` says whether a former version is kept; `checksum`, `size` (bytes) and `rows` describe the new one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    execution_id: str
    stage_id: str
    state: State
    at: str
    target: str = ""
    attempt: str = ""
    format: str = ""
    replaces: bool = False
    checksum: str = ""
    size: int = 0
    rows: int = 0

    @property
    def effect(self) -> dict[str, object]:
        """The effect that the stage reports."""
        return {
            "kind": "file",
            "path": self.target,
            "format": self.format,
            "rows": self.rows,
            "bytes": self.size,
            "checksum": self.checksum,
            "replaced": self.replaces,
            "undoable": True,
        }
