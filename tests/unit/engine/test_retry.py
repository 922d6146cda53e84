"""When and after how long an attempt is repeated."""

from __future__ import annotations

import random

import pytest

from flexiroaster.engine.state_machine.retry_policy import backoff, may_retry
from flexiroaster.errors import ErrorClass
from flexiroaster.model.pipeline import Stage

STAGE = Stage(id="a", type="input", max_retries=3, retry_delay=2.0, retry_backoff=3.0, max_retry_delay=30.0)


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 2), (2, 6), (3, 18), (4, 30), (500, 30)])
def test_full_jitter_fills_the_interval_below_the_capped_exponential(attempt: int, ceiling: float) -> None:
    rng = random.Random(1)
    delays = [backoff(STAGE, attempt, rng=rng) for _ in range(4000)]
    assert 0 <= min(delays) < 0.01 * ceiling
    assert 0.99 * ceiling < max(delays) <= ceiling
    assert abs(sum(delays) / len(delays) / ceiling - 0.5) < 0.02


def test_retry_after_is_the_least() -> None:
    assert backoff(STAGE, 1, retry_after=99) == 99


@pytest.mark.parametrize("error_class", list(ErrorClass))
def test_by_default_only_what_may_pass_is_repeated(error_class: ErrorClass) -> None:
    passing = {"transient", "timeout", "crash", "unknown"}
    assert may_retry(STAGE, error_class, 1) == (error_class in passing)


def test_max_retries_counts_repetitions_not_attempts() -> None:
    assert [may_retry(STAGE, ErrorClass.CRASH, n) for n in (1, 2, 3, 4)] == [True, True, True, False]
