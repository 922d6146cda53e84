"""What-if analysis: assesses a run start with changes, and finds the smallest changes that lower its risk.

The model knows correlations, not causes: an answer is the model's prediction, not a promise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from flexiroaster.errors import DefinitionError, Problem
from flexiroaster.model.validation_messages import near
from flexiroaster.safety.features import NAMES, Past, features
from flexiroaster.safety.risk.assessment import Assessment, Question, assess, judged
from flexiroaster.safety.risk.state import PipelineState, Population
from flexiroaster.safety.runs import HOUR, Ending, Outcome, Start

__all__ = ["CHANGES", "Remedy", "what_if", "what_would_lower_it"]

CHANGES = ("at", "n_stages", "successes_first", "failures_first")
"""The allowed changes besides the features. `at` is in seconds since 1970; the last two are numbers of runs."""

WORTH_IT = 0.01


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change and the probability it leads to; `enough` if that is below the requested threshold."""

    change: dict[str, float]
    text: str
    probability: float
    enough: bool


def what_if(question: Question, **changes: float) -> Assessment:
    """Assess the start with some of CHANGES or of the features changed. Raises DefinitionError for invalid changes."""
    _check(changes)
    start = replace(
        question.start,
        at=float(changes.get("at", question.start.at)),
        n_stages=int(changes["n_stages"]) if "n_stages" in changes else question.start.n_stages,
    )
    past = _after(question.past, start, int(changes.get("successes_first", 0)), int(changes.get("failures_first", 0)))
    changed = replace(question, start=start, past=past)
    direct = {name: float(value) for name, value in changes.items() if name in NAMES}
    if not direct:
        return assess(changed)
    named = {**dict(zip(NAMES, features(start, past), strict=True)), **direct}
    return judged(changed, np.array([named[name] for name in NAMES]))


def what_would_lower_it(question: Question, threshold: float | None = None) -> tuple[Remedy, ...]:
    """Find, per kind of change, the smallest that brings P below the threshold (default: medium), else the best one.

    The kinds are: successful runs first, a later start within a day, fewer stages. The best changes come first.
    """
    limit, now = question.thresholds.medium if threshold is None else threshold, assess(question)
    found = [_smallest(question, kind, limit) for kind in _kinds(question)]
    helpful = [r for r in found if r is not None and r.probability < now.prediction.probability - WORTH_IT]
    return tuple(sorted(helpful, key=lambda r: (not r.enough, r.probability)))


Option = tuple[dict[str, float], str]


def _kinds(question: Question) -> Iterator[list[Option]]:
    yield [({"successes_first": n}, f"run it successfully {n} times first, on a small sample") for n in (1, 2, 3, 5, 8)]
    yield [({"at": question.start.at + h * HOUR}, f"start it {h} hours later") for h in (1, 2, 3, 6, 9, 12, 18, 24)]
    stages = question.start.n_stages or 0
    fewer = sorted({max(1, stages * part // 4) for part in (3, 2, 1)} - {stages}, reverse=True) if stages > 1 else []
    yield [({"n_stages": n}, f"split it into pipelines of {n} stages instead of {stages}") for n in fewer]


def _smallest(question: Question, options: list[Option], limit: float) -> Remedy | None:
    best: Remedy | None = None
    for change, text in options:
        probability = what_if(question, **change).prediction.probability
        remedy = Remedy(change, text, probability, probability < limit)
        if remedy.enough:
            return remedy
        if best is None or probability < best.probability:
            best = remedy
    return best


def _check(changes: dict[str, float]) -> None:
    known = (*CHANGES, *NAMES)
    problems = [Problem(n, f"cannot be changed{near(n, known)}", "unknown") for n in changes if n not in known]
    counts = ("n_stages", "successes_first", "failures_first")
    problems += [Problem(name, "must be 0 or more") for name in counts if changes.get(name, 0) < 0]
    if problems:
        raise DefinitionError(problems)


def _after(past: Past, start: Start, successes: int, failures: int) -> Past:
    """Return the past with additional runs that ended just before the start."""
    if not successes and not failures:
        return past
    copy = Past(
        PipelineState.from_json(past.pipeline.to_json()),
        Population.from_json(past.group.to_json()),
        Population.from_json(past.installation.to_json()),
    )
    usual = past.pipeline.durations[-1] if past.pipeline.durations else None
    for outcome in [Outcome.FAILED] * failures + [Outcome.COMPLETED] * successes:
        copy.add(Ending(start.at, outcome, usual))
    return copy
