"""Alarm accuracy: the number of alarms raised, and of false alarms after which the run completed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

__all__ = ["AlarmCount", "Alarms"]


@dataclass(slots=True)
class AlarmCount:
    """Finished runs with an alarm of one kind (`raised`), and how many of them completed (`false`)."""

    raised: int = 0
    false: int = 0

    @property
    def false_rate(self) -> float | None:
        """The share of false alarms; None before the first alarm."""
        return self.false / self.raised if self.raised else None


@dataclass(slots=True)
class Alarms:
    """Alarm counts by kind. A run counts once per kind of alarm; cancelled runs do not count."""

    kinds: dict[str, AlarmCount] = field(default_factory=dict)

    def ended(self, kinds: Collection[str], *, completed: bool) -> None:
        """Count a finished run that had alarms of these kinds."""
        for kind in kinds:
            known = self.kinds.setdefault(kind, AlarmCount())
            known.raised += 1
            known.false += completed

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {kind: asdict(known) for kind, known in self.kinds.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the counts from `to_json` output."""
        return cls({kind: AlarmCount(**known) for kind, known in data.items()})
