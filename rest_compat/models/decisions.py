"""Decisions of the safety engine on the wire, and what is to be done instead."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.service.decisions import LONGEST_REASON, Action, DecisionRow
from rest_compat.models.base import Answer
from rest_compat.parameters import TEXT

__all__ = ["Decision", "Decisions", "OverrideRequest"]


def _said(reason: str) -> str:
    if not reason.strip():
        raise ValueError("says why")
    return reason


class OverrideRequest(BaseModel):
    """What is to be done instead, and why. Other fields play no part."""

    model_config = ConfigDict(extra="ignore")

    action: Action
    reason: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON, pattern=TEXT), AfterValidator(_said)]


class Verdict(Answer):
    """What was said of one of the six actions; the first that is admissible is chosen."""

    action: Action
    admissible: bool
    chosen: bool
    reason: str


class Override(Answer):
    """Somebody had something else done than was decided."""

    action: Action
    reason: str
    requested_by: str
    at: datetime


class Decision(Answer):
    """What was decided when a stage had failed, or when something was abnormal while it ran (no `error_class`).

    `action` was chosen, `taken` was done; they differ where the policy only records (`mode`). `outcome` is there once
    the execution has ended: of a retry `succeeded`, `failed` or `stopped`, else how the execution ended.
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
        """The decision of a row."""
        columns = {name: getattr(row, name) for name in cls.model_fields if name not in _INSIDE}
        return cls(**columns, **{name: row.data[name] for name in _INSIDE})


_INSIDE = ("reason", "explanation", "verdicts", "situation", "policy_version", "model_version", "propensity")
"""What stands in the JSON of a row."""


class Decisions(Answer):
    """The decisions about an execution, oldest first."""

    decisions: list[Decision]
    total: int
