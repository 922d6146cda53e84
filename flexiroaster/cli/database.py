"""`flexiroaster db`: the version of the database's schema."""

from __future__ import annotations

from typing import Annotated

import typer

from flexiroaster.cli.failures import reported
from flexiroaster.cli.options import parse_duration

__all__ = ["app"]

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command()
@reported
def upgrade() -> None:
    """Bring the database to the version of this release. Starting an execution does so as well."""
    from flexiroaster.config import load_settings
    from flexiroaster.service import schema

    before, after = schema.upgrade(load_settings())
    typer.echo(f"already at {after}" if before == after else f"upgraded from {before or 'nothing'} to {after}")


@app.command()
@reported
def prune(
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Such as 90d, 12h or 30m.")],
) -> None:
    """Forget executions that ended longer ago than that, with their logs and artifacts; nothing that is live, and
    nothing that a rerun still reads.

    What outputs wrote stays where it is, and can no longer be rolled back. Audit log, decisions, insights and other
    records go by their own age: see RETENTION_*_DAYS in docs/settings.md.
    """
    from flexiroaster.service import retention
    from flexiroaster.service.installation import open_installation

    age = parse_duration("--older-than", older_than)
    with open_installation() as installation:
        forgotten = retention.prune(installation, age)
        records = retention.prune_records(installation)
        leftovers = retention.sweep(installation, age)
    typer.echo(f"{forgotten} executions forgotten")
    for table, rows in records.items():
        if rows:
            typer.echo(f"{rows} rows of {table} deleted")
    if leftovers:
        typer.echo(f"{leftovers} leftover folders and files deleted")


@app.command()
@reported
def current() -> None:
    """Print the version the database is at."""
    from flexiroaster.config import load_settings
    from flexiroaster.service import schema

    version = schema.current(load_settings())
    told = "" if version == schema.HEAD else f" (this release needs {schema.HEAD})"
    typer.echo(f"{version or 'nothing'}{told}")
