"""What became of alarms: how many were raised, and after how many of them the run completed all the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

__all__ = ["AlarmCount", "Alarms"]


@dataclass(slots=True)
class AlarmCount:
    """Runs with an alarm of one kind that have ended, and those of them that completed (`false`)."""

    raised: int = 0
    false: int = 0

    @property
    def false_rate(self) -> float | None:
        """The share of false ones; None while there was none at all."""
        return self.false / self.raised if self.raised else None


@dataclass(slots=True)
class Alarms:
    """The counts by kind. A run counts once for each kind of alarm, and not at all when it was cancelled."""

    kinds: dict[str, AlarmCount] = field(default_factory=dict)

    def ended(self, kinds: Collection[str], *, completed: bool) -> None:
        """A run with these alarms has ended."""
        for kind in kinds:
            known = self.kinds.setdefault(kind, AlarmCount())
            known.raised += 1
            known.false += completed

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {kind: asdict(known) for kind, known in self.kinds.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The counts that `to_json` wrote."""
        return cls({kind: AlarmCount(**known) for kind, known in data.items()})
