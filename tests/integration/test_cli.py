"""The command line, apart from `run`: its output and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flexiroaster as package
from flexiroaster.store.database import HEAD
from tests.integration.program import BIG, COMMAND, DAILY, ORDERS, environment, flexiroaster, write_definition

HEAVY = {"pandas", "polars", "sklearn", "sqlalchemy", "pyarrow", "pydantic", "numpy", "httpx", "fsspec", "alembic"}

BROKEN = {
    "name": "Broken",
    "stages": [
        {"id": "a", "type": "input", "config": {"source": "fiel", "path": "x.csv"}},
        {**BIG, "dependencies": ["a"], "config": {"operation": "filter", "wher": "x > 1"}},
    ],
}
PROBLEMS = [
    "stages[0].config.source: unknown source 'fiel'; did you mean 'file'?",
    "stages[1].config.where: is required",
    "stages[1].config.wher: is not a known field; did you mean 'where'?",
]


def imported_by(code: str) -> set[str]:
    """The heavy modules that some code imports in a fresh interpreter."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('modules:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), timeout=300
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.partition("modules: ")[2].split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported_by("import flexiroaster; dir(flexiroaster)") == set()


def test_the_version_imports_nothing_heavy_and_goes_to_stdout() -> None:
    done = flexiroaster("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"flexiroaster {package.__version__}\n", "")
    run = "from flexiroaster.cli import main; sys.argv = ['flexiroaster', '--version']; main()"
    assert imported_by(run) == set()


def test_validating_imports_no_database() -> None:
    file = write_definition(DAILY)
    run = f"from flexiroaster.cli import main; sys.argv = ['flexiroaster', 'validate', {file!r}]; main()"
    assert imported_by(run) & {"sqlalchemy", "alembic", "pandas", "sklearn"} == set()


def test_help_names_every_command() -> None:
    done = flexiroaster("--help")
    assert done.returncode == 0
    for command in ("run", "validate", "operators", "executions", "pipelines", "db", "services"):
        assert f" {command} " in done.stdout


def test_a_valid_definition_is_accepted() -> None:
    done = flexiroaster("validate", write_definition(DAILY))
    assert (done.returncode, done.stdout, done.stderr) == (0, "valid: Daily sales, 2 stages\n", "")
    assert not Path(".flexiroaster").exists()


def test_missing_variables_are_named_and_given_ones_are_checked() -> None:
    file = write_definition({**DAILY, "variables": {}}, "pipeline.json")
    done = flexiroaster("validate", file)
    assert (done.returncode, done.stdout) == (0, "valid: Daily sales, 2 stages; set with --var: least\n")
    document = json.loads(flexiroaster("validate", file, "--json", "--var", "least=3").stdout)
    assert document == {"valid": True, "name": "Daily sales", "stages": ["orders", "big"], "unset_variables": []}
    done = flexiroaster("validate", file, "--var", "least=(")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("stages[1].config.where: ")


@pytest.mark.parametrize("command", ["validate", "run"])
def test_every_problem_has_its_own_line(command: str) -> None:
    file = write_definition(BROKEN)
    done = flexiroaster(command, file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == PROBLEMS
    done = flexiroaster(command, file, "--json")
    assert (done.returncode, done.stderr) == (2, "")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "definition.invalid"
    assert error["message"] == "; ".join(PROBLEMS)
    assert [f"{p['path']}: {p['message']}" for p in error["problems"]] == PROBLEMS


def test_a_missing_or_malformed_file_is_reported() -> None:
    done = flexiroaster("run", "nowhere.yaml")
    assert (done.returncode, done.stderr) == (2, "Error: no such file: nowhere.yaml\n")
    Path("bad.yaml").write_text("name: x\nstages:\n  - id: a\n   type: input\n")
    done = flexiroaster("validate", "bad.yaml")
    assert (done.returncode, done.stderr) == (
        2,
        "Error: bad.yaml: line 4, column 4: did not find expected '-' indicator\n",
    )
    Path("twice.yaml").write_text("name: x\nname: y\n")
    done = flexiroaster("validate", "twice.yaml")
    assert (done.returncode, done.stderr) == (2, "Error: twice.yaml: line 2, column 1: the key 'name' is given twice\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("least", "--var 'least': must be NAME=VALUE"),
        ("2x=1", "--var '2x=1': use letters, digits and _ in a name; it must not begin with a digit"),
    ],
)
def test_a_malformed_variable_is_refused(given: str, message: str) -> None:
    file = write_definition(DAILY)
    done = flexiroaster("validate", file, "--var", given)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message}\n")
    done = flexiroaster("validate", file, "--var", given, "--json")
    assert json.loads(done.stdout) == {"error": {"code": "usage", "message": message}}


