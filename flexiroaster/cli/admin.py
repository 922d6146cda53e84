"""`flexiroaster token` and `flexiroaster db`: access tokens of the APIs, schema migrations and retention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiroaster.cli.text import (
    AsJson,
    console,
    emit_json,
    moment,
    one_line,
    open_installation,
    parse_duration,
    report_errors,
    table,
)
from flexiroaster.model.event import utc_now
from flexiroaster.model.viewer import Role

if TYPE_CHECKING:
    from flexiroaster.service.admin.tokens import TokenRow

__all__ = ["database_app", "token_app"]


token_app = typer.Typer(help="Create, list and revoke access tokens of the APIs.", no_args_is_help=True)
database_app = typer.Typer(help="Migrate and prune the database.", no_args_is_help=True)


@token_app.command()
@report_errors
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The token's user or purpose; it appears in the audit log.")
    ],
    role: Annotated[Role, typer.Option(help="The role, which determines the permissions.")] = Role.VIEWER,
    expires: Annotated[
        str | None, typer.Option(metavar="AGE", help="Expire after this time: 90d, 12h, 30m. Default: never.")
    ] = None,
) -> None:
    """Create a token and print its secret, which is not stored and cannot be shown again."""
    from flexiroaster.service.admin import tokens

    lasts = None if expires is None else parse_duration("--expires", expires)
    with open_installation() as installation:
        secret = tokens.create(installation, name, role, lasts)
    typer.echo(secret)
    typer.echo("Save this token now: it is shown only once. Send it as: Authorization: Bearer TOKEN", err=True)


@token_app.command("list")
@report_errors
def listing(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of tokens.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the tokens, newest first, without their secrets."""
    from flexiroaster.model.paging import Window
    from flexiroaster.service.admin import tokens
    from flexiroaster.service.installation import open_installation

    with open_installation() as installation:
        found = tokens.listing(installation, Window(first=limit))
    if as_json:
        emit_json({"tokens": [_document(token) for token in found.items]})
        return
    shown = table("id", "name", "role", "state", "created", "expires", "last used")
    for token in found.items:
        times = (moment(token.created_at), moment(token.expires_at), moment(token.last_used_at))
        shown.add_row(token.id, one_line(token.name), token.role, _state(token), *times)
    console().print(shown)
    if found.has_next:
        typer.echo(f"there are more than {limit} tokens; --limit shows more", err=True)


@token_app.command()
@report_errors
def revoke(token: Annotated[str, typer.Argument(metavar="NAME|ID", help="The token's name or id.")]) -> None:
    """Revoke a token; servers reject it within seconds."""
    from flexiroaster.service.admin import tokens

    with open_installation() as installation:
        revoked = tokens.revoke(installation, token)
    typer.echo(f"revoked: {one_line(revoked.name)} ({revoked.id})")


def _state(token: TokenRow) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "in force" if token.valid(utc_now()) else "expired"


def _document(token: TokenRow) -> dict[str, Any]:
    times = {name: getattr(token, name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {"id": token.id, "name": token.name, "role": token.role, "state": _state(token), **times}


@database_app.command()
@report_errors
def upgrade() -> None:
    """Migrate the database to the schema version of this release. Starting an execution does this too."""
    from flexiroaster.config import load_settings
    from flexiroaster.service.admin import maintenance

    before, after = maintenance.upgrade_schema(load_settings())
    typer.echo(f"already at {after}" if before == after else f"upgraded from {before or 'nothing'} to {after}")


@database_app.command()
@report_errors
def prune(
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Minimum age, such as 90d, 12h or 30m.")],
) -> None:
    """Delete executions that ended more than AGE ago, with their logs and artifacts.

    Live executions and executions that a rerun still reads are kept. Data that outputs wrote is kept, but can no longer
    be rolled back. The audit log, decisions, insights and other records have their own retention: see
    RETENTION_*_DAYS in docs/settings.md.
    """
    from flexiroaster.service.admin import maintenance

    age = parse_duration("--older-than", older_than)
    with open_installation() as installation:
        forgotten = maintenance.prune(installation, age)
        records = maintenance.prune_records(installation)
        leftovers = maintenance.sweep(installation, age)
    typer.echo(f"{forgotten} executions deleted")
    for name, rows in records.items():
        if rows:
            typer.echo(f"{rows} rows of {name} deleted")
    if leftovers:
        typer.echo(f"{leftovers} leftover folders and files deleted")


@database_app.command()
@report_errors
def current() -> None:
    """Print the schema version of the database."""
    from flexiroaster.config import load_settings
    from flexiroaster.service.admin import maintenance

    version = maintenance.current_schema(load_settings())
    hint = "" if version == maintenance.HEAD else f" (this release needs {maintenance.HEAD})"
    typer.echo(f"{version or 'nothing'}{hint}")
