"""Import and export of the run history: no run is counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import ConflictError, InputError
from flexiroaster.safety.risk.history import HistoryFileError
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety import history, risk
from flexiroaster.store.safety import risk as risk_states
from tests.waiting import blocked, eventually

CSV = """pipeline_id,started_at,finished_at,status,duration_s,n_stages
p,2026-01-01T10:00:00Z,2026-01-01T10:05:00Z,completed,300,4
p,2026-01-01T11:00:00Z,2026-01-01T11:05:00Z,failed,300,4
p,2026-01-01T11:00:00Z,2026-01-01T11:05:00Z,failed,300,4
q/r,2026-01-02T11:00:00Z,2026-01-02T11:05:00Z,cancelled,,
"""
PIPELINE = {
    "id": "p",
    "name": "p",
    "stages": [{"id": "a", "type": "input", "config": {"source": "api", "data": [{"x": 1}]}}],
}


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "past.csv"
    path.write_text(CSV)
    return path


def test_an_import_takes_effect_at_once_and_a_second_one_changes_nothing(
    installation: Installation, file: Path
) -> None:
    pipelines.save(installation, PIPELINE)
    assert risk.assess(installation, "p").no_history_yet
    assert history.import_file(installation, file) == history.Imported(added=4, known=0, total=4)
    past = risk.assess(installation, "p").input.past
    assert (past.pipeline.runs, past.pipeline.failures, past.pipeline.streak) == (3, 2, 2)
    assert history.import_file(installation, file) == history.Imported(added=0, known=4, total=4)
    assert risk.assess(installation, "p").input.past == past


def test_a_duplicate_run_in_a_file_is_imported_once(installation: Installation, tmp_path: Path) -> None:
    head, *rows = CSV.splitlines()
    twice = [head + ",execution_id", *(f"{row},r{i}" for i, row in enumerate([*rows[:2], rows[0]]))]
    (tmp_path / "twice.csv").write_text("\n".join(twice).replace(",r2", ",r0"))
    assert history.import_file(installation, tmp_path / "twice.csv") == history.Imported(added=2, known=1, total=2)


def test_concurrent_imports_of_the_same_runs_import_them_once(postgres_url: str, file: Path) -> None:
    settings = load_settings(database_url=postgres_url)
    with open_installation(settings) as first, open_installation(settings) as second, ThreadPoolExecutor(2) as pool:
        with first.database.write() as connection:
            risk_states.locked_progress(connection)
            imports = [pool.submit(history.import_file, each, file) for each in (first, second)]
            eventually(lambda: blocked(postgres_url) + sum(each.done() for each in imports) == 2)
        done = [each.result() for each in imports if each.exception() is None]
        for refused in (each.exception() for each in imports):
            assert refused is None or isinstance(refused, ConflictError)
        done.append(history.import_file(first, file))
    added, *others = sorted(done, key=lambda imported: -imported.added)
    assert added == history.Imported(added=4, known=0, total=4)
    assert set(others) == {history.Imported(added=0, known=4, total=4)}


def test_an_import_precedes_local_runs(installation: Installation, file: Path) -> None:
    pipelines.save(installation, PIPELINE)
    executions.wait(installation, executions.start(installation, "p"))
    history.import_file(installation, file)
    past = risk.assess(installation, "p").input.past.pipeline
    assert (past.runs, past.failures, past.streak) == (4, 2, -1), "the success here is the newest"
    executions.wait(installation, executions.start(installation, "p"))
    assert risk.assess(installation, "p").input.past.pipeline.streak == -2


def test_an_import_from_the_future_does_not_hide_current_runs(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "future.csv").write_text(CSV.replace("2026-", "2099-"))
    pipelines.save(installation, PIPELINE)
    history.import_file(installation, tmp_path / "future.csv")
    executions.wait(installation, executions.start(installation, "p"))
    assert risk.assess(installation, "p").input.past.pipeline.runs == 4


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_an_export_can_be_imported_elsewhere(
    installation: Installation, file: Path, tmp_path: Path, name: str, settings: Settings
) -> None:
    pipelines.save(installation, PIPELINE)
    history.import_file(installation, file)
    executions.wait(installation, executions.start(installation, "p"))
    assert history.export(installation, tmp_path / name) == 5
    frame = pl.read_parquet(tmp_path / name) if name.endswith("parquet") else pl.read_csv(tmp_path / name)
    assert frame["status"].to_list() == ["completed", "failed", "failed", "cancelled", "completed"]
    elsewhere = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'elsewhere.db'}"})
    with open_installation(elsewhere) as another:
        assert history.import_file(another, tmp_path / name).added == 5
        assert another.risk_state.past("p").pipeline == installation.risk_state.past("p").pipeline
    assert history.import_file(installation, tmp_path / name).added == 0


def test_an_unusable_file_is_refused(installation: Installation, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(CSV.replace("failed", "broken", 1))
    with pytest.raises(HistoryFileError, match='row 2: status "broken"'):
        history.import_file(installation, bad)
    with pytest.raises(InputError, match=r"must be a .parquet or .csv file"):
        history.export(installation, tmp_path / "out.xlsx")
    with pytest.raises(InputError, match="cannot be written"):
        history.export(installation, tmp_path / "no" / "such" / "out.csv")
