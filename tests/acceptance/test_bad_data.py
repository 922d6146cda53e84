"""Bad data in real executions: the error names stage and reason, no attempt is wasted, nothing is left behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import load_settings
from flexiroaster.errors import ErrorClass
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from tests.acceptance import bad_data
from tests.acceptance.bad_data import FileCase, StageCase

LOAD = {"id": "load", "type": "input", "config": {"source": "api", "data": bad_data.ROWS}}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Path]]:
    folder = tmp_path_factory.mktemp("installation")
    settings = load_settings(
        database_url=f"sqlite:///{folder / 'test.db'}",
        artifacts_url=str(folder / "artifacts"),
        connections={"lost": "sqlite:////nowhere/lost.db"},
        python_modules=("tests.functions",),
        executor_workers=2,
        executor_retry_delay=60,  # a stage that is attempted again makes itself felt
    )
    with open_installation(settings) as installation:
        yield installation, folder


@pytest.fixture
def installation(opened: tuple[Installation, Path], monkeypatch: pytest.MonkeyPatch) -> Installation:
    """One installation for all tests; its processes work in its folder."""
    installation, folder = opened
    monkeypatch.chdir(folder)
    return installation


def files(*below: str) -> list[str]:
    """All files below folders, including hidden files and those in hidden folders."""
    return sorted(str(file) for folder in below for file in Path(folder).rglob("*") if not file.is_dir())


def assert_failed(
    installation: Installation, stages: list[Any], failing: str, error_class: ErrorClass, message: str
) -> str:
    """Run the stages, check that this stage's first attempt failed with that message, and return the execution's id."""
    revision = pipelines.create(installation, {"name": "Bad data", "stages": stages})
    done = executions.wait(installation, executions.start(installation, revision), timeout=60)
    assert done.status == "failed"
    found = {stage.stage_id: stage for stage in executions.stages(installation, done.id)}
    failed = found[failing]
    assert (failed.status, failed.attempt) == ("failed", 1)
    assert (failed.error["message"], failed.error["class"]) == (message, error_class)
    assert done.error["message"] == f"Stage {failing!r} failed: {message}"
    assert (done.error["stage_id"], done.error["class"]) == (failing, error_class)
    behind = [stage["id"] for stage in stages[[stage["id"] for stage in stages].index(failing) + 1 :]]
    assert [found[stage].status for stage in behind] == ["skipped"] * len(behind)
    return done.id


@pytest.mark.parametrize("case", bad_data.FILES, ids=lambda case: case.name)
def test_an_unreadable_file_fails_the_input(installation: Installation, case: FileCase) -> None:
    file = Path("data", case.name)
    if case.content is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(case.content)
    before = files("data")
    config = {"source": "file", "path": str(file), **case.config}
    stages = [
        {"id": "read", "type": "input", "config": config},
        {"id": "save", "type": "output", "dependencies": ["read"],
         "config": {"destination": "file", "path": "saved/rows.csv"}},
    ]  # fmt: skip
    execution_id = assert_failed(installation, stages, "read", case.error_class, case.message)
    assert files(f"artifacts/{execution_id}", "saved") == []
    assert files("data") == before
    file.unlink(missing_ok=True)


@pytest.mark.parametrize("case", bad_data.TRANSFORMS, ids=lambda case: case.name)
def test_a_transform_fails_on_data_it_does_not_fit(installation: Installation, case: StageCase) -> None:
    check_stage(installation, case, "transform")


@pytest.mark.parametrize("case", bad_data.VALIDATIONS, ids=lambda case: case.name)
def test_invalid_data_fails_the_validation(installation: Installation, case: StageCase) -> None:
    check_stage(installation, case, "validation")


def check_stage(installation: Installation, case: StageCase, stage_type: str) -> None:
    stages = [
        LOAD,
        {"id": "bad", "type": stage_type, "config": case.config, "dependencies": ["load"]},
        {"id": "save", "type": "output", "dependencies": ["bad"], "config": {"destination": "database", "table": "t"}},
    ]
    execution_id = assert_failed(installation, stages, "bad", case.error_class, case.message)
    assert [Path(file).name for file in files(f"artifacts/{execution_id}")] == ["load.1.1.arrow"]
    assert tables_of_outputs(installation) == []


@pytest.mark.parametrize("case", bad_data.OUTPUTS, ids=lambda case: case.name)
def test_an_output_fails_on_data_it_does_not_accept(installation: Installation, case: StageCase) -> None:
    stages = [LOAD, {"id": "bad", "type": "output", "config": case.config, "dependencies": ["load"]}]
    execution_id = assert_failed(installation, stages, "bad", case.error_class, case.message)
    assert [Path(file).name for file in files(f"artifacts/{execution_id}")] == ["load.1.1.arrow"]
    assert [path.name for path in Path("out").glob("*") if path.name != ".flexiroaster"] == []
    assert tables_of_outputs(installation) == []


def tables_of_outputs(installation: Installation) -> list[str]:
    """The tables that outputs created, without the ledger tables."""
    file = Path(installation.access.output_url.removeprefix("sqlite:///"))
    if not file.exists():
        return []
    with closing(sqlite3.connect(file)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [name for name in names if not name.startswith("flexiroaster_")]