def test_invalid_settings_are_reported() -> None:
    done = flexiroaster("run", write_definition(DAILY), EXECUTOR_WORKERS="many")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'Error: EXECUTOR_WORKERS: must be a whole number, not "many"\n'


def test_an_unreachable_database_is_one_line_and_a_traceback_with_debug(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/nowhere/x.db"
    message = f"Error: DATABASE_URL: the folder '{tmp_path}/nowhere' does not exist\n"
    done = flexiroaster("executions", "list", DATABASE_URL=url)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    done = flexiroaster("executions", "list", DATABASE_URL=url, DEBUG="true")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith(message)


def test_operators_are_listed_with_their_summaries() -> None:
    listed = flexiroaster("operators").stdout.splitlines()
    assert any(
        " ".join(line.split()) == "transform.sort Sort rows; rows with equal keys keep their order." for line in listed
    )
    documents = json.loads(flexiroaster("operators", "--json").stdout)
    assert {"name": "transform.sort", "summary": "Sort rows; rows with equal keys keep their order."} in documents
    assert len(documents) + 1 == len(listed)
    assert not [d for d in documents if d["summary"].startswith("cannot be loaded")]


@pytest.mark.parametrize("name", ["transform.join", "join"])
def test_one_operator_in_detail(name: str) -> None:
    done = flexiroaster("operators", name)
    assert done.returncode == 0
    text = done.stdout
    assert text.startswith("transform.join\n\nJoin two tables on equal keys.\n")
    assert "\nTakes two input tables.\n" in text
    assert [line.split()[:4] for line in text.splitlines() if line.startswith("operation ")] == [
        ["operation", '"join"', "required"]
    ]
    assert "- id: with_customers\n  type: transform\n" in text
    document = json.loads(flexiroaster("operators", name, "--json").stdout)
    assert document["name"] == "transform.join"
    assert document["inputs"] == {"least": 2, "most": 2}
    assert document["config_schema"]["properties"]["operation"] == {"const": "join"}
    assert document["config_schema"]["required"] == ["operation"]


def test_an_unknown_or_ambiguous_operator_is_reported() -> None:
    done = flexiroaster("operators", "joinn")
    assert (done.returncode, done.stderr) == (2, "Error: unknown operator 'joinn'; did you mean 'join'?\n")
    done = flexiroaster("operators", "transform.aggregat")
    message = "Error: unknown operator 'transform.aggregat'; did you mean 'aggregate'?\n"
    assert (done.returncode, done.stderr) == (2, message)
    done = flexiroaster("operators", "sql")
    message = "Error: 'sql' is ambiguous: use one of input.sql, transform.sql\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_the_database_is_upgraded_once() -> None:
    expected = [
        ("current", f"nothing (this release needs {HEAD})\n"),
        ("upgrade", f"upgraded from nothing to {HEAD}\n"),
        ("upgrade", f"already at {HEAD}\n"),
        ("current", f"{HEAD}\n"),
    ]
    for command, output in expected:
        done = flexiroaster("db", command)
        assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


@pytest.mark.parametrize("command", ["show", "logs"])
def test_an_unknown_execution_is_reported(command: str) -> None:
    done = flexiroaster("executions", command, "exec-nobody")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: Execution not found: exec-nobody\n")
    done = flexiroaster("executions", command, "exec-nobody", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == {"error": {"code": "not_found", "message": "Execution not found: exec-nobody"}}


def test_a_closed_pipe_is_not_an_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [*COMMAND, "operators", "join"], stdout=output, stderr=subprocess.PIPE, env=environment(), timeout=300
        )
    assert done.stderr == b""


def test_usage_errors_exit_with_2() -> None:
    for arguments in (
        ["run"],
        ["nope"],
        ["run", "x.yaml", "--timeout", "0"],
        ["executions", "list", "--status", "odd"],
    ):
        done = flexiroaster(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert "Traceback" not in done.stderr


def test_relative_paths_and_the_folder_of_the_file(tmp_path: Path) -> None:
    """A definition may name files below the working directory, in its own folder and under --root; nothing else."""
    for folder in ("work", "defs", "extra", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text("x\n1\n")
    os.chdir(tmp_path / "work")

    def judged(path: str, *options: str) -> tuple[int, str]:
        stage = {**ORDERS, "config": {"source": "file", "path": path}}
        file = write_definition({"name": "Files", "stages": [stage]}, str(tmp_path / "defs" / "pipeline.yaml"))
        done = flexiroaster("validate", file, *options)
        return done.returncode, done.stderr

    assert judged("x.csv") == (0, "")
    assert judged(str(tmp_path / "defs" / "x.csv")) == (0, "")
    assert judged(str(tmp_path / "extra" / "x.csv"), "--root", str(tmp_path / "extra")) == (0, "")
    code, message = judged(str(tmp_path / "other" / "x.csv"))
    assert code == 2
    assert message.startswith("stages[0].config.path: ")
