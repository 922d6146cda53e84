"""The rows that a change writes, the same for both databases: for each kind of row its columns and its values.

A function that takes `encode` applies it to times and JSON values, which each database stores in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flexiroaster.model.execution import StageStatus
from flexiroaster.store.journal.transitions import NewAssessment, NewExecution, Transition, decision_id
from flexiroaster.store.sql import clean

Row = tuple[Any, ...]
Encode = Callable[[Any], Any]

EXECUTION = (
    *("execution_id", "pipeline_id", "pipeline_name", "revision", "status", "variables", "triggered_by"),
    *("total_stages", "completed_stages", "created_at", "last_seq", "owner", "lease", "concurrency", "queue"),
    *("idempotency_key", "request_digest", "parent_id", "risk_score"),
)


def execution_row(new: NewExecution, encode: Encode) -> Row:
    """Return the row of a new execution, except its slot, which depends on other executions."""
    completed = sum(stage.taken_over for stage in new.stages)
    owner, lease = None if new.paused else new.owner, new.lease_seconds if new.owner else 0
    risk_score = None if new.assessment is None else new.assessment.risk_score
    return (
        *(new.execution_id, new.pipeline_id, clean(new.pipeline_name), new.revision, new.status),
        *(encode(new.variables), clean(new.triggered_by), len(new.stages), completed, encode(new.event.at)),
        *(len(new.events), owner, lease, new.concurrency, new.queue),
        *(new.idempotency_key, new.request_digest, new.parent_id, risk_score),
    )


NEW_STAGE = ("execution_id", "stage_id", "position", "name", "status", "output")


def new_stage_rows(new: NewExecution, encode: Encode) -> list[Row]:
    """Return the rows of the stages of a new execution."""
    done, pending = StageStatus.COMPLETED, StageStatus.PENDING
    return [
        (new.execution_id, s.stage_id, position, clean(s.name), done if s.taken_over else pending, encode(s.output))
        for position, s in enumerate(new.stages)
    ]


ASSESSMENT = ("execution_id", "pipeline_id", "at", "probability", "level", "gate", "acted", "forced", "said", "data")


def assessment_row(new: NewExecution, assessed: NewAssessment, encode: Encode) -> Row:
    """Return the row of the risk assessment of a new execution."""
    forced = assessed.forced and clean(assessed.forced)
    return (
        *(new.execution_id, new.pipeline_id, encode(assessed.at), assessed.probability, assessed.level),
        *(assessed.gate, assessed.acted, forced, encode(assessed.said), encode(assessed.data)),
    )


EVENT = ("execution_id", "seq", "at", "type", "level", "stage_id", "attempt", "message", "data")


def event_rows(change: NewExecution | Transition, encode: Encode) -> list[Row]:
    """Return the rows of the events of a change."""
    return [
        (e.execution_id, e.seq, encode(e.at), e.type, e.level, e.stage_id, e.attempt, clean(e.message), encode(e.data))
        for e in change.events
    ]


TRANSITION = (
    *("execution_id", "token", "expected", "expected_seq", "must_be_queued"),
    *("pipeline_id", "status", "completed_stages", "last_seq", "started_at", "completed_at", "error", "goal"),
    *("pause_deadline", "release", "freed_slot", "ends", "progress"),
)


def transition_row(t: Transition, encode: Encode) -> Row:
    """Return the row of a transition: the state that it expects, the new state, and what else changes."""
    return (
        *(t.execution_id, t.token, t.expected, t.expected_seq, t.must_be_queued),
        *(t.pipeline_id, t.status, t.completed_stages, t.last_seq, encode(t.started_at), encode(t.completed_at)),
        *(encode(t.error), t.goal, encode(t.pause_deadline), t.release, t.freed_slot, t.ends, t.progress),
    )


STAGE = (
    *("execution_id", "stage_id", "status", "attempt", "started_at", "completed_at", "retry_at"),
    *("output", "error", "is_anomaly"),
)


def stage_rows(transition: Transition, encode: Encode) -> list[Row]:
    """Return the new states of the stages that a transition changes."""
    return [
        (
            *(transition.execution_id, s.stage_id, s.status, s.attempt, encode(s.started_at), encode(s.completed_at)),
            *(encode(s.retry_at), encode(s.output), encode(s.error), s.is_anomaly),
        )
        for s in transition.stages
    ]


HANDLED_COMMAND = ("execution_id", "command_id", "outcome")


def handled_command_rows(transition: Transition) -> list[Row]:
    """Return the commands that a transition handles, with their outcomes."""
    return [(transition.execution_id, command_id, clean(outcome)) for command_id, outcome in transition.handled]


DECISION = (
    *("id", "execution_id", "seq", "pipeline_id", "stage_id", "attempt", "at", "error_class"),
    *("action", "taken", "mode", "data"),
)


def decision_rows(t: Transition, encode: Encode) -> list[Row]:
    """Return the rows of the decisions of a transition."""
    return [
        (
            *(decision_id(t.execution_id, d.seq), t.execution_id, d.seq, t.pipeline_id, d.stage_id, d.attempt),
            *(encode(d.at), d.error_class, d.action, d.taken, d.mode, encode(d.data)),
        )
        for d in t.decisions
    ]
