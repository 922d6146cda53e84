"""Mutations of executions: start, and everything that can be asked of one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service import control, executions
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.errors import (
    BlockedError,
    ConflictError,
    DefinitionError,
    InputError,
    NotAllowedError,
    NotFoundError,
)
from graphql_api.schema.ids import key_of
from graphql_api.schema.inputs import json_object
from graphql_api.schema.mutations.mutation import mutation
from graphql_api.schema.scalars import JSON
from graphql_api.schema.served import served
from graphql_api.schema.types.execution import Execution

__all__ = ["ExecutionMutations"]


@fields_require(Role.VIEWER)
@strawberry.type
class ExecutionStarted:
    """The execution; with an idempotency key that was used before, the one it started then."""

    execution: Execution


@fields_require(Role.VIEWER)
@strawberry.type
class CommandAccepted:
    """What was asked for is stored and will be carried out, also if a process dies now.

    `execution` is as it stands at this moment; its events tell when it is done.
    """

    execution: Execution


@strawberry.input
class StartExecutionInput:
    """Which pipeline to run, and with what."""

    pipeline_id: strawberry.ID
    variables: JSON | None = strawberry.field(default=None, description="They go before the pipeline's own.")
    idempotency_key: str | None = strawberry.field(
        default=None, description="The same key with the same request gives the same execution, never a second one."
    )
    triggered_by: str = "graphql"
    force: str | None = strawberry.field(
        default=None, description="Why it is to start although the gate blocks it or wants an approval."
    )


@strawberry.input
class CommandInput:
    """The execution that is meant, and why."""

    id: strawberry.ID
    reason: str = ""


@strawberry.input
class PauseExecutionInput:
    """How to pause an execution."""

    id: strawberry.ID
    reason: str = ""
    interrupt: bool = strawberry.field(
        default=False, description="End running stages, to begin anew later; else they may finish."
    )
    stop_after: float | None = strawberry.field(
        default=None, description="Seconds after which it is stopped unless it was resumed."
    )


@strawberry.input
class RerunExecutionInput:
    """From which stage to run an execution again."""

    id: strawberry.ID
    from_stage: str = strawberry.field(description="It and all that depends on it runs; what else is done is kept.")
    force: str | None = strawberry.field(
        default=None, description="Why it is to start although the gate blocks it or wants an approval."
    )


StartExecutionPayload = Annotated[
    ExecutionStarted | NotFoundError | NotAllowedError | BlockedError | ConflictError | DefinitionError | InputError,
    strawberry.union("StartExecutionPayload", description="Started, or why not."),
]
RerunExecutionPayload = Annotated[
    ExecutionStarted | NotFoundError | NotAllowedError | BlockedError | ConflictError | InputError,
    strawberry.union("RerunExecutionPayload", description="Started, or why not."),
]
CommandPayload = Annotated[
    CommandAccepted | NotFoundError | NotAllowedError | ConflictError | InputError,
    strawberry.union("CommandPayload", description="Accepted, or why not."),
]


def _start(info: Info, input: StartExecutionInput) -> StartExecutionPayload:  # noqa: A002 - the API's name
    installation = info.context.installation
    execution_id = executions.start(
        installation,
        key_of("Pipeline", input.pipeline_id),
        json_object(input.variables, "variables"),
        triggered_by=input.triggered_by,
        idempotency_key=input.idempotency_key,
        drive=installation.drives,
        force=input.force,
        traceparent=info.context.traceparent,
    )
    return ExecutionStarted(execution=served(executions.get(installation, execution_id)))


def _rerun(info: Info, input: RerunExecutionInput) -> RerunExecutionPayload:  # noqa: A002 - the API's name
    installation = info.context.installation
    execution_id = executions.rerun(
        installation,
        key_of("Execution", input.id),
        input.from_stage,
        triggered_by="graphql",
        drive=installation.drives,
        force=input.force,
        traceparent=info.context.traceparent,
    )
    return ExecutionStarted(execution=served(executions.get(installation, execution_id)))


def _pause(info: Info, input: PauseExecutionInput) -> CommandPayload:  # noqa: A002 - the API's name
    control.pause(
        info.context.installation,
        key_of("Execution", input.id),
        input.reason,
        interrupt=input.interrupt,
        deadline=None if input.stop_after is None else timedelta(seconds=input.stop_after),
        requested_by=info.context.viewer.name,
    )
    return _accepted(info, input.id)


def _command(ask: Callable[..., None]) -> Callable[[Info, CommandInput], CommandPayload]:
    def resolve(info: Info, input: CommandInput) -> CommandPayload:  # noqa: A002 - the API's name
        context = info.context
        ask(context.installation, key_of("Execution", input.id), input.reason, requested_by=context.viewer.name)
        return _accepted(info, input.id)

    return resolve


def _accepted(info: Info, execution_id: strawberry.ID) -> CommandAccepted:
    row = executions.get(info.context.installation, key_of("Execution", execution_id))
    return CommandAccepted(execution=served(row))


@strawberry.type
class ExecutionMutations:
    """Executions: start, stop, pause, resume, retry, run again, roll back."""

    start_execution: StartExecutionPayload = mutation(_start, "Start a pipeline.")
    stop_execution: CommandPayload = mutation(
        _command(control.stop), "Stop it: its stages are asked to end, and killed after a grace period."
    )
    pause_execution: CommandPayload = mutation(_pause, "Start no further stage until it is resumed.")
    resume_execution: CommandPayload = mutation(_command(control.resume), "Go on with a paused execution.")
    retry_execution: CommandPayload = mutation(
        _command(control.retry),
        "Run its failed, cancelled and skipped stages again; completed ones keep their results.",
    )
    rerun_execution: RerunExecutionPayload = mutation(_rerun, "Start a new execution from a stage of this one.")
    rollback_execution: CommandPayload = mutation(
        _command(control.rollback), "Undo what its stages did outside, in reverse order of their start."
    )
