"""Changes of execution state, as values that the journal applies."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flexiroaster.model.event import Event
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, Goal, StageStatus

__all__ = [
    "Applied",
    "Change",
    "Finding",
    "NewAssessment",
    "NewDecision",
    "NewExecution",
    "NewStage",
    "StageChange",
    "Transition",
    "decision_id",
    "previously_applied",
]


@dataclass(frozen=True, slots=True)
class StageChange:
    """The state of a stage run after the transition: all its columns that can change."""

    stage_id: str
    status: StageStatus
    attempt: int
    started_at: datetime | None
    completed_at: datetime | None
    retry_at: datetime | None
    output: dict[str, Any] | None
    error: dict[str, Any] | None
    is_anomaly: bool = False


def decision_id(execution_id: str, seq: int) -> str:
    """Return the id of the decision that event number `seq` of an execution reports."""
    return f"{execution_id}.{seq}"


@dataclass(frozen=True, slots=True)
class NewDecision:
    """A decision of the safety engine about a stage.

    `action` is the choice and `taken` the action carried out; they differ where the policy only records. `seq` is the
    number of the event that reports the decision; `data` is the whole decision as JSON.
    """

    seq: int
    at: datetime
    stage_id: str | None
    attempt: int | None
    error_class: str | None
    action: str
    taken: str
    mode: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of an execution's state, with the events that report it.

    It lands (is applied) only if the execution still has this fencing token, status (`expected`) and last event number.
    The events are numbered from `expected_seq + 1` without gaps.

    - `release` ends the lease. A paused execution becomes claimable again at its `pause_deadline`, to be stopped.
    - `freed_slot` passes this slot of the pipeline's concurrency to the next execution in the queue.
    - `progress` resets the number of claims.
    - `handled` lists the commands (id, outcome) that this transition carries out.
    - `decisions` lists the decisions of the safety engine.
    - `must_be_queued`: the transition lands only while the execution is still queued. An execution that got its slot
      meanwhile must be claimed again, with its slot.
    """

    execution_id: str
    token: int
    expected: ExecutionStatus
    expected_seq: int
    status: ExecutionStatus
    completed_stages: int
    started_at: datetime | None
    completed_at: datetime | None
    error: dict[str, Any] | None
    events: tuple[Event, ...]
    stages: tuple[StageChange, ...]
    goal: Goal = Goal.RUN
    release: bool = False
    freed_slot: int | None = None
    pipeline_id: str = ""
    progress: bool = False
    handled: tuple[tuple[int, str], ...] = ()
    pause_deadline: datetime | None = None
    decisions: tuple[NewDecision, ...] = ()
    must_be_queued: bool = False

    @property
    def ends(self) -> bool:
        """Whether the new status is terminal, so that the execution neither holds a slot nor waits for one."""
        return self.status in TERMINAL

    @property
    def last_seq(self) -> int:
        """The number of the last event."""
        return self.expected_seq + len(self.events)


@dataclass(frozen=True, slots=True)
class NewStage:
    """A stage of a new execution. A stage `taken_over` from an earlier execution is completed and has its output."""

    stage_id: str
    name: str
    output: dict[str, Any] | None = None
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class NewAssessment:
    """A risk assessment made before a run, and whether the gate acted on it.

    `forced` is the reason for overriding the gate. `said` maps the names of the models to their probabilities; `data`
    is the whole assessment as JSON.
    """

    at: datetime
    risk_score: float
    probability: float
    level: str
    gate: str
    acted: bool
    forced: str | None
    said: dict[str, float]
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding to report to users. Findings with the same `cause` form one insight while that is open."""

    cause: str
    insight_type: str
    severity: str
    title: str
    message: str
    confidence: float
    pipeline_id: str | None = None
    execution_id: str | None = None
    stage_id: str | None = None
    recommendation: str | None = None
    risk_score: float | None = None
    factors: list[dict[str, Any]] = field(default_factory=list)
    explanation: str | None = None
    action_taken: str | None = None


@dataclass(frozen=True, slots=True)
class NewExecution:
    """An execution to create, with its stages in order, its events, risk assessment and findings.

    With an `owner`, the same transaction claims it with fencing token 1 for `lease_seconds`. At most `concurrency`
    executions of the pipeline hold a slot (None: no limit). If no slot is free, the execution is queued (`queue`) or
    does not land. It also does not land if its `idempotency_key` is taken, or if the execution that it reruns
    (`parent_id`) no longer exists. A `paused` execution waits for a resume command. Its `findings` become insights if
    it lands.
    """

    execution_id: str
    pipeline_id: str
    pipeline_name: str
    revision: int
    variables: dict[str, Any]
    triggered_by: str
    stages: tuple[NewStage, ...]
    event: Event
    owner: str | None = None
    lease_seconds: float = 15.0
    concurrency: int | None = None
    queue: bool = False
    idempotency_key: str | None = None
    request_digest: str | None = None
    parent_id: str | None = None
    paused: bool = False
    assessment: NewAssessment | None = None
    more_events: tuple[Event, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def events(self) -> tuple[Event, ...]:
        """All events, numbered from 1."""
        return (self.event, *self.more_events)

    @property
    def status(self) -> ExecutionStatus:
        """The initial status."""
        return ExecutionStatus.PAUSED if self.paused else ExecutionStatus.PENDING


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of a change that was written. For a new execution: its slot, if any, and whether it is queued."""

    slot: int | None = None
    queued: bool = False


Change = NewExecution | Transition


def previously_applied(change: Change, row: tuple[int, int, int | None, bool]) -> Applied | None:
    """Return the result of an earlier attempt to write the change; None if it did not land.

    `row` is the execution's current (fencing token, last event, slot, queued). Only we write with our token, so the
    last event identifies our change. A transition without events leaves no trace and lands again.
    """
    token, last_seq, slot, queued = row
    if isinstance(change, NewExecution):
        return Applied(slot, bool(queued))
    return Applied() if change.events and (token, last_seq) == (change.token, change.last_seq) else None
