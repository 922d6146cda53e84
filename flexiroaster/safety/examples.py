"""Training examples: past run starts with their features, predictions and outcomes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.risk.model import Rung

__all__ = ["Examples"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Examples:
    """Run starts with a known outcome (1.0: failed; cancelled runs are excluded), ordered by start.

    `said` holds each rung's probabilities, predicted at the start, before the outcome was known; NaN where that rung
    had no model yet. `champion` holds the engine's answers.
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
        """Return the selected examples."""
        said = {rung: values[which] for rung, values in self.said.items()}
        arrays = (self.rows, self.failed, self.started_at, self.finished_at)
        rows, failed, started_at, finished_at = (array[which] for array in arrays)
        return Examples(rows, failed, started_at, finished_at, said, self.champion[which])

    def newest(self, most: int) -> Examples:
        """Return the newest `most` examples, or all if there are fewer."""
        return self.take(slice(max(0, len(self) - most), None))

    def ended_before(self, time: float) -> Examples:
        """Return the examples whose runs ended before `time` (seconds since 1970)."""
        return self.take(self.finished_at < time)

    def ended_after(self, time: float) -> Examples:
        """Return the examples whose runs ended after `time` (seconds since 1970)."""
        return self.take(self.finished_at > time)

    @property
    def data_hash(self) -> str:
        """A hash that identifies exactly these features and outcomes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows).tobytes())
        digest.update(np.ascontiguousarray(self.failed).tobytes())
        return digest.hexdigest()[:16]
