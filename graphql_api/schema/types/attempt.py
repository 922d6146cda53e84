"""Attempts: what a stage tried, one after another."""

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
    """One attempt of a stage."""

    number: int = strawberry.field(description="Counts all attempts of the stage, from 1.")
    attempt: int = strawberry.field(
        description="The stage's own count: it begins anew with a retry, and interrupted attempts do not count."
    )
    started_at: datetime
    ended_at: datetime | None
    duration: float | None = strawberry.field(description="Seconds, once it has ended.")
    outcome: AttemptOutcome
    error: Failure | None = strawberry.field(resolver=_failure)
    retry_delay: float | None = strawberry.field(description="Seconds until the next attempt, where one was to come.")
