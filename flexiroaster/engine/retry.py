"""When a failed attempt is repeated, and after how long."""

from __future__ import annotations

import random

from flexiroaster.errors import ErrorClass
from flexiroaster.model.pipeline import Stage

__all__ = ["backoff", "worth_retrying"]

_RNG = random.Random()  # noqa: S311 - spreads load, guards nothing


def worth_retrying(stage: Stage, error_class: ErrorClass, attempt: int) -> bool:
    """Whether another attempt follows attempt number `attempt` (from 1) that failed with this class of error."""
    return error_class in stage.retry_on and attempt <= (stage.max_retries or 0)


def backoff(stage: Stage, attempt: int, *, retry_after: float | None = None, rng: random.Random | None = None) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1): exponential with full jitter, capped.

    uniform(0, min(cap, retry_delay * backoff**(attempt - 1))), the "full jitter" of Brooker, "Exponential Backoff And
    Jitter" (AWS Architecture Blog, 2015). What the other side asked for (`retry_after`) is waited at least, beyond the
    cap if need be.
    """
    factor = stage.retry_backoff if stage.retry_backoff is not None else 2.0
    exponent = min(attempt - 1, 64)  # beyond that any factor is past the cap, and floats overflow
    ceiling = min(stage.max_retry_delay, (stage.retry_delay or 0.0) * factor**exponent)
    delay = (rng or _RNG).uniform(0.0, ceiling)
    return max(delay, retry_after or 0.0)
