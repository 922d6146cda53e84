"""`flexiroaster executions decisions` and `override`: the safety engine's decisions, and manual overrides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiroaster.cli.carrying_out import carry_out
from flexiroaster.cli.failures import UsageError, reported
from flexiroaster.cli.options import AsJson
from flexiroaster.cli.text import console, emit_json, moment, one_line, table

if TYPE_CHECKING:
    from flexiroaster.service.safety.decisions import Action, DecisionRow

__all__ = ["decisions", "override"]


@reported
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


@reported
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
        carry_out(installation, decision.execution_id, wanted)


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
