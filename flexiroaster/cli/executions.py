"""`flexiroaster executions`: lists, shows and controls executions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiroaster.cli.progress import document, logged, print_error, print_stages, summary
from flexiroaster.cli.text import (
    FAILED,
    INTERRUPTED,
    AsJson,
    UsageError,
    console,
    duration,
    emit_json,
    emit_ndjson,
    moment,
    one_line,
    parse_duration,
    report_errors,
    styled,
    table,
)
from flexiroaster.model.event import Level
from flexiroaster.model.execution import ExecutionStatus

if TYPE_CHECKING:
    from datetime import timedelta

    from flexiroaster.model.event import Event
    from flexiroaster.service.executions.executions import ExecutionRow
    from flexiroaster.service.installation import Installation
    from flexiroaster.service.safety.decisions import Action, DecisionRow

__all__ = ["app", "apply_pending_command", "decisions", "override"]


# `flexiroaster executions decisions` and `override`: the safety engine's decisions, and manual overrides.
@report_errors
def decisions(
    execution_id: Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")], as_json: AsJson = False
) -> None:
    """List the decisions of the safety engine with reasons, outcomes and overrides, oldest first."""
    from flexiroaster.service.installation import open_installation
    from flexiroaster.service.safety import decisions

    with open_installation() as installation:
        found = decisions.of_execution(installation, execution_id)
    if as_json:
        emit_json({"decisions": [_document(row) for row in found]})
        return
    headings = ("decision", "at", "stage", "attempt", "error", "chosen", "taken", "reason", "outcome", "overridden")
    shown = table(*headings, right=("attempt",))
    for row in found:
        shown.add_row(
            row.id,
            moment(row.at),
            row.stage_id or "-",
            str(row.attempt or "-"),
            row.error_class or "-",
            row.action,
            row.taken,
            one_line(row.data["reason"]),
            row.outcome or "-",
            ", ".join(f"{each.action} by {one_line(each.requested_by)}" for each in row.overrides) or "-",
        )
    console().print(shown)


@report_errors
def override(
    decision_id: Annotated[str, typer.Argument(metavar="DECISION", help="The decision's id.")],
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="continue, retry, skip, pause, rollback or terminate.")
    ],
    reason: Annotated[str, typer.Option(help="The reason; it is recorded in the log and with the decision.")],
) -> None:
    """Override the newest decision of an execution with another action."""
    from flexiroaster.service.installation import open_installation
    from flexiroaster.service.safety import decisions

    wanted = _action(action)
    with open_installation() as installation:
        decision = decisions.override(installation, decision_id, wanted, reason, requested_by="cli")
        apply_pending_command(installation, decision.execution_id, wanted)


def _action(text: str) -> Action:
    from flexiroaster.service.safety.decisions import Action

    try:
        return Action(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not an action: use one of {', '.join(Action)}") from error


def _document(row: DecisionRow) -> dict[str, Any]:
    from dataclasses import asdict

    columns = asdict(row)
    return {**columns.pop("data"), **columns}  # columns of the row override the fields of the original decision


# Apply a command to an execution in this process unless another process drives the execution.
def apply_pending_command(installation: Installation, execution_id: str, what: str, *, as_json: bool = False) -> None:
    """Apply the requested command and wait until it is done, unless another process drives the execution."""
    from flexiroaster.service.executions import executions

    logged(installation)
    here = installation.take_over(execution_id)
    row = (executions.wait if here else executions.get)(installation, execution_id)
    if as_json:
        emit_json({**summary(row), "command": what, "carried_out": here})
    elif here:
        typer.echo(f"{row.status}: {row.id}")
        print_error(row, err=True)
    else:
        typer.echo(f"{what} requested: the process that drives {execution_id} will apply it")


app = typer.Typer(help="List, show and control executions.", no_args_is_help=True)

ExecutionId = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]


@app.command("list")
@report_errors
def listing(
    status: Annotated[ExecutionStatus | None, typer.Option(help="Only executions in this state.")] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="ID", help="Only executions of this pipeline.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of executions.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List executions, newest first."""
    from flexiroaster.service.executions import executions
    from flexiroaster.service.installation import open_installation

    wanted = executions.ExecutionFilter(
        pipeline_ids=None if pipeline is None else (pipeline,), statuses=None if status is None else (status,)
    )
    with open_installation() as installation:
        found, total = executions.offset_page(installation, wanted, 0, limit)
    if as_json:
        emit_json({"total": total, "executions": [summary(row) for row in found]})
        return
    shown = table("id", "pipeline", "status", "stages", "created", "duration", right=("stages", "duration"))
    for row in found:
        done = f"{row.completed_stages}/{row.total_stages}"
        name = one_line(row.pipeline_name)
        shown.add_row(row.id, name, styled(row.status), done, moment(row.created_at), duration(row.duration))
    console().print(shown)
    if total > len(found):
        typer.echo(f"{len(found)} of {total}; --limit shows more", err=True)


