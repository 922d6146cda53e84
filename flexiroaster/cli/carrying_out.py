"""Commands that were asked for on the command line are carried out there, where nobody else drives the execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flexiroaster.cli.logs import logged
from flexiroaster.cli.outcome import print_error

if TYPE_CHECKING:
    from flexiroaster.service.installation import Installation

__all__ = ["carry_out"]


def carry_out(installation: Installation, execution_id: str, what: str) -> None:
    """Carry out what was asked for and stay until it is done, unless somebody else drives the execution."""
    from flexiroaster.service import executions

    logged(installation)
    if installation.take_over(execution_id):
        row = executions.wait(installation, execution_id)
        typer.echo(f"{row.status}: {row.id}")
        print_error(row, err=True)
    else:
        typer.echo(f"{what} requested: whoever drives {execution_id} carries it out")
