"""Apply a command to an execution in this process unless another process drives the execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flexiroaster.cli.logs import logged
from flexiroaster.cli.outcome import print_error, summary
from flexiroaster.cli.text import emit_json

if TYPE_CHECKING:
    from flexiroaster.service.installation import Installation

__all__ = ["carry_out"]


def carry_out(installation: Installation, execution_id: str, what: str, *, as_json: bool = False) -> None:
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