@app.command()
@report_errors
def show(execution_id: ExecutionId, as_json: AsJson = False) -> None:
    """Show an execution with its stages, variables and error."""
    from flexiroaster.service.executions import executions
    from flexiroaster.service.installation import open_installation

    with open_installation() as installation:
        row = executions.get(installation, execution_id)
        stages = executions.stages(installation, execution_id)
    if as_json:
        emit_json({**summary(row), **document(row, stages), "variables": row.variables})
        return
    _print_head(row)
    print_stages(stages)
    print_error(row, err=False)


@app.command()
@report_errors
def logs(
    execution_id: ExecutionId,
    level: Annotated[Level, typer.Option(help="The minimum level.")] = Level.INFO,
    limit: Annotated[int, typer.Option(min=1, help="The maximum number of lines, from the first.")] = 10_000,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print new lines until the execution ends, without a limit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the events and logs of an execution, oldest first; --json writes one document per line.

    Ctrl-C ends --follow but not the execution.
    """
    from flexiroaster.service.executions import events, executions
    from flexiroaster.service.installation import open_installation

    with open_installation() as installation:
        if not follow:
            for event in executions.logs(installation, execution_id, level=level, limit=limit):
                _print_event(event, as_json)
            return
        try:
            for event in events.follow(installation, execution_id):
                if event.level.at_least(level):
                    _print_event(event, as_json)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(INTERRUPTED) from interrupt


Reason = Annotated[str, typer.Option(help="The reason; it is recorded in the log.")]


@app.command()
@report_errors
def stop(execution_id: ExecutionId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Stop an execution: its stages get a request to end and are killed after the grace period."""
    _command("stop", execution_id, reason, as_json=as_json)


@app.command()
@report_errors
def pause(
    execution_id: ExecutionId,
    reason: Reason = "",
    interrupt: Annotated[bool, typer.Option(help="End running stages now; they start again on resume.")] = False,
    limit: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="Stop the execution unless it is resumed within 2h, 30m, 1d."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pause an execution: no stage starts until `resume`. Running stages finish unless they are interrupted."""
    deadline = None if limit is None else parse_duration("--for", limit)
    _command("pause", execution_id, reason, as_json=as_json, interrupt=interrupt, deadline=deadline)


@app.command()
@report_errors
def resume(execution_id: ExecutionId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Resume a paused execution."""
    _command("resume", execution_id, reason, as_json=as_json)


@app.command()
@report_errors
def retry(execution_id: ExecutionId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Retry the failed, cancelled and skipped stages; completed stages keep their results."""
    _command("retry", execution_id, reason, as_json=as_json)


@app.command()
@report_errors
def rollback(execution_id: ExecutionId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Roll an execution back: undo the external effects of its stages in reverse order."""
    _command("rollback", execution_id, reason, as_json=as_json)


@app.command()
@report_errors
def rerun(
    execution_id: ExecutionId,
    from_stage: Annotated[
        str, typer.Option("--from", metavar="STAGE", help="Run this stage and all downstream stages again.")
    ],
    as_json: AsJson = False,
) -> None:
    """Start a new execution from a stage, reuse the completed stages before it, and wait until it ends."""
    from flexiroaster.service.executions import executions
    from flexiroaster.service.installation import open_installation

    with open_installation() as installation:
        logged(installation)
        new_id = executions.rerun(
            installation, execution_id, from_stage, triggered_by="cli", traceparent=os.environ.get("TRACEPARENT")
        )
        row = executions.wait(installation, new_id)
    if as_json:
        emit_json(summary(row))
    else:
        typer.echo(f"{row.status}: {row.id}")
        print_error(row, err=True)
    if row.status is not ExecutionStatus.COMPLETED:
        raise typer.Exit(FAILED)


app.command("decisions")(decisions)
app.command("override")(override)


def _command(name: str, execution_id: str, reason: str, *, as_json: bool, **options: bool | timedelta | None) -> None:
    from flexiroaster.service.executions import commands
    from flexiroaster.service.installation import open_installation

    with open_installation() as installation:
        getattr(commands, name)(installation, execution_id, reason, requested_by="cli", **options)
        apply_pending_command(installation, execution_id, name, as_json=as_json)


def _print_head(row: ExecutionRow) -> None:
    shown = table("", "")
    shown.show_header = False
    shown.add_row("execution", row.id)
    shown.add_row("pipeline", f"{one_line(row.pipeline_name)} ({row.pipeline_id}, revision {row.revision})")
    shown.add_row("status", styled(row.status))
    shown.add_row("created", f"{moment(row.created_at)} by {row.triggered_by}")
    shown.add_row("duration", duration(row.duration))
    if row.risk_score is not None:
        shown.add_row("risk score", f"{row.risk_score:.3f}")
    if row.pause_deadline is not None:
        shown.add_row("paused until", moment(row.pause_deadline))
    for name, value in row.variables.items():
        shown.add_row(f"${{{name}}}", one_line(str(value)))
    console().print(shown)
    typer.echo()


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        emit_ndjson([_line(event)])
        return
    stage = f"{event.stage_id}: " if event.stage_id and event.stage_id not in event.message else ""
    typer.echo(f"{moment(event.at)}  {event.level.upper():8} {stage}{one_line(event.message)}")


def _line(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": event.at,
        "type": event.type,
        "level": event.level,
        "stage_id": event.stage_id,
        "attempt": event.attempt,
        "message": event.message,
        "data": event.data,
    }
