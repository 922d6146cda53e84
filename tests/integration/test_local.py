"""`flexiroaster.run` and `flexiroaster.validate`, as a notebook calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import flexiroaster
from flexiroaster.service import local
from tests.integration.program import BIG, DAILY, ORDERS, environment, write_definition


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    local._shared.close()


def test_run_takes_a_path_a_mapping_or_a_pipeline() -> None:
    stages = [flexiroaster.Stage(**stage) for stage in (ORDERS, BIG)]
    pipeline = flexiroaster.Pipeline(name="Daily sales", stages=stages, variables={"least": 5})
    for definition in (write_definition(DAILY), Path("pipeline.yaml"), DAILY, pipeline):
        result = flexiroaster.run(definition)
        assert result.ok
        assert (result.status, result.execution.pipeline_id, result.execution.revision) == (
            "completed",
            "daily-sales",
            1,
        )
        assert result.table("big").equals(pl.DataFrame({"order": [1], "amount": [12.5]}))
        result.raise_for_status()
    assert flexiroaster.run(DAILY, {"least": 1}).table("big").height == 2


def test_runs_of_a_process_share_an_installation_unless_they_have_settings(tmp_path: Path) -> None:
    flexiroaster.run(DAILY)
    shared = local._shared.installation()
    flexiroaster.run(DAILY)
    assert local._shared.installation() is shared
    url = f"sqlite:///{tmp_path / 'own.db'}"
    result = flexiroaster.run(DAILY, database_url=url, artifacts_url=str(tmp_path / "own"))
    assert result.table("orders").height == 2
    assert (tmp_path / "own.db").exists()
    assert (tmp_path / "own" / result.execution.id).is_dir()


def test_a_failed_run_raises_only_on_request() -> None:
    bad = {**BIG, "config": {"operation": "filter", "where": "region = 'x'"}, "max_retries": 0}
    result = flexiroaster.run({**DAILY, "stages": [ORDERS, bad]})
    assert (result.ok, result.status) == (False, "failed")
    with pytest.raises(flexiroaster.StageError, match=r"^Stage 'big' failed: .*region") as caught:
        result.raise_for_status()
    assert caught.value.details["execution_id"] == result.execution.id
    with pytest.raises(flexiroaster.FlexiRoasterError, match=r"^stage 'big' has no table, its status is failed$"):
        result.table("big")
    with pytest.raises(
        flexiroaster.FlexiRoasterError, match=r"^the pipeline has no stage 'bigg'; its stages are orders, big$"
    ):
        result.table("bigg")


def test_an_invalid_definition_raises() -> None:
    broken = {**DAILY, "stages": [ORDERS, {**BIG, "dependencies": ["order"]}]}
    message = "stages[1].dependencies[0]: unknown stage 'order'; did you mean 'orders'?"
    assert [str(problem) for problem in flexiroaster.validate(broken)] == [message]
    with pytest.raises(flexiroaster.DefinitionError) as caught:
        flexiroaster.run(broken)
    assert str(caught.value) == message
    assert flexiroaster.validate(DAILY) == []


def test_an_unknown_setting_raises() -> None:
    with pytest.raises(
        flexiroaster.FlexiRoasterError, match=r"^'databse_url' is not a setting; did you mean 'database_url'"
    ):
        flexiroaster.run(DAILY, databse_url="sqlite:///x.db")
    with pytest.raises(AttributeError, match=r"^module 'flexiroaster' has no attribute 'runs'$"):
        _ = flexiroaster.runs  # type: ignore[attr-defined]


def test_a_script_may_exit_without_closing_anything() -> None:
    """The shared installation is closed at exit, and a fork of the process does not touch it."""
    script = (
        "import os, flexiroaster\n"
        f"definition = {DAILY!r}\n"
        "assert flexiroaster.run(definition).ok\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert flexiroaster.run(definition).ok\n"
        "    raise SystemExit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "assert flexiroaster.run(definition).ok\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
