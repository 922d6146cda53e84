"""Attempts of a stage."""

from __future__ import annotations

from datetime import datetime

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service import attempts
from flexiroaster.service.attempts import AttemptOutcome
from graphql_api.permissions import fields_require
from graphql_api.schema.types.failure import Failure, failure

__all__ = ["Attempt"]


def _failure(root: strawberry.Parent[attempts.Attempt]) -> Failure | None:
    return failure(root.error)


@fields_require(Role.VIEWER)
@strawberry.type
class Attempt:
    """One attempt to run a stage."""

    number: int = strawberry.field(description="Number among all attempts of the stage, from 1.")
    attempt: int = strawberry.field(
        description="The stage's attempt count. It restarts when the execution is retried, and interrupted attempts do "
        "not count."
    )
    started_at: datetime
    ended_at: datetime | None
    duration: float | None = strawberry.field(description="Duration in seconds; null until the attempt has ended.")
    outcome: AttemptOutcome
    error: Failure | None = strawberry.field(resolver=_failure)
    retry_delay: float | None = strawberry.field(description="Seconds until the next attempt, if one was scheduled.")
