"""`flexiroaster validate`: reports every problem of a definition without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flexiroaster.cli.failures import reported
from flexiroaster.cli.options import AsJson, File, Modules, Roots, Variables, access_for, parse_variables
from flexiroaster.cli.text import emit_json

if TYPE_CHECKING:
    from flexiroaster.model.pipeline import Pipeline

__all__ = ["validate"]


@reported
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
    waiting = definition.unset_variables(pipeline, variables)
    if as_json:
        emit_json(_document(pipeline, waiting))
        return
    count = len(pipeline.stages)
    told = f"; set with --var: {', '.join(waiting)}" if waiting else ""
    typer.echo(f"valid: {pipeline.name}, {count} {'stage' if count == 1 else 'stages'}{told}")


def _document(pipeline: Pipeline, waiting: list[str]) -> dict[str, object]:
    return {
        "valid": True,
        "name": pipeline.name,
        "stages": list(pipeline.order()),
        "unset_variables": waiting,
    }
