"""Past starts with what was known and said then, and how they ended: all that learning needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.model import Rung

__all__ = ["Examples"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Examples:
    """Starts whose outcome is known (1.0: failed; cancelled ones are left out), in the order of the starts.

    `said` are the probabilities that each rung gave at the start, before anybody knew the outcome; NaN where that rung
    had no model then. `champion` is what the engine answered.
    """

    rows: Floats
    failed: Floats
    started_at: Floats
    finished_at: Floats
    said: Mapping[Rung, Floats]
    champion: Floats

    def __len__(self) -> int:
        return len(self.failed)

    def take(self, which: slice | NDArray[np.bool_]) -> Examples:
        """Some of them."""
        said = {rung: values[which] for rung, values in self.said.items()}
        arrays = (self.rows, self.failed, self.started_at, self.finished_at)
        rows, failed, started_at, finished_at = (array[which] for array in arrays)
        return Examples(rows, failed, started_at, finished_at, said, self.champion[which])

    def newest(self, most: int) -> Examples:
        """The newest of them, at most so many."""
        return self.take(slice(max(0, len(self) - most), None))

    def ended_before(self, time: float) -> Examples:
        """Those whose outcome was known at a time."""
        return self.take(self.finished_at < time)

    def ended_after(self, time: float) -> Examples:
        """Those whose outcome was not known at a time."""
        return self.take(self.finished_at > time)

    @property
    def data_hash(self) -> str:
        """Names exactly these features and outcomes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows).tobytes())
        digest.update(np.ascontiguousarray(self.failed).tobytes())
        return digest.hexdigest()[:16]
