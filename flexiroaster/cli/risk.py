"""`flexiroaster risk` and `flexiroaster history`: failure risk, models, backtests, past runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from flexiroaster.cli.text import AsJson, console, emit_json, moment, one_line, open_installation, report_errors, table

if TYPE_CHECKING:
    from flexiroaster.safety.learning.backtest import Arm, Backtest
    from flexiroaster.safety.risk.assessment import Assessment, RiskReduction

__all__ = ["history_app", "risk_app"]


class _ShowByDefault(TyperGroup):
    """A command group in which `risk PIPELINE` means `risk show PIPELINE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - a click type that typer vendors
        """Resolve a command; an unknown command is the id of a pipeline."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


risk_app = typer.Typer(
    cls=_ShowByDefault,
    help="Estimate and explain failure risk. `risk PIPELINE` is short for `risk show PIPELINE`.",
    no_args_is_help=True,
)

history_app = typer.Typer(
    help="Import and export past runs, the training data of the risk model.", no_args_is_help=True
)

HistoryTarget = Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet or .csv file.")]
HistoryFile = Annotated[Path, typer.Argument(metavar="FILE", help="Past runs in a .parquet or .csv file.")]


@risk_app.command()
@report_errors
def show(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="The pipeline's id.")], as_json: AsJson = False
) -> None:
    """Show the failure probability of a pipeline now, its causes, and changes that would lower it."""
    from flexiroaster.safety.policy import RiskLevel
    from flexiroaster.safety.risk.assessment import risk_reductions
    from flexiroaster.service.safety import risk

    with open_installation() as installation:
        assessment = risk.assess(installation, pipeline)
    reductions = () if assessment.level is RiskLevel.LOW else risk_reductions(assessment.input)
    if as_json:
        emit_json({**assessment.data(), "what_would_lower_it": [asdict(reduction) for reduction in reductions]})
        return
    _print_assessment(assessment)
    _print_reductions(reductions)


@risk_app.command()
@report_errors
def train(
    seed: Annotated[int, typer.Option(min=0, help="The same seed and history give the same model.")] = 0,
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Train only if enough runs have ended since the last training.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on the runs of this installation; the better model is used from now on."""
    from flexiroaster.service.safety import training

    with open_installation() as installation:
        if if_due and not training.due(installation):
            emit_json({"trained": False}) if as_json else typer.echo(
                "not due: too few runs have ended since the last training"
            )
            return
        trained = training.train(installation, seed)
    if as_json:
        emit_json({"trained": True, **asdict(trained)})
        return
    typer.echo(f"model {trained.version} from {trained.examples} runs: {trained.rung}; {trained.reason}")
    typer.echo(trained.note)


@risk_app.command()
@report_errors
def models(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of models.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the trained models, newest first; the first one is in use."""
    from flexiroaster.service.safety import training

    with open_installation() as installation:
        found = training.models(installation, limit)
    if as_json:
        emit_json({"models": [asdict(row) for row in found]})
        return
    shown = table("model", "trained", "answers", "runs", "why", right=("runs",))
    for row in found:
        shown.add_row(row.version, moment(row.created_at), row.rung, str(row.examples), one_line(row.reason))
    console().print(shown)


@risk_app.command()
@report_errors
def backtest(
    file: HistoryFile,
    predictions: Annotated[
        Path | None, typer.Option(metavar="OUT.parquet", help="Write the prediction before each run to this file.")
    ] = None,
    anomalies: Annotated[bool, typer.Option("--anomalies", help="Replay stage durations, too.")] = False,
    stages: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The stages; default: NAME_stages next to FILE.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the models.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Replay past runs as the safety engine would have seen them, without lookahead. Needs no database."""
    from flexiroaster.service.safety import history

    late = None
    if anomalies or stages is not None:
        late = history.backtest_stages(file, stages or file.with_name(f"{file.stem}_stages{file.suffix}"))
    result = history.backtest_file(file, seed=seed)
    if predictions is not None:
        history.write_predictions(result, predictions)
    if as_json:
        emit_json(result.to_json() | ({} if late is None else {"anomalies": asdict(late)}))
        return
    _print_backtest(result)
    if late is not None:
        rates = (late.flagged / max(late.watched, 1), late.spikes_caught / max(late.watched, 1))
        counts = f"{late.stages} stages, {late.watched} watched: {100 * rates[0]:.2f} % flagged, {late.alerts} alerts"
        typer.echo(f"durations: {counts}; threefold spikes caught: {100 * rates[1]:.1f} %")


def _print_assessment(assessment: Assessment) -> None:
    shown, chance = table("", ""), assessment.prediction
    shown.show_header = False
    shown.add_row("pipeline", one_line(assessment.input.start.pipeline_id))
    shown.add_row("P(failure)", f"{chance.probability:.3f} ({chance.low:.3f} to {chance.high:.3f})")
    if assessment.no_history_yet:
        shown.add_row("", "no history yet: this is the failure probability of other pipelines")
    shown.add_row("level", f"{assessment.level}; gate: {assessment.gate}")
    shown.add_row("from", f"{chance.rung} {assessment.model_version}: {chance.reason}")
    shown.add_row("score", f"{assessment.score.score:.3f} (six factors, not a probability)")
    console().print(shown)
    typer.echo(f"\n{one_line(assessment.explanation.text)}\n")
    factors = table("factor", "value", "score", "weight", "adds", "", right=("value", "score", "weight", "adds"))
    for f in assessment.score.factors:
        value = "-" if f.value is None else f"{f.value:.3g}"
        factors.add_row(f.name, value, f"{f.score:.2f}", f"{f.weight:.2f}", f"{f.contribution:.3f}", f.description)
    console().print(factors)
    typer.echo()
    for advice in assessment.recommendations:
        typer.echo(advice)


def _print_reductions(reductions: tuple[RiskReduction, ...]) -> None:
    if not reductions:
        return
    typer.echo("\nChanges that would lower the risk:")
    shown = table("change", "P(failure)", "", right=("P(failure)",))
    for reduction in reductions:
        shown.add_row(reduction.text, f"{reduction.probability:.3f}", "enough" if reduction.enough else "")
    console().print(shown)


def _print_backtest(result: Backtest) -> None:
    typer.echo(f"{result.executions} executions of {result.pipelines} pipelines, evaluated on the newest 30 %")
    headings = ("AUC", "within", "PR-AUC", "Brier", "skill", "ECE", "recall", "alerts/day", "AUC if new")
    shown = table("forecaster", "runs", *headings, right=("runs", *headings))
    for arm in result.arms:
        shown.add_row(*_arm(arm))
    console().print(shown)
    gate = result.gate
    counts = f"{gate.rightly} correct blocks, {gate.wrongly} false blocks, {gate.missed} missed failures"
    typer.echo(f"a gate that blocks at high risk: {counts}")


def _arm(arm: Arm) -> tuple[str, ...]:
    if arm.all is None:
        return (arm.name, "0", *["-"] * 9)
    m = arm.all
    figures: list[Any] = [m.auc, m.auc_within, m.pr_auc, m.brier, m.brier_skill, m.ece, m.recall]
    new = None if arm.cold is None else arm.cold.auc
    return (arm.name, str(m.runs), *map(_figure, figures), f"{arm.alerts_per_day:.1f}", _figure(new))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@history_app.command("import")
@report_errors
def import_file(file: HistoryTarget, as_json: AsJson = False) -> None:
    """Import past runs, so that risk predictions are available from the first start. Known runs are skipped.

    Unless AI_TRAIN_EVERY is 0, the safety engine trains on these runs as if it had observed them; 100,000 runs take a
    minute.

    Columns: pipeline_id, started_at, finished_at, status (completed, failed, cancelled). Optional columns:
    execution_id, duration_s, n_stages.
    """
    from flexiroaster.service.safety import history

    with open_installation() as installation:
        imported, model = history.import_file(installation, file), installation.risk_state.model
    if as_json:
        emit_json({**asdict(imported), "answers": model.rung.value, "reason": model.reason})
        return
    typer.echo(f"{imported.added} runs imported, {imported.known} already known; {imported.total} in total")
    typer.echo(f"risk predictions come from the {model.rung}: {model.reason}")


@history_app.command("export")
@report_errors
def export_file(file: HistoryTarget, as_json: AsJson = False) -> None:
    """Write all finished runs in the order of their end; `import` can read the file."""
    from flexiroaster.service.safety import history

    with open_installation() as installation:
        written = history.export(installation, file)
    if as_json:
        emit_json({"written": written})
    else:
        typer.echo(f"{written} runs written to {file}")
