"""The models of safety-engine decisions and of requests to override them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.service.safety.decisions import LONGEST_REASON, Action, DecisionRow
from rest_compat.models.base import Answer
from rest_compat.parameters import TEXT

__all__ = ["Decision", "Decisions", "OverrideRequest"]


def _said(reason: str) -> str:
    if not reason.strip():
        raise ValueError("must not be blank: give a reason")
    return reason


class OverrideRequest(BaseModel):
    """The action to take instead, and the reason. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    action: Action
    reason: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON, pattern=TEXT), AfterValidator(_said)]


class Verdict(Answer):
    """The verdict on one of the six actions; the first admissible action is chosen."""

    action: Action
    admissible: bool
    chosen: bool
    reason: str


class Override(Answer):
    """A user's override of a decision."""

    action: Action
    reason: str
    requested_by: str
    at: datetime


class Decision(Answer):
    """A decision about a failed stage, or about an anomaly while a stage ran (without `error_class`).

    `action` is the chosen action and `taken` the one carried out; they differ if the policy only records (`mode`).
    `outcome` is set once the execution has ended: for a retry `succeeded`, `failed` or `stopped`, otherwise the final
    status of the execution.
    """

    id: str
    execution_id: str
    pipeline_id: str
    stage_id: str | None
    attempt: int | None
    at: datetime
    error_class: ErrorClass | None
    action: Action
    taken: Action
    mode: PolicyMode
    reason: str
    explanation: str
    verdicts: list[Verdict]
    situation: dict[str, Any]
    policy_version: str
    model_version: str | None
    propensity: float
    outcome: str | None
    outcome_at: datetime | None
    overrides: list[Override]

    @classmethod
    def of(cls, row: DecisionRow) -> Decision:
        """Build the decision from a row."""
        columns = {name: getattr(row, name) for name in cls.model_fields if name not in _INSIDE}
        return cls(**columns, **{name: row.data[name] for name in _INSIDE})


_INSIDE = ("reason", "explanation", "verdicts", "situation", "policy_version", "model_version", "propensity")
"""The fields stored in the JSON column of a row."""


class Decisions(Answer):
    """The decisions about an execution, oldest first."""

    decisions: list[Decision]
    total: int
