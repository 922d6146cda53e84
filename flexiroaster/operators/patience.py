"""HTTP retry: which status codes are retried, how long to wait, and when to leave the retry to the stage.

The HTTP input and the HTTP output share this module.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from flexiroaster.errors import ErrorClass, StageError

__all__ = ["PASSING", "PATIENCE", "WORTH_ANOTHER", "AnotherAttempt", "attempts", "checked_headers", "seconds_until"]

PATIENCE = 60.0
"""The longest wait (s) for a retry within a stage attempt; a longer wait is left to the next stage attempt."""

WORTH_ANOTHER = frozenset({429, 502, 503, 504})
"""Status codes after which the same request is sent again."""

PASSING = frozenset({408, 425})
"""Status codes of transient failures that an immediate repetition of the request does not solve."""

_LONGEST = 86_400.0
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_BACKOFF = wait_random_exponential(multiplier=0.5, max=30)


class AnotherAttempt(Exception):  # noqa: N818 - a retry request, not an error; it never leaves an operator
    """Requests a retry, after `retry_after` seconds if the server sent `Retry-After`."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def attempts(max_retries: int, logger: logging.Logger) -> Retrying:
    """Return a retrier that calls a function until it does not raise `AnotherAttempt`; it logs each wait.

    After `max_retries` retries it raises the last `AnotherAttempt`.
    """

    def log_pause(state: RetryCallState) -> None:
        outcome, action = state.outcome, state.next_action
        reason = outcome.exception() if outcome else None
        logger.warning("%s; next attempt in %.1f s", reason, action.sleep if action else 0.0)

    return Retrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=_pause,
        retry=retry_if_exception_type(AnotherAttempt),
        before_sleep=log_pause,
        reraise=True,
    )


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with stripped values. Raises StageError that names the header but not its value."""
    stripped = {name: value.strip() for name, value in headers.items()}
    for name, value in stripped.items():
        if not _HEADER_VALUE.fullmatch(value):
            message = f"headers: the value of {name!r} has characters that a header cannot have"
            raise StageError(message, ErrorClass.CONFIGURATION)
    return stripped


def seconds_until(retry_after: str | None) -> float | None:
    """Return `Retry-After` in seconds from now, at most one day, or None if it is absent or malformed."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return min(float(retry_after), _LONGEST)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (aware - datetime.now(UTC)).total_seconds()), _LONGEST)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, AnotherAttempt) else None
    return _BACKOFF(state) if asked is None else asked
