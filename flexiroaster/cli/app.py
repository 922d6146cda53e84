"""The command line application: its commands and `--version`.

Commands import their dependencies when they run, so `--help` and `--version` respond at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flexiroaster import __version__
from flexiroaster.cli import admin, demo, executions, operators, pipelines, risk, run

__all__ = ["app", "main"]

app = typer.Typer(
    name="flexiroaster",
    help="Run, monitor and control data pipelines: durable execution, a safety engine and live events.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # an internal error shows a plain Python traceback, without the values of variables
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flexiroaster {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run, monitor and control data pipelines: durable execution, a safety engine and live events."""


app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("validate")(pipelines.validate)
app.command("operators")(operators.operators)
app.add_typer(executions.app, name="executions")
app.add_typer(pipelines.app, name="pipelines")
app.add_typer(risk.risk_app, name="risk")
app.add_typer(risk.history_app, name="history")
app.add_typer(admin.database_app, name="db")
app.add_typer(admin.token_app, name="token")
app.command("serve")(run.serve)
app.command("worker")(run.worker)
app.command("services")(run.services)


def main() -> None:
    """Run the command of this process's arguments and exit with its code."""
    app()
