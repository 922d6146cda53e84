"""Retry policy: whether a failed attempt is retried, and after which delay."""

from __future__ import annotations

import random

from flexiroaster.errors import ErrorClass
from flexiroaster.model.pipeline import Stage

__all__ = ["backoff", "may_retry"]

_RNG = random.Random()  # noqa: S311 - spreads load, not used for security


def may_retry(stage: Stage, error_class: ErrorClass, attempt: int) -> bool:
    """Whether to retry after attempt number `attempt` (from 1) failed with this error class."""
    return error_class in stage.retry_on and attempt <= (stage.max_retries or 0)


def backoff(stage: Stage, attempt: int, *, retry_after: float | None = None, rng: random.Random | None = None) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1): exponential with full jitter, capped.

    uniform(0, min(cap, retry_delay * backoff**(attempt - 1))), the "full jitter" of Brooker, "Exponential Backoff And
    Jitter" (AWS Architecture Blog, 2015). The delay is at least `retry_after`, the delay that the remote side asked
    for, even beyond the cap.
    """
    factor = stage.retry_backoff if stage.retry_backoff is not None else 2.0
    exponent = min(attempt - 1, 64)  # a higher exponent exceeds any cap, and floats overflow
    ceiling = min(stage.max_retry_delay, (stage.retry_delay or 0.0) * factor**exponent)
    delay = (rng or _RNG).uniform(0.0, ceiling)
    return max(delay, retry_after or 0.0)
