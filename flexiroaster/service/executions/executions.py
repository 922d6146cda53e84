"""Executions: start, rerun, wait for and read them."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import orjson

from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import (
    BlockedError,
    ConflictError,
    InputError,
    LeaseLostError,
    NotAllowedError,
    NotFoundError,
    StoreError,
)
from flexiroaster.model import failpoints
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, StageStatus, valid_traceparent
from flexiroaster.model.pipeline import OnConflict, Pipeline, downstream
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.safety.anomaly.watch import Watch
from flexiroaster.service import pipelines
from flexiroaster.service.definition import check_variables
from flexiroaster.service.executions.commands import stop
from flexiroaster.service.installation import Installation, from_store
from flexiroaster.store import commands, executions
from flexiroaster.store import events as event_list
from flexiroaster.store import pipelines as definitions
from flexiroaster.store.events import EventFilter
from flexiroaster.store.executions import ExecutionFilter, ExecutionRow, ExecutionSort, StageRow
from flexiroaster.store.journal.transitions import Applied, NewExecution, NewStage
from flexiroaster.store.pipelines import Revision

__all__ = [
    "ExecutionFilter",
    "ExecutionRow",
    "ExecutionSort",
    "StageRow",
    "by_ids",
    "count",
    "count_logs",
    "events",
    "get",
    "latest",
    "logs",
    "offset_page",
    "page",
    "rerun",
    "stages",
    "stages_by_execution",
    "start",
    "wait",
]

MAX_TEXT = 255
"""Maximum characters of `triggered_by` and of an idempotency key."""

_log = logging.getLogger(__name__)


def start(
    installation: Installation,
    pipeline: Revision | str,
    variables: Mapping[str, Any] | None = None,
    *,
    triggered_by: str = "api",
    idempotency_key: str | None = None,
    drive: bool = True,
    force: str | None = None,
    traceparent: str | None = None,
) -> str:
    """Start a stored pipeline, given by its revision or id, and return the id of the execution.

    This process drives the execution, or, if `drive` is False, the next worker that claims it. It may have to queue.
    The same `idempotency_key` with the same pipeline and variables returns the same execution, never a second one. If
    the risk is high, the execution may start paused, see `service/safety/risk.py`; `force` is the reason to start it
    anyway. With a `traceparent`, its trace becomes part of that trace; a malformed one is ignored.

    Raises NotFoundError, NotAllowedError (not active), DefinitionError (a variable is missing or invalid),
    BlockedError (its risk is high), InputError (`force` is blank, a text is too long), ConflictError (the concurrency
    limit of the pipeline is reached, or the key was used for another request), StoreError.
    """
    _check_text("triggered_by", triggered_by)
    _check_text("idempotency_key", idempotency_key)
    revision = pipelines.get(installation, pipeline) if isinstance(pipeline, str) else pipeline
    _check_active(revision)
    merged = {**revision.pipeline.variables, **(variables or {})}
    check_variables(revision.pipeline, installation.access, merged)
    if drive:
        installation.warm_up()  # the processes start while this thread writes to the database
    owner = installation.owner if drive else None
    new = _new_execution(installation, revision, merged, triggered_by, idempotency_key, owner, traceparent)
    return _begin(installation, revision, new, force)


def rerun(
    installation: Installation,
    execution_id: str,
    from_stage: str,
    *,
    triggered_by: str = "api",
    drive: bool = True,
    force: str | None = None,
    traceparent: str | None = None,
) -> str:
    """Start an execution of the same revision and variables that reruns `from_stage` and all stages downstream of it.

    Other stages that completed are taken over with their tables; other stages that did not complete run again. Returns
    the id of the new execution, which starts like any other: it may have to queue, or cancel the oldest one. `drive`
    and `traceparent` are as in `start`.

    Raises NotFoundError (execution, stage), NotAllowedError (the execution is live, or its pipeline is not active),
    BlockedError and InputError as in `start`, ConflictError, StoreError.
    """
    _check_text("triggered_by", triggered_by)
    row = executions.execution(installation.database, execution_id)
    if row.status not in TERMINAL:
        raise NotAllowedError(f"Cannot rerun execution with status: {row.status}", status=row.status)
    revision = definitions.get(installation.database, row.pipeline_id, row.revision)
    _check_active(revision)
    edges = revision.pipeline.dependencies()
    if from_stage not in edges:
        raise NotFoundError(f"Stage not found: {from_stage}{suggestion_hint(from_stage, edges)}", stage_id=from_stage)
    rerun_stages = {from_stage, *downstream(edges, from_stage)}
    done = {s.stage_id: s.output for s in stages(installation, execution_id) if s.status is StageStatus.COMPLETED}
    taken_over = {stage_id: output for stage_id, output in done.items() if stage_id not in rerun_stages}
    if drive:
        installation.warm_up()
    owner = installation.owner if drive else None
    new = _new_execution(installation, revision, row.variables, triggered_by, None, owner, traceparent)
    new_stages = tuple(
        replace(s, output=taken_over.get(s.stage_id), taken_over=s.stage_id in taken_over) for s in new.stages
    )
    message = f"Execution created: {row.pipeline_name}, from stage {from_stage!r} of {execution_id}, by {triggered_by}"
    new = replace(new, stages=new_stages, parent_id=execution_id, event=replace(new.event, message=message))
    return _begin(installation, revision, new, force)


def wait(installation: Installation, execution_id: str, timeout: float | None = None) -> ExecutionRow:
    """Wait until an execution has ended or is paused, in whichever process it runs, or until `timeout` seconds pass.

    Returns the execution in its state at that time. Raises NotFoundError, StoreError.
    """
    deadline = None if timeout is None else monotonic() + timeout
    pause = 0.01
    while True:
        with suppress(LeaseLostError):  # another process drives it now
            installation.driver.wait(execution_id, None if deadline is None else max(0.0, deadline - monotonic()))
        row = executions.execution(installation.database, execution_id)
        if row.status not in {ExecutionStatus.PENDING, ExecutionStatus.RUNNING}:
            return row
        if deadline is not None and monotonic() >= deadline:
            return row
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


def get(installation: Installation, execution_id: str) -> ExecutionRow:
    """Read one execution for display. Raises NotFoundError.

    On PostgreSQL with Redis, processes that claim work share a cache of states. A process never gets a state older than
    the one it has read, written or deleted, or whose events it has shown. Writes of other processes appear once these
    have notified Redis, milliseconds after their commit, or after two seconds if they cannot. Do not base decisions on
    the result.
    """
    signals = installation.open_signals
    if signals is None:
        return executions.execution(installation.database, execution_id)
    return signals.state(execution_id, lambda: executions.execution(installation.database, execution_id))


stages = from_store(executions.stages_of)
stages_by_execution = from_store(executions.stages_by_execution)
events = from_store(event_list.events_of)
page = from_store(executions.page)
offset_page = from_store(executions.offset_page)
count = from_store(executions.count)
by_ids = from_store(executions.executions_by_id)
latest = from_store(executions.latest_executions)


def logs(
    installation: Installation, execution_id: str, *, level: Level = Level.INFO, after: int = 0, limit: int = 500
) -> list[Event]:
    """Read the events at or above a level, oldest first. Raises NotFoundError."""
    get(installation, execution_id)
    return event_list.events_of(installation.database, execution_id, after=after, levels=_serious(level), limit=limit)


def count_logs(installation: Installation, execution_id: str, *, level: Level = Level.INFO) -> int:
    """Count the events of an execution at or above a level."""
    return event_list.count(installation.database, execution_id, EventFilter(levels=_serious(level)))


def _serious(least: Level) -> tuple[Level, ...]:
    return tuple(level for level in Level if level.at_least(least))


def _check_text(argument: str, given: str | None) -> None:
    """Raise InputError for text that the table cannot hold: it would fail every write of the same transaction."""
    if given is not None and (len(given) > MAX_TEXT or "\0" in given):
        raise InputError(f"{argument}: must have at most {MAX_TEXT} characters and no NUL", argument=argument)


def _check_active(revision: Revision) -> None:
    if not revision.pipeline.is_active:
        raise NotAllowedError(f"Pipeline is not active: {revision.id}", pipeline_id=revision.id)


def _begin(installation: Installation, revision: Revision, new: NewExecution, force: str | None) -> str:
    """Start a new execution or a rerun: ask the gate, create it, hand it to the driver, and return its id.

    If a start with the same idempotency key exists, its id is returned, even if this start is blocked or refused.
    Without an `owner`, the execution is left to workers. Raises BlockedError, InputError, ConflictError, StoreError.
    """
    from flexiroaster.service.safety import risk  # imports numpy, while the processes start

    drive = new.owner is not None
    try:
        new = risk.admit(installation, revision, new, force)
    except BlockedError:
        earlier = new.idempotency_key and executions.by_idempotency_key(installation.database, new.idempotency_key)
        if earlier:
            return _same_request(new, *earlier)
        raise
    watch = _watch(installation, revision, new) if drive else None  # first: nothing may fail after it is created
    applied = _create(installation, new)
    if isinstance(applied, str):
        return applied
    failpoints.point("executions.after_create")
    if new.paused and not applied.queued:
        return new.execution_id  # a resume makes it claimable
    try:
        if applied.queued and revision.pipeline.on_conflict is OnConflict.CANCEL_OLDEST:
            _stop_oldest(installation, new)
        if not drive:
            installation.signals.created(new.execution_id)
    except StoreError as error:  # the execution exists, and workers also poll for work
        _log.warning("cannot notify workers of execution %s, they will find it by polling: %s", new.execution_id, error)
    if drive and applied.queued:
        installation.start_claiming()  # this process can then claim it when its turn comes
    elif drive:
        installation.driver.submit(_execution(revision, new, applied, watch))
    return new.execution_id


def _watch(installation: Installation, revision: Revision, new: NewExecution) -> Watch:
    risk_level, model = (None, None) if (a := new.assessment) is None else (a.level, str(a.data["model_version"]))
    return installation.watch_factory.watch(revision.pipeline, risk_level, model)


def _execution(revision: Revision, new: NewExecution, applied: Applied, watch: Watch | None) -> Execution:
    """Build a new execution for the driver, with the stages taken over from an earlier one."""
    seq, slot = len(new.events), applied.slot
    execution = Execution(new.execution_id, revision.pipeline, new.variables, token=1, seq=seq, slot=slot, watch=watch)
    for stage in new.stages:
        if stage.taken_over:
            run = execution.stages[stage.stage_id]
            run.status, run.output = StageStatus.COMPLETED, stage.output
    return execution


def _create(installation: Installation, new: NewExecution) -> Applied | str:
    """Write a new execution, or return the id of the earlier one with the same request. Raises ConflictError."""
    signals = installation.open_signals
    slot_likely = signals is None or signals.try_reserve_slot(new)
    for attempt in range(3):  # a concurrent start may have taken a slot that it then did not need
        if slot_likely or attempt > 0:
            applied = installation.start_journal.apply([new]).get(new.execution_id)
            if applied is not None:
                return applied
        if new.idempotency_key is not None:
            earlier = executions.by_idempotency_key(installation.database, new.idempotency_key)
            if earlier is not None:
                return _same_request(new, *earlier)
        if new.parent_id is not None:
            executions.execution(installation.database, new.parent_id)  # NotFoundError: the parent was pruned meanwhile
        holders = executions.slot_holders(installation.database, new.pipeline_id)
        if new.concurrency is not None and not new.queue and len(holders) >= new.concurrency:
            break
    if signals is not None:
        signals.record_full_slots(new.pipeline_id, holders)
    message = f"Pipeline {new.pipeline_id} is running already: {', '.join(holders)}"
    raise ConflictError(message, pipeline_id=new.pipeline_id, executions=holders)


def _same_request(new: NewExecution, execution_id: str, digest: str) -> str:
    if digest == new.request_digest:
        return execution_id
    message = f"The idempotency key {new.idempotency_key!r} was used for another request: {execution_id}"
    raise ConflictError(message, execution_id=execution_id)


def _stop_oldest(installation: Installation, new: NewExecution) -> None:
    """Stop the oldest executions of the pipeline, including queued ones, so that the new one gets a slot."""
    queue = executions.slot_holders(installation.database, new.pipeline_id, or_wait=True)
    ahead = queue[: queue.index(new.execution_id)] if new.execution_id in queue else []
    oldest = ahead[: max(0, len(ahead) + 1 - (new.concurrency or 1))]
    stopping = {c.execution_id for c in commands.pending(installation.database, oldest) if c.kind is CommandKind.STOP}
    for execution_id in oldest:
        if execution_id not in stopping:
            with suppress(NotAllowedError):  # it has just ended
                stop(installation, execution_id, f"a newer execution was started: {new.execution_id}")


def _new_execution(
    installation: Installation,
    revision: Revision,
    variables: dict[str, Any],
    triggered_by: str,
    idempotency_key: str | None,
    owner: str | None,
    traceparent: str | None,
) -> NewExecution:
    pipeline: Pipeline = revision.pipeline
    execution_id = new_id()
    titles = {stage.id: stage.title for stage in pipeline.stages}
    message = f"Execution created: {pipeline.name}, revision {revision.revision}, by {triggered_by}"
    parent = valid_traceparent(traceparent)  # the driving process reads it from the first event
    data = None if parent is None else {"traceparent": parent}
    digest = None
    if idempotency_key is not None:
        body = orjson.dumps([revision.id, variables], option=orjson.OPT_SORT_KEYS, default=str)
        digest = hashlib.sha256(body).hexdigest()
    return NewExecution(
        execution_id=execution_id,
        pipeline_id=revision.id,
        pipeline_name=pipeline.name,
        revision=revision.revision,
        variables=variables,
        triggered_by=triggered_by,
        stages=tuple(NewStage(i, titles[i]) for i in pipeline.order()),
        event=Event(execution_id, 1, EventType.EXECUTION_CREATED, message, data=data),
        owner=owner,
        lease_seconds=installation.settings.execution_lock_ttl,
        concurrency=pipeline.concurrency,
        queue=pipeline.on_conflict is not OnConflict.REJECT,
        idempotency_key=idempotency_key,
        request_digest=digest,
    )


def new_id() -> str:
    """Generate an execution id. Ids sort by time, so inserts touch neighboring index pages."""
    return f"exec-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"
