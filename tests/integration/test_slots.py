"""Starts, reruns and retries of one pipeline share its slots, whichever process drives them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import ConflictError, NotAllowedError
from flexiroaster.model import failpoints
from flexiroaster.model.command import CommandKind
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands as control
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.pipelines import Revision
from flexiroaster.store import commands
from tests.integration.program import started
from tests.integration.rest_compat.client import serving
from tests.integration.test_runs import FUNCTIONS, python
from tests.waiting import blocked, eventually

ROOT = Path(__file__).parents[2]

START = """mutation ($id: ID!) {
  startExecution(input: {pipelineId: $id}) { ... on ExecutionStarted { execution { executionId } } }
}"""


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    changes = {"python_modules": (FUNCTIONS,), "executor_stop_grace": 0.5, "artifacts_url": str(tmp_path / "artifacts")}
    return settings.model_copy(update=changes)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    """One that drives what is started in it, and claims nothing."""
    with open_installation(settings) as opened:
        _ = opened.signals  # open, so that it hears what is asked of what it drives
        yield opened


@pytest.fixture
def server(settings: Settings) -> Iterator[Installation]:
    """One that drives nothing, as `serve --no-executor`."""
    with open_installation(settings) as opened:
        yield opened


def status(installation: Installation, execution_id: str) -> str:
    return executions.get(installation, execution_id).status.value


def waiting_for(file: Path, on_conflict: str, **fields: Any) -> dict[str, Any]:
    """A pipeline of two stages, the second of which ends when the file is there."""
    waits = python("b", "wait_for_file", "a", arguments={"path": str(file)})
    return {"name": "T", "on_conflict": on_conflict, "stages": [python("a", "two"), waits], **fields}


def ended(installation: Installation, revision: Revision, file: Path) -> str:
    """An execution of it that has completed."""
    file.touch()
    execution_id = executions.start(installation, revision)
    assert executions.wait(installation, execution_id, 60).status == "completed"
    file.unlink()
    return execution_id


Begin = Callable[[Installation, Revision, str], str]

BEGINNINGS: dict[str, Begin] = {
    "start elsewhere": lambda where, revision, _: executions.start(where, revision, drive=False),
    "rerun": lambda where, _, former: executions.rerun(where, former, "b"),
}


@pytest.mark.parametrize("how", BEGINNINGS)
def test_the_oldest_makes_room(installation: Installation, server: Installation, tmp_path: Path, how: str) -> None:
    file = tmp_path / "go"
    revision = pipelines.create(installation, waiting_for(file, "cancel_oldest"))
    former = ended(installation, revision, file)
    first = executions.start(installation, revision)
    second = BEGINNINGS[how](server if "elsewhere" in how else installation, revision, former)
    assert executions.wait(installation, first, 60).status == "cancelled"
    if "elsewhere" in how:
        assert not server.is_driving
        installation.start_claiming()
    eventually(lambda: status(installation, second) == "running")
    file.touch()
    eventually(lambda: status(installation, second) == "completed")
    stages = {stage.stage_id: stage for stage in executions.stages(installation, second)}
    assert (stages["a"].started_at is None) == how.startswith("rerun")


def test_of_several_that_wait_the_newest_runs(installation: Installation, server: Installation, tmp_path: Path) -> None:
    revision = pipelines.create(installation, waiting_for(tmp_path / "go", "cancel_oldest"))
    ids = [executions.start(server, revision, drive=False) for _ in range(4)]
    installation.start_claiming()
    eventually(lambda: status(installation, ids[-1]) == "running")
    assert [status(installation, each) for each in ids[:-1]] == ["cancelled"] * 3
    (tmp_path / "go").touch()
    eventually(lambda: status(installation, ids[-1]) == "completed")


def test_one_that_got_its_turn_meanwhile_does_not_stop_itself(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = pipelines.create(installation, waiting_for(tmp_path / "go", "cancel_oldest"))
    first = executions.start(installation, revision)

    def first_ends(point: str) -> None:
        if point == "executions.after_create":
            (tmp_path / "go").touch()
            executions.wait(installation, first, 60)

    monkeypatch.setattr(failpoints, "point", first_ends)
    second = executions.start(installation, revision)
    assert executions.wait(installation, second, 60).status == "completed"


def test_a_rerun_that_has_to_queue_runs_without_any_worker(installation: Installation, tmp_path: Path) -> None:
    file = tmp_path / "go"
    revision = pipelines.create(installation, waiting_for(file, "queue"))
    former = ended(installation, revision, file)
    first = executions.start(installation, revision)
    second = executions.rerun(installation, former, "b")
    assert status(installation, second) == "pending"
    file.touch()
    assert executions.wait(installation, second, 60).status == "completed"
    assert status(installation, first) == "completed"
    pipelines.deactivate(installation, revision.id)
    with pytest.raises(NotAllowedError, match=f"^Pipeline is not active: {revision.id}$"):
        executions.rerun(installation, former, "b")


def test_a_server_that_drives_nothing_makes_room_too(
    settings: Settings, installation: Installation, tmp_path: Path
) -> None:
    revision = pipelines.create(installation, waiting_for(tmp_path / "go", "cancel_oldest"))
    ids = [executions.start(installation, revision)]
    with serving(settings, executor=False) as rest:
        ids.append(rest.start(revision.id))
        assert executions.wait(installation, ids[0], 60).status == "cancelled"
        answer = rest.post("/graphql", {"query": START, "variables": {"id": revision.id}}).json()
        ids.append(answer["data"]["startExecution"]["execution"]["executionId"])
        assert not rest.installation.is_driving
        installation.start_claiming()
        eventually(lambda: status(installation, ids[2]) == "running")
        assert status(installation, ids[1]) == "cancelled"
    (tmp_path / "go").touch()
    assert executions.wait(installation, ids[2], 60).status == "completed"


def test_the_command_line_reruns_what_has_to_queue_without_any_worker(tmp_path: Path) -> None:
    file = tmp_path / "go"
    settings = load_settings(database_url=f"sqlite:///{tmp_path / 'own.db'}", python_modules=(FUNCTIONS,))
    with open_installation(settings) as installation:
        revision = pipelines.create(installation, waiting_for(file, "queue"))
        former = ended(installation, revision, file)
        first = executions.start(installation, revision)
        env = {"DATABASE_URL": settings.database_url, "PYTHON_MODULES": f'["{FUNCTIONS}"]', "PYTHONPATH": str(ROOT)}
        program = started("executions", "rerun", former, "--from", "b", env=env)
        try:
            eventually(lambda: executions.count(installation) == 3)
            file.touch()
            assert executions.wait(installation, first, 60).status == "completed"
            output, errors = program.communicate(timeout=120)
        finally:
            program.kill()
    assert program.returncode == 0, errors
    assert output.startswith("completed: exec-")


def stopped(installation: Installation, revision: Revision) -> str:
    execution_id = executions.start(installation, revision)
    control.stop(installation, execution_id)
    assert executions.wait(installation, execution_id, 120).status == "cancelled"
    return execution_id


def test_a_start_queues_behind_a_retry_that_takes_the_slot_at_that_moment(postgres_url: str, tmp_path: Path) -> None:
    settings = load_settings(database_url=postgres_url, python_modules=(FUNCTIONS,))
    with open_installation(settings) as installation, ThreadPoolExecutor(1) as pool:
        stage = python("a", "wait_for_file", arguments={"path": str(tmp_path / "go")})
        revision = pipelines.create(installation, {"name": "T", "on_conflict": "queue", "stages": [stage]})
        former = stopped(installation, revision)
        (tmp_path / "go").touch()
        begun = []

        def meanwhile(_: object) -> None:
            begun.append(pool.submit(executions.start, installation, revision, drive=False))
            eventually(lambda: blocked(postgres_url) == 1 or begun[0].done())

        control.request(installation, former, CommandKind.RETRY, {}, "", in_transaction=meanwhile)
        row = executions.get(installation, begun[0].result())
        assert row.status == "pending"
        installation.start_claiming()
        for each in (former, row.id):
            eventually(lambda i=each: status(installation, i) == "completed")


def test_retries_and_starts_that_race_never_share_a_slot(postgres_url: str, tmp_path: Path) -> None:
    settings = load_settings(database_url=postgres_url, python_modules=(FUNCTIONS,))
    with open_installation(settings) as first, open_installation(settings) as second:
        stage = python("a", "wait_for_file", arguments={"path": str(tmp_path / "go")})
        definition = {"name": "T", "on_conflict": "queue", "concurrency": 2, "stages": [stage]}
        revision = pipelines.create(first, definition)
        former = [stopped(first, revision) for _ in range(4)]
        (tmp_path / "go").touch()
        together = threading.Barrier(8)

        def retry(where: Installation, execution_id: str) -> str | None:
            together.wait()
            try:
                commands.request(where.database, execution_id, CommandKind.RETRY, {}, requested_by="", concurrency=2)
            except ConflictError as error:
                assert error.message == f"Pipeline {revision.id} is running already: concurrency limit 2 reached"  # noqa: PT017
                return None
            return execution_id

        def start(where: Installation, _: str) -> str:
            together.wait()
            return executions.start(where, revision, drive=False)

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(what, where, each) for each, where in zip(former, (first, second) * 2, strict=True)
                     for what in (retry, start)]  # fmt: skip
            live = [each.result() for each in asked]
        first.start_claiming()
        for each in filter(None, live):
            eventually(lambda i=each: status(first, i) == "completed")
