"""`flexiroaster history`: imports past runs of another system and exports all runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiroaster.cli.failures import reported
from flexiroaster.cli.options import AsJson
from flexiroaster.cli.text import emit_json

__all__ = ["app"]

app = typer.Typer(help="Import and export past runs, the training data of the risk model.", no_args_is_help=True)

HistoryFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet or .csv file.")]


@app.command("import")
@reported
def import_file(file: HistoryFile, as_json: AsJson = False) -> None:
    """Import past runs, so that risk predictions are available from the first start. Known runs are skipped.

    Unless AI_TRAIN_EVERY is 0, the safety engine trains on these runs as if it had observed them; 100,000 runs take a
    minute.

    Columns: pipeline_id, started_at, finished_at, status (completed, failed, cancelled). Optional columns:
    execution_id, duration_s, n_stages.
    """
    from dataclasses import asdict

    from flexiroaster.service.installation import open_installation
    from flexiroaster.service.safety import history

    with open_installation() as installation:
        imported, model = history.import_file(installation, file), installation.knowledge.model
    if as_json:
        emit_json({**asdict(imported), "answers": model.rung.value, "reason": model.reason})
        return
    typer.echo(f"{imported.added} runs imported, {imported.known} already known; {imported.total} in total")
    typer.echo(f"risk predictions come from the {model.rung}: {model.reason}")


@app.command("export")
@reported
def export_file(file: HistoryFile, as_json: AsJson = False) -> None:
    """Write all finished runs in the order of their end; `import` can read the file."""
    from flexiroaster.service.installation import open_installation
    from flexiroaster.service.safety import history

    with open_installation() as installation:
        written = history.export(installation, file)
    if as_json:
        emit_json({"written": written})
    else:
        typer.echo(f"{written} runs written to {file}")
