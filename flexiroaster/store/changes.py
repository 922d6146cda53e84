"""The changes of execution state that the journal applies, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flexiroaster.model.event import Event
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, Goal, StageStatus

__all__ = [
    "Change",
    "Finding",
    "Landed",
    "NewAssessment",
    "NewDecision",
    "NewExecution",
    "NewStage",
    "StageChange",
    "Transition",
    "decision_id",
    "landed_before",
]


@dataclass(frozen=True, slots=True)
class StageChange:
    """What a stage run looks like after the transition; all its columns that ever change."""

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
    """The id of the decision that event number `seq` of an execution tells of."""
    return f"{execution_id}.{seq}"


@dataclass(frozen=True, slots=True)
class NewDecision:
    """What the safety engine decided about a stage, and what was `taken`, which differs where the policy only records.

    `seq` is the event that tells of it; `data` is the whole decision as JSON.
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
    """One change of an execution's state, with the events that tell of it.

    It lands only if the execution still has this fencing token, status (`expected`) and last event number; the
    events are numbered from `expected_seq + 1` without gaps. `release` ends the lease (of a paused execution until its
    `pause_deadline`, when anybody may claim it to stop it), `freed_slot` gives the slot of
    its pipeline's concurrency to the next in the queue, `progress` forgets how often it was claimed, `handled` are
    commands (id, outcome) that it carries out, and `decisions` what the safety engine said on the way. One that `waits`
    in the queue lands only while it still does: what had its turn meanwhile is to be claimed anew, with its slot.
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
    waits: bool = False

    @property
    def ends(self) -> bool:
        """Whether it is over then, so that it neither holds a slot nor waits for one."""
        return self.status in TERMINAL

    @property
    def last_seq(self) -> int:
        """The number of its last event."""
        return self.expected_seq + len(self.events)


@dataclass(frozen=True, slots=True)
class NewStage:
    """A stage of a new execution; one that is taken over from an earlier execution is completed, with its output."""

    stage_id: str
    name: str
    output: dict[str, Any] | None = None
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class NewAssessment:
    """What the safety engine said before a run, and whether the gate acted by it; `forced` is why it was overruled.

    `said` are the probabilities of each of its models, by their names; `data` is the whole answer as JSON.
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
    """Something to tell people. Findings with the same `cause` are one insight while it is open."""

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
    """An execution to create, with its stages in order, its first event and what is told beside it.

    With an `owner` it is claimed in the same transaction, with fencing token 1, for `lease_seconds`. At most
    `concurrency` executions of the pipeline hold a slot (None: any number); where there is none, it is `queue`d or does
    not land. It does not land either when its `idempotency_key` is taken, or when the execution that it is a rerun of
    (`parent_id`) is gone. A `paused` one waits for a resume. Its `findings` become insights if it lands.
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
        """All its events, from number 1 on."""
        return (self.event, *self.more_events)

    @property
    def status(self) -> ExecutionStatus:
        """The state it begins in."""
        return ExecutionStatus.PAUSED if self.paused else ExecutionStatus.PENDING


@dataclass(frozen=True, slots=True)
class Landed:
    """A new execution that was written: its slot, if it has one, and whether it waits for one."""

    slot: int | None = None
    queued: bool = False


Change = NewExecution | Transition


def landed_before(change: Change, row: tuple[int, int, int | None, bool]) -> Landed | None:
    """What an earlier attempt to write the change came to; `row` is its execution's (fencing token, last event, slot,
    queued) now. Only we write with our token, so its last event tells.

    A transition without events leaves no trace, and lands again.
    """
    token, last_seq, slot, queued = row
    if isinstance(change, NewExecution):
        return Landed(slot, bool(queued))
    return Landed() if change.events and (token, last_seq) == (change.token, change.last_seq) else None
