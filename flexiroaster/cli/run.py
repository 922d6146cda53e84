"""`flexiroaster run`: runs a definition in this process and shows its progress."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexiroaster.cli.failures import FAILED, INTERRUPTED, reported
from flexiroaster.cli.logs import logged
from flexiroaster.cli.options import AsJson, File, Modules, Roots, Variables, access_for, parse_variables
from flexiroaster.cli.outcome import document, print_error, print_stages
from flexiroaster.cli.text import duration, emit_json, one_line

if TYPE_CHECKING:
    from flexiroaster.cli.following import Followed
    from flexiroaster.service.executions.executions import ExecutionRow, StageRow

__all__ = ["run"]


@reported
def run(
    file: File,
    var: Variables = None,
    allow_module: Modules = None,
    root: Roots = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Stop the run after this time.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a definition, with progress on stderr and the outcome on stdout.

    If LOG_LEVEL or LOG_FORMAT is set, stderr shows the log instead of the progress. If tracing is on, the run joins the
    trace in TRACEPARENT.

    A definition without an id gets an id derived from its name, so the same file is always the same pipeline. Relative
    paths are relative to the working directory. Exits with 0 if the execution completed, 1 if it failed, 2 if the
    definition is invalid, 130 if it was interrupted.
    """
    from flexiroaster.cli.following import follow
    from flexiroaster.cli.progress import shown
    from flexiroaster.config import load_settings
    from flexiroaster.service import definition, pipelines
    from flexiroaster.service.executions import executions
    from flexiroaster.service.installation import open_installation

    variables = parse_variables(var)
    settings = load_settings()
    raw = definition.with_stable_id(definition.read_definition(file))
    access = access_for(settings, file, root, allow_module)
    pipeline = definition.check(raw, access)
    definition.check_variables(pipeline, access, {**pipeline.variables, **variables})
    _import_from(Path.cwd(), file.resolve().parent)
    with open_installation(settings, access) as installation:
        installation.warm_up()
        silent = logged(installation)
        revision = pipelines.save(installation, raw)
        with shown(revision.pipeline, quiet=as_json, silent=silent) as view:
            followed = follow(installation, revision, variables, view, timeout, os.environ.get("TRACEPARENT"))
        stages = executions.stages(installation, followed.execution.id)
    if as_json:
        emit_json(document(followed.execution, stages))
    else:
        _print_outcome(followed.execution, stages)
    raise typer.Exit(_exit_code(followed))


def _import_from(*folders: Path) -> None:
    """Append folders to the import path of stages, last, so that no file there hides an installed module."""
    sys.path += [str(folder) for folder in dict.fromkeys(folders) if str(folder) not in sys.path]


def _print_outcome(execution: ExecutionRow, stages: list[StageRow]) -> None:
    name = f"{one_line(execution.pipeline_name)}, revision {execution.revision}"
    took = f" after {duration(execution.duration)}" if execution.duration is not None else ""
    typer.echo(f"{execution.status}{took}: {name} ({execution.id})")
    print_stages(stages)
    print_error(execution, err=True)
    if execution.status == "paused":
        hint = f"waiting for a decision: flexiroaster executions decisions {execution.id}"
        typer.echo(f"Paused by the safety engine; {hint}", err=True)


def _exit_code(followed: Followed) -> int:
    if followed.execution.status == "completed":
        return 0
    return INTERRUPTED if followed.interrupted else FAILED
