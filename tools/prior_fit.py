"""Fits the prior that the product ships on histories of other systems. The product does not import this file.

python -m tools.prior_fit ../shared/data/hpc_ctc.parquet ../shared/data/hpc_atlas.parquet ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.learning.evaluation import Metrics, measure
from flexiroaster.safety.learning.training import fit_logistic
from flexiroaster.safety.risk.additive import LinearModel, score
from flexiroaster.safety.risk.calibration import BetaCalibration, sigmoid
from flexiroaster.safety.risk.history import feature_rows, read_history
from flexiroaster.safety.risk.model import PRIOR_FEATURES

__all__ = ["Sample", "fit_prior", "left_out", "read_sample"]

Floats = NDArray[np.float64]

MAX_WEIGHT = 5000.0
"""The maximum total weight of one history, in runs, so that no single system dominates."""

STRENGTH = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """The run starts of one history with a known outcome."""

    name: str
    pipeline_id: list[str]
    rows: Floats
    failed: Floats


def read_sample(path: Path) -> Sample:
    """Read the run starts of a history file. Raises HistoryFileError."""
    history = read_history(path)
    known = ~np.isnan(history.target)
    names = [name for name, keep in zip(history.pipeline_id, known, strict=True) if keep]
    return Sample(path.stem, names, feature_rows(history)[known], history.target[known])


def fit_prior(samples: Sequence[Sample]) -> LinearModel:
    """Fit the prior on all samples together."""
    weights = [np.full(len(s.failed), min(1.0, MAX_WEIGHT / len(s.failed))) for s in samples]
    rows, failed = np.vstack([s.rows for s in samples]), np.concatenate([s.failed for s in samples])
    return fit_logistic(rows, failed, PRIOR_FEATURES, strength=STRENGTH, weights=np.concatenate(weights))


def left_out(samples: Sequence[Sample], name: str) -> tuple[Metrics | None, BetaCalibration]:
    """Fit without sample `name`; return the metrics on its newest 30 % and the recalibration it would need."""
    sample = next(s for s in samples if s.name == name)
    model = fit_prior([s for s in samples if s.name != name])
    scores, newest = score(model, sample.rows), slice(int(0.7 * len(sample.failed)), None)
    metrics = measure(sigmoid(scores[newest]), sample.failed[newest], sample.pipeline_id[newest])
    return metrics, BetaCalibration.fit(scores, sample.failed)


def main() -> None:
    """Print the coefficients, and the metrics of each history when left out."""
    parser = argparse.ArgumentParser(prog="python -m tools.prior_fit", description=main.__doc__)
    parser.add_argument("history", nargs="+", type=Path, help="a .parquet or .csv file of runs")
    samples = [read_sample(path) for path in parser.parse_args().history]
    model = fit_prior(samples)
    lines = [f'        "{name}": {value:.4f},' for name, value in model.coefficients.items()]
    sys.stdout.write("\n".join([*lines, f"    intercept {model.intercept:.4f}", ""]))
    for sample in samples if len(samples) > 1 else ():
        metrics, curve = left_out(samples, sample.name)
        sys.stdout.write(f"{sample.name}: {metrics}; a {curve.a:.2f}, b {curve.b:.2f}, c {curve.c:.2f}\n")


if __name__ == "__main__":
    main()
