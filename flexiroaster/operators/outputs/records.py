"""The record of one file that a stage writes: what it was about to do, and has done.

    writing --> prepared --> done --> undoing --> undone
       |________________________________________^

`writing`: the rows go to a file beside the target. `prepared`: that file is complete, the former version is kept, and
it is about to take the target's place. Each step is on disk before the next begins, so whatever is found after a
crash says what was done.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = ["Record", "State"]


class State(StrEnum):
    """How far it is."""

    WRITING = "writing"
    PREPARED = "prepared"
    DONE = "done"
    UNDOING = "undoing"
    UNDONE = "undone"


class Record(BaseModel):
    """One record: a JSON file. `attempt` is the attempt that may go on, every other one has been superseded.

    `replaces` says whether a former version is kept; `checksum`, `size` (bytes) and `rows` are of the new one.
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
        """What the stage reports."""
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
