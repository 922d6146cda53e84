"""An operator of another distribution, found through its entry point and run in a stage's process."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.program import flexiroaster

MODULE = '''
import polars as pl
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import ONE, Operator, OperatorConfig, StageContext


class LimitConfig(OperatorConfig):
    """How many rows to keep."""

    rows: int


class Limit(Operator[LimitConfig]):
    """Keep the first rows."""

    stage_type = StageType.TRANSFORM
    name = "limit"
    config_model = LimitConfig
    arity = ONE

    def run(self, context: StageContext) -> pl.LazyFrame:
        return context.table.head(self.config.rows)
'''

DATA = [{"x": i} for i in range(5)]


def install(folder: Path) -> None:
    (folder / "acme_operators.py").write_text(MODULE)
    info = folder / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    entries = ("transform.limit = acme_operators:Limit", "transform.broken = acme_missing:Gone")
    (info / "entry_points.txt").write_text("[flexiroaster.operators]\n" + "\n".join(entries) + "\n")


def definition(config: dict[str, object]) -> str:
    stages = [
        {"id": "a", "type": "input", "config": {"source": "api", "data": DATA}},
        {"id": "b", "type": "transform", "dependencies": ["a"], "config": config},
    ]
    Path("p.json").write_text(json.dumps({"name": "Limits", "stages": stages}))
    return "p.json"


def test_it_runs_is_listed_and_its_config_is_checked(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site)
    done = flexiroaster("run", definition({"operation": "limit", "rows": 2}), "--json", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert [stage["rows"] for stage in json.loads(done.stdout)["stages"]] == [5, 2]

    listed = flexiroaster("operators", "limit", PYTHONPATH=str(site))
    assert listed.returncode == 0
    assert "Keep the first rows." in listed.stdout

    wrong = flexiroaster("validate", definition({"operation": "limit", "row": 2}), PYTHONPATH=str(site))
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == [
        "stages[1].config.rows: is required",
        "stages[1].config.row: is not a known field; did you mean 'rows'?",
    ]


def test_an_operator_that_cannot_be_loaded_is_a_problem_of_the_definition(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site)
    done = flexiroaster("validate", definition({"operation": "broken"}), PYTHONPATH=str(site))
    assert done.returncode == 2
    assert done.stderr.startswith("stages[1].config.operation: ")
    assert "acme_missing" in done.stderr
    assert "Traceback" not in done.stderr
