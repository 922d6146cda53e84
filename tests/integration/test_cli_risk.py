"""Risk and history from the command line."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import polars as pl
import pytest

from tests.integration.program import flexiroaster

PIPELINE = """
id: p
name: p
stages:
  - {id: a, type: input, config: {source: api, data: [{x: 1}]}}
"""


@pytest.fixture
def past(tmp_path: Path) -> Path:
    """600 runs of three pipelines with two stages each; the last runs are three times as slow."""
    rng, begin = Random(0), datetime(2026, 1, 1, tzinfo=UTC)
    runs, stages = [], []
    for i in range(600):
        start, seconds = begin + timedelta(minutes=20 * i), rng.uniform(50, 70)
        status = "failed" if rng.random() < (i % 3) / 4 else "completed"
        end = start + timedelta(seconds=seconds)
        runs.append((f"e{i}", "pqr"[i % 3], start, end, status, seconds, 2))
        stages += [(f"e{i}", name, seconds / 2 * rng.uniform(0.9, 1.1), "completed") for name in ("one", "two")]
    columns = ["execution_id", "pipeline_id", "started_at", "finished_at", "status", "duration_s", "n_stages"]
    pl.DataFrame(runs, schema=columns, orient="row").write_parquet(tmp_path / "past.parquet")
    columns = ["execution_id", "stage", "duration_s", "status"]
    pl.DataFrame(stages, schema=columns, orient="row").write_parquet(tmp_path / "past_stages.parquet")
    return tmp_path / "past.parquet"


def document(*arguments: object) -> dict[str, object]:
    done = flexiroaster(*map(str, arguments), "--json")
    assert done.returncode == 0, done.stderr
    parsed: dict[str, object] = json.loads(done.stdout, parse_constant=pytest.fail)
    return parsed


def test_from_no_history_to_a_trained_model(tmp_path: Path, past: Path) -> None:
    (tmp_path / "p.yaml").write_text(PIPELINE)
    assert flexiroaster("run", "p.yaml").returncode == 0
    imported = flexiroaster("history", "import", str(past))
    assert imported.returncode == 0, imported.stderr
    counts, answer = imported.stdout.splitlines()
    assert counts == "600 runs imported, 0 already known; 601 in total"
    assert answer.startswith("risk predictions come from the ")

    shown = flexiroaster("risk", "p")
    assert re.search(r"P\(failure\) +0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", shown.stdout), shown.stdout
    assert "failure_rate_30d" in shown.stdout
    assert shown.stdout == flexiroaster("risk", "show", "p").stdout or "since the last success" in shown.stdout

    said = document("risk", "show", "p")
    assert {"probability", "factors", "risk_score", "risk_level", "gate", "explanation", "recommendations"} <= set(said)
    assert said["no_history_yet"] is False

    trained = document("risk", "train", "--seed", 5)
    assert (trained["trained"], trained["examples"], trained["seed"]) == (True, 601, 5)
    assert document("risk", "train", "--if-due") == {"trained": False}
    models = document("risk", "models")["models"]
    assert isinstance(models, list)
    assert models[0]["version"] == trained["version"]
    assert len(models) > 1, "the import was learned from"
    assert document("risk", "show", "p")["model_version"] == trained["version"]

    assert document("history", "export", tmp_path / "out.parquet") == {"written": 601}
    assert pl.read_parquet(tmp_path / "out.parquet")["pipeline_id"].n_unique() == 3


def test_a_backtest_with_everything(tmp_path: Path, past: Path) -> None:
    result = document("risk", "backtest", past, "--predictions", tmp_path / "said.parquet", "--anomalies")
    arms = result["arms"]
    assert isinstance(arms, list)
    assert [arm["name"] for arm in arms] == ["factor_score", "prior", "recalibrated_prior", "local", "engine"]
    assert arms[-1]["all"]["auc"] > 0.5
    anomalies = result["anomalies"]
    assert isinstance(anomalies, dict)
    assert anomalies["stages"] == 1200
    assert pl.read_parquet(tmp_path / "said.parquet")["engine"].is_between(0, 1).all()
    readable = flexiroaster("risk", "backtest", str(past), "--anomalies")
    assert readable.returncode == 0
    assert re.search(r"engine +180 +0\.\d{3}", readable.stdout), readable.stdout
    assert "threefold spikes caught" in readable.stdout
    assert not (tmp_path / ".flexiroaster").exists(), "a backtest needs no database"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("risk", "show", "nothing"), "Pipeline not found: nothing"),
        (("risk", "train"), "There is nothing to learn from yet"),
        (("risk", "backtest", "no.csv"), "no.csv: cannot be read"),
        (("history", "import", "no.xlsx"), "no.xlsx: a history must be a .parquet or .csv file"),
        (("history", "export", "no.xlsx"), "no.xlsx: a history must be a .parquet or .csv file"),
    ],
)
def test_a_refusal_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = flexiroaster(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    refused = flexiroaster(*arguments, "--json")
    assert message in json.loads(refused.stdout)["error"]["message"]


def test_a_blocked_run_gives_its_reasons(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PIPELINE + "config: {risk: {medium: 0, high: 0, at_high: block}}\n")
    done = flexiroaster("run", "p.yaml")
    assert done.returncode == 1
    assert "Pipeline p is blocked: its failure probability is" in done.stderr
