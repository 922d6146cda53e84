"""`flexiroaster executions`: list, show and control executions; the output of executions that other commands share."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiroaster.cli.text import (
    FAILED,
    INTERRUPTED,
    AsJson,
    UsageError,
    console,
    duration,
    emit_json,
    moment,
    one_line,
    open_installation,
    parse_duration,
    report_errors,
    rows,
    styled,
    table,
)
from flexiroaster.model.event import Level
from flexiroaster.model.execution import ExecutionStatus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from flexiroaster.model.event import Event
    from flexiroaster.service.executions.executions import ExecutionRow, StageRow
    from flexiroaster.service.installation import Installation
    from flexiroaster.service.safety.decisions import Action, DecisionRow

__all__ = ["app", "document", "enable_execution_log", "print_error", "print_stages"]


app = typer.Typer(help="List, show and control executions.", no_args_is_help=True)

ExecutionId = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]
Reason = Annotated[str, typer.Option(help="The reason; it is recorded in the log.")]

_SUMMARY = (
    *("pipeline_id", "pipeline_name", "revision", "status", "triggered_by", "risk_score", "completed_stages"),
    *("total_stages", "created_at", "started_at", "completed_at", "duration", "error", "pause_deadline"),
)
_EVENT = ("seq", "at", "type", "level", "stage_id", "attempt", "message", "data")


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

    wanted = executions.ExecutionFilter(
        pipeline_ids=None if pipeline is None else (pipeline,), statuses=None if status is None else (status,)
    )
    with open_installation() as installation:
        found, total = executions.offset_page(installation, wanted, 0, limit)
    if as_json:
        emit_json({"total": total, "executions": [_summary(row) for row in found]})
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

    with open_installation() as installation:
        row = executions.get(installation, execution_id)
        stages = executions.stages(installation, execution_id)
    if as_json:
        emit_json({**_summary(row), **document(row, stages), "variables": row.variables})
        return
    _print_execution(row)
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

    with open_installation() as installation:
        enable_execution_log(installation)
        new_id = executions.rerun(
            installation, execution_id, from_stage, triggered_by="cli", traceparent=os.environ.get("TRACEPARENT")
        )
        row = executions.wait(installation, new_id)
    if as_json:
        emit_json(_summary(row))
    else:
        typer.echo(f"{row.status}: {row.id}")
        print_error(row, err=True)
    if row.status is not ExecutionStatus.COMPLETED:
        raise typer.Exit(FAILED)


@app.command()
@report_errors
def decisions(execution_id: ExecutionId, as_json: AsJson = False) -> None:
    """List the decisions of the safety engine with reasons, outcomes and overrides, oldest first."""
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


@app.command()
@report_errors
def override(
    decision_id: Annotated[str, typer.Argument(metavar="DECISION", help="The decision's id.")],
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="continue, retry, skip, pause, rollback or terminate.")
    ],
    reason: Annotated[str, typer.Option(help="The reason; it is recorded in the log and with the decision.")],
) -> None:
    """Override the newest decision of an execution with another action."""
    from flexiroaster.service.safety import decisions

    wanted = _action(action)
    with open_installation() as installation:
        decision = decisions.override(installation, decision_id, wanted, reason, requested_by="cli")
        _apply_command(installation, decision.execution_id, wanted)


def _command(name: str, execution_id: str, reason: str, *, as_json: bool, **options: bool | timedelta | None) -> None:
    from flexiroaster.service.executions import commands

    with open_installation() as installation:
        getattr(commands, name)(installation, execution_id, reason, requested_by="cli", **options)
        _apply_command(installation, execution_id, name, as_json=as_json)


def _apply_command(installation: Installation, execution_id: str, what: str, *, as_json: bool = False) -> None:
    """Apply the requested command and wait until it is done, unless another process drives the execution."""
    from flexiroaster.service.executions import executions

    enable_execution_log(installation)
    here = installation.claim_and_drive(execution_id)
    row = (executions.wait if here else executions.get)(installation, execution_id)
    if as_json:
        emit_json({**_summary(row), "command": what, "carried_out": here})
    elif here:
        typer.echo(f"{row.status}: {row.id}")
        print_error(row, err=True)
    else:
        typer.echo(f"{what} requested: the process that drives {execution_id} will apply it")


def _print_execution(row: ExecutionRow) -> None:
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
        emit_json({name: getattr(event, name) for name in _EVENT}, indent=False)
        return
    stage = f"{event.stage_id}: " if event.stage_id and event.stage_id not in event.message else ""
    typer.echo(f"{moment(event.at)}  {event.level.upper():8} {stage}{one_line(event.message)}")


def _action(text: str) -> Action:
    from flexiroaster.service.safety.decisions import Action

    try:
        return Action(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not an action: use one of {', '.join(Action)}") from error


def _document(row: DecisionRow) -> dict[str, Any]:
    columns = asdict(row)
    return {**columns.pop("data"), **columns}  # columns of the row override the fields of the original decision


# --- output of executions, also for `run` and `demo` -----------------------------------------------------------------


def _summary(row: ExecutionRow) -> dict[str, Any]:
    """Return the JSON document of an execution without its stages, for lists and commands."""
    return {"execution_id": row.id, **{name: getattr(row, name) for name in _SUMMARY}}


def document(execution: ExecutionRow, stages: Iterable[StageRow]) -> dict[str, Any]:
    """Return the document of `run --json` and `executions show --json`; durations are in seconds.

    The duration of a stage is that of its last attempt.
    """
    return {
        "execution_id": execution.id,
        **{name: getattr(execution, name) for name in ("pipeline_id", "revision", "status", "duration", "error")},
        "stages": [
            {
                "id": stage.stage_id,
                "name": stage.name,
                "status": stage.status,
                "attempt": stage.attempt,
                "duration": stage.duration,
                "rows": rows(stage.output),
                "output": stage.output,
                "error": stage.error,
            }
            for stage in stages
        ],
    }


def print_stages(stages: Iterable[StageRow]) -> None:
    """Print a table of stages to stdout."""
    shown = table("stage", "status", "attempt", "duration", "rows", right=("attempt", "duration", "rows"))
    for stage in stages:
        count = rows(stage.output)
        counted = "-" if count is None else f"{count:,}"
        took = duration(stage.duration)
        shown.add_row(stage.stage_id, styled(stage.status), str(stage.attempt or "-"), took, counted)
    console().print(shown)


def print_error(execution: ExecutionRow, *, err: bool) -> None:
    """Print the error of an execution, if any, as one line that names the stage."""
    if execution.error is not None:
        typer.echo(f"Error: {one_line(str(execution.error['message']))}", err=err)


def enable_execution_log(installation: Installation) -> bool:
    """Log execution events to stderr if `LOG_LEVEL` or `LOG_FORMAT` is set, and return whether it is.

    The log then replaces the progress view. Call this before the first execution.
    """
    settings = installation.settings
    if settings.model_fields_set.isdisjoint({"log_level", "log_format"}):
        return False
    from flexiroaster.service.admin import logs

    logs.configure(settings, installation.access, installation.owner)
    installation.driver.listen(logs.log_events())
    return True
