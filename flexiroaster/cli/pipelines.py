"""`flexiroaster pipelines` and `flexiroaster validate`: stored definitions, and the check of a definition in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flexiroaster.cli.text import (
    AsJson,
    File,
    Modules,
    Roots,
    Variables,
    access_for,
    console,
    emit_json,
    moment,
    one_line,
    open_installation,
    parse_variables,
    report_errors,
    table,
)

if TYPE_CHECKING:
    from flexiroaster.service.pipelines import Revision

__all__ = ["app", "validate"]


app = typer.Typer(help="List and show stored pipelines.", no_args_is_help=True)


@app.command("list")
@report_errors
def listing(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of pipelines.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the stored pipelines, oldest first."""
    from flexiroaster.service import pipelines

    with open_installation() as installation:
        found, total = pipelines.listing(installation, limit=limit)
    if as_json:
        emit_json({"total": total, "pipelines": [_summary(revision) for revision in found]})
        return
    shown = table("id", "name", "revision", "stages", "changed", right=("revision", "stages"))
    for revision in found:
        changed = moment(revision.updated_at or revision.created_at)
        stages = str(len(revision.pipeline.stages))
        shown.add_row(revision.id, one_line(revision.pipeline.name), str(revision.revision), stages, changed)
    console().print(shown)
    if total > len(found):
        typer.echo(f"{len(found)} of {total}; --limit shows more", err=True)


@app.command()
@report_errors
def show(
    pipeline_id: Annotated[str, typer.Argument(metavar="ID")],
    revision: Annotated[int | None, typer.Option(min=1, help="The revision; default: the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a stored definition as YAML (or JSON) that can be run again."""
    from flexiroaster.service import pipelines

    with open_installation() as installation:
        found = pipelines.get(installation, pipeline_id, revision)
    if as_json:
        emit_json({**_summary(found), "definition": found.pipeline.document()})
        return
    from flexiroaster.model import yaml_core

    typer.echo(yaml_core.dump(found.pipeline.document()), nl=False)


def _summary(revision: Revision) -> dict[str, object]:
    return {
        "id": revision.id,
        "name": revision.pipeline.name,
        "revision": revision.revision,
        "stages": len(revision.pipeline.stages),
        "is_active": revision.pipeline.is_active,
        "created_at": revision.created_at,
        "updated_at": revision.updated_at,
    }


@report_errors
def validate(
    file: File,
    var: Variables = None,
    allow_module: Modules = None,
    root: Roots = None,
    as_json: AsJson = False,
) -> None:
    """Validate a definition and print each problem with its path on a line. Exits with 2 if there are problems."""
    from flexiroaster.config import load_settings
    from flexiroaster.service import definition

    variables = parse_variables(var)
    access = access_for(load_settings(), file, root, allow_module)
    pipeline = definition.check(definition.read_definition(file), access, variables)
    unset = definition.unset_variables(pipeline, variables)
    if as_json:
        stages = list(pipeline.order())
        emit_json({"valid": True, "name": pipeline.name, "stages": stages, "unset_variables": unset})
        return
    count = len(pipeline.stages)
    hint = f"; set with --var: {', '.join(unset)}" if unset else ""
    typer.echo(f"valid: {pipeline.name}, {count} {'stage' if count == 1 else 'stages'}{hint}")
