"""`flexiroaster db`: schema migrations and retention."""

from __future__ import annotations

from typing import Annotated

import typer

from flexiroaster.cli.failures import reported
from flexiroaster.cli.options import parse_duration

__all__ = ["app"]

app = typer.Typer(help="Migrate and prune the database.", no_args_is_help=True)


@app.command()
@reported
def upgrade() -> None:
    """Migrate the database to the schema version of this release. Starting an execution does this too."""
    from flexiroaster.config import load_settings
    from flexiroaster.service import schema

    before, after = schema.upgrade(load_settings())
    typer.echo(f"already at {after}" if before == after else f"upgraded from {before or 'nothing'} to {after}")


@app.command()
@reported
def prune(
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Minimum age, such as 90d, 12h or 30m.")],
) -> None:
    """Delete executions that ended more than AGE ago, with their logs and artifacts.

    Live executions and executions that a rerun still reads are kept. Data that outputs wrote is kept, but can no longer
    be rolled back. The audit log, decisions, insights and other records have their own retention: see
    RETENTION_*_DAYS in docs/settings.md.
    """
    from flexiroaster.service.admin import maintenance
    from flexiroaster.service.installation import open_installation

    age = parse_duration("--older-than", older_than)
    with open_installation() as installation:
        forgotten = maintenance.prune(installation, age)
        records = maintenance.prune_records(installation)
        leftovers = maintenance.sweep(installation, age)
    typer.echo(f"{forgotten} executions deleted")
    for table, rows in records.items():
        if rows:
            typer.echo(f"{rows} rows of {table} deleted")
    if leftovers:
        typer.echo(f"{leftovers} leftover folders and files deleted")


@app.command()
@reported
def current() -> None:
    """Print the schema version of the database."""
    from flexiroaster.config import load_settings
    from flexiroaster.service import schema

    version = schema.current(load_settings())
    told = "" if version == schema.HEAD else f" (this release needs {schema.HEAD})"
    typer.echo(f"{version or 'nothing'}{told}")
