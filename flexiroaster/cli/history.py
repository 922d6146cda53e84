"""`flexiroaster history`: past runs of another system in, all runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiroaster.cli.failures import reported
from flexiroaster.cli.options import AsJson
from flexiroaster.cli.text import emit_json

__all__ = ["app"]

app = typer.Typer(help="The runs that ended: what the risk is learned from.", no_args_is_help=True)

HistoryFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet or .csv file.")]


@app.command("import")
@reported
def import_file(file: HistoryFile, as_json: AsJson = False) -> None:
    """Take past runs in, so that the risk is known from the first start on. A run that is there already is left out.

    The safety engine learns from them as if it had been on meanwhile, unless AI_TRAIN_EVERY is 0; 100,000 runs take a
    minute.

    Columns: pipeline_id, started_at, finished_at, status (completed, failed, cancelled); where known also
    execution_id, duration_s, n_stages.
    """
    from dataclasses import asdict

    from flexiroaster.service import history
    from flexiroaster.service.installation import open_installation

    with open_installation() as installation:
        imported, model = history.import_file(installation, file), installation.knowledge.model
    if as_json:
        emit_json({**asdict(imported), "answers": model.rung.value, "reason": model.reason})
        return
    typer.echo(f"{imported.added} runs imported, {imported.known} known already; {imported.total} in all")
    typer.echo(f"risk is answered by the {model.rung}: {model.reason}")


@app.command("export")
@reported
def export_file(file: HistoryFile, as_json: AsJson = False) -> None:
    """Write all runs that ended, in the order of their ends; `import` reads what this writes."""
    from flexiroaster.service import history
    from flexiroaster.service.installation import open_installation

    with open_installation() as installation:
        written = history.export(installation, file)
    if as_json:
        emit_json({"written": written})
    else:
        typer.echo(f"{written} runs written to {file}")
