"""Remote artifacts: their local copies are deleted at the end of the execution."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexiroaster.artifacts.store import Artifacts, summary_of
from flexiroaster.config import HOME, Settings
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import open_installation
from tests.integration.test_runs import FUNCTIONS, python, rows
from tests.waiting import eventually


@pytest.mark.parametrize("function", ["two", "exit_3"])
def test_local_copies_are_deleted_and_the_artifacts_stay(settings: Settings, tmp_path: Path, function: str) -> None:
    url = f"local://{tmp_path}/bucket"
    changes = {"artifacts_url": url, "python_modules": (FUNCTIONS,)}
    with open_installation(settings.model_copy(update=changes)) as installation:
        revision = pipelines.create(
            installation, {"name": "T", "stages": [rows("a", {"x": 1}), python("b", function, "a")]}
        )
        x = executions.start(installation, revision)
        ended = executions.wait(installation, x, timeout=120)
        assert ended.status == ("completed" if function == "two" else "failed"), ended.error
        eventually(lambda: not (HOME / "cache" / x).exists())
        assert (HOME / "cache").is_dir(), "there had been copies"
        output = executions.stages(installation, x)[0].output or {}
        assert Artifacts(url).scan("a", summary_of(output)).collect().to_dicts() == [{"x": 1}]
