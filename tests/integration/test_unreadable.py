"""What is stored of an execution cannot be read: it fails for good, says why, and keeps nothing else waiting."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import TextClause, delete, select, text, update

from flexiroaster.config import Settings, load_settings
from flexiroaster.engine.driver import Driver
from flexiroaster.engine.scheduler import MAX_CLAIMS, Scheduler, adopt
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import DefinitionError, NotAllowedError, StoreError
from flexiroaster.model.command import Command
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store import leases
from flexiroaster.store.leases import Stored
from flexiroaster.store.tables import executions as executions_table
from flexiroaster.store.tables import pipeline_revisions, risk_assessments, stage_runs
from tests.integration.test_control import seqs_have_no_gap
from tests.integration.test_runs import rows
from tests.waiting import eventually

PAST = datetime(2020, 1, 1, tzinfo=UTC)
STAGES = [rows("a", {"x": 1}), {**rows("b", {"x": 1}), "dependencies": ["a"]}]


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


def begin(installation: Installation, **fields: Any) -> str:
    definition = {"id": "p", "name": "P", "stages": STAGES, "on_conflict": "queue", **fields}
    return executions.start(installation, pipelines.save(installation, definition), drive=False)


def damage(installation: Installation, *statements: Any) -> None:
    with installation.database.write() as connection:
        for statement in statements:
            connection.execute(statement)


def claimed_before(execution_id: str, times: int = MAX_CLAIMS - 1) -> Any:
    return update(executions_table).where(executions_table.c.id == execution_id).values(claims=times)


def slot_of(installation: Installation, execution_id: str) -> int | None:
    with installation.database.read() as connection:
        wanted = select(executions_table.c.slot).where(executions_table.c.id == execution_id)
        slot: int | None = connection.execute(wanted).scalar_one()
    return slot


BAD_TYPE = update(pipeline_revisions).values(
    definition={"id": "p", "name": "P", "stages": [{"id": "a", "type": "teleport"}]}
)
FIRST = pipeline_revisions.c.revision == 1

DAMAGES: dict[str, tuple[Any, str]] = {
    "a definition of another release": (
        BAD_TYPE.where(FIRST),
        "pipeline 'p' at revision 1 cannot be read by this release; stages[0].type: must be",
    ),
    "a definition that is none": (
        update(pipeline_revisions).where(FIRST).values(definition=[1]),
        "pipeline 'p' at revision 1 cannot be read by this release",
    ),
    "a definition that is gone": (delete(pipeline_revisions).where(FIRST), "Pipeline not found: p, revision 1"),
    "a stage that the definition does not have": (
        text("UPDATE stage_runs SET stage_id = 'c' WHERE stage_id = 'b' AND execution_id = :x"),
        "the stored execution of pipeline 'p' at revision 1 cannot be read: KeyError('c')",
    ),
}
ON_SQLITE: dict[str, tuple[Any, str]] = {
    f"{column}, no JSON": (
        text(f"UPDATE {table} SET {column} = '{{' WHERE {key} = :x"),
        "the stored execution of pipeline 'p' at revision 1 cannot be read: JSONDecodeError",
    )
    for table, column, key in (
        ("executions", "variables", "id"),
        ("executions", "error", "id"),
        ("stage_runs", "output", "execution_id"),
    )
}


@pytest.mark.parametrize("what", DAMAGES)
def test_it_fails_for_good_and_the_next_in_the_queue_runs(installation: Installation, what: str) -> None:
    _fails_for_good(installation, *DAMAGES[what])


@pytest.mark.parametrize("what", ON_SQLITE)
def test_so_it_does_with_a_row_that_is_no_json(tmp_path: Path, what: str) -> None:
    """PostgreSQL stores no such value."""
    with open_installation(load_settings(database_url=f"sqlite:///{tmp_path}/own.db")) as installation:
        _fails_for_good(installation, *ON_SQLITE[what])


def _fails_for_good(installation: Installation, statement: Any, why: str) -> None:
    x = begin(installation)
    y = begin(installation, description="better")
    damage(installation, statement.bindparams(x=x) if isinstance(statement, TextClause) else statement)
    damage(installation, claimed_before(x))
    assert slot_of(installation, x) == 1, "it holds the only slot"
    installation.start_claiming()
    assert executions.wait(installation, y, 60).status == "completed"
    repaired = update(executions_table).where(executions_table.c.id == x).values(variables={})
    damage(installation, repaired)
    failed = executions.get(installation, x)
    assert (failed.status, failed.error and failed.error["class"]) == ("failed", "configuration")
    assert (failed.error or {})["message"].startswith(why)
    assert slot_of(installation, x) is None
    with installation.database.read() as connection:
        found = select(stage_runs.c.status).where(stage_runs.c.execution_id == x)
        assert list(connection.execute(found).scalars()) == ["cancelled", "cancelled"]
    assert seqs_have_no_gap(installation, x)


def test_a_retry_is_refused_and_its_slot_is_free_again(installation: Installation) -> None:
    x = begin(installation)
    commands.stop(installation, x)
    installation.start_claiming()
    eventually(lambda: executions.get(installation, x).status == "cancelled" and not installation.driver.driven)
    installation.hand_over()
    commands.retry(installation, x)
    damage(installation, BAD_TYPE, claimed_before(x))
    assert slot_of(installation, x) == 1
    with open_installation(installation.settings) as another:
        another.start_claiming()
        eventually(lambda: slot_of(installation, x) is None)
        with pytest.raises(DefinitionError, match=r"^pipeline 'p' at revision 1 cannot be read by this release; stag"):
            commands.retry(another, x)
    assert executions.get(installation, x).status == "cancelled"
    refused = executions.logs(installation, x)[-1].message
    assert refused.startswith("Cannot retry execution with status: cancelled; pipeline 'p' at revision 1 cannot be")


@pytest.mark.parametrize("status", ["completed", "paused"])
def test_a_rollback_that_cannot_go_on_is_told_to_be_unfinished(installation: Installation, status: str) -> None:
    x = begin(installation)
    values = {"goal": "rollback", "status": status, "claims": MAX_CLAIMS - 1}
    damage(installation, BAD_TYPE, update(executions_table).values(values))
    installation.start_claiming()
    eventually(lambda: executions.get(installation, x).status == "failed")
    message = (executions.get(installation, x).error or {})["message"]
    assert message.startswith("the rollback cannot be finished: pipeline 'p' at revision 1 cannot be read by this rel")
    assert slot_of(installation, x) is None


def test_what_the_safety_engine_cannot_read_costs_the_watch_and_no_execution(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    x = begin(installation)
    damage(installation, update(risk_assessments).values(level="extreme"))
    installation.start_claiming()
    assert executions.wait(installation, x, 60).status == "completed"
    assert f"execution {x} runs without the safety engine" in [record.getMessage() for record in caplog.records]


# --- other workers ---------------------------------------------------------------------------------------------------


class Collected:
    """A driver that drives nothing."""

    driven: frozenset[str] = frozenset()
    suspects = 0
    alive = True

    def __init__(self) -> None:
        self.submitted: list[Execution] = []

    def submit(self, execution: Execution, _commands: list[Command], *, waits: bool) -> None:
        self.submitted.append(execution)

    @property
    def as_driver(self) -> Driver:
        return cast("Driver", self)


def claim(installation: Installation, execution_id: str) -> leases.Claim:
    found = leases.claim_one(installation.database, "me", execution_id, lease_seconds=60)
    assert found is not None
    damage(installation, update(executions_table).values(claimable_at=PAST))
    return found


@pytest.mark.parametrize("why", ["definition", "operator"])
def test_it_is_left_to_other_workers_until_the_last_claim(
    installation: Installation, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, driver = begin(installation), Collected()

    def take() -> None:
        read = (lambda i: leases.load_execution(installation.database, i), lambda _: None, installation._outline)
        adopt(driver.as_driver, claim(installation, x), *read)

    with monkeypatch.context() as patch:
        if why == "definition":
            damage(installation, BAD_TYPE)
        else:
            patch.setattr("flexiroaster.operators.registry._references", dict)
        error = DefinitionError if why == "definition" else NotAllowedError
        for _ in range(MAX_CLAIMS - 1):
            with pytest.raises(
                error, match="cannot be read by this release" if why == "definition" else "unknown sour"
            ):
                take()
        assert driver.submitted == []
        take()
    (taken,) = driver.submitted
    if why == "definition":
        assert (taken.status, taken.slot) == ("failed", 1), "it gives that slot back with its end"
    else:
        assert taken.status == "pending", "its stage fails, and says which operator is missing"
        assert taken.unreadable_reason is None


@pytest.mark.parametrize("back", ["at once", "a little later"])
def test_a_database_that_goes_away_while_claims_are_read_costs_none_of_them(
    installation: Installation, back: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [begin(installation, concurrency=None) for _ in range(3)]
    driver, database = Collected(), installation.database
    monkeypatch.setattr(Scheduler, "_turn", lambda _: False)
    away = {ids[1]}
    given_back = []

    def load(execution_id: str) -> Stored:
        if execution_id in away:
            raise StoreError("the database is away")
        return leases.load_execution(database, execution_id)

    def give_back(given: Any, failed: str | None) -> None:
        given_back.append([each.execution_id for each in given])
        if back == "a little later" and len(given_back) == 1:
            raise StoreError("it still is")
        leases.undo_claims(database, "me", given, failed)

    def take(most: int, suspects: bool) -> list[leases.Claim]:
        return leases.claim(database, "me", limit=most, lease_seconds=60, suspects=suspects)

    claiming = Scheduler(driver.as_driver, take, load, give_back=give_back, capacity=3)
    with pytest.raises(StoreError, match="away"):
        claiming._claim_and_adopt()
    assert [execution.id for execution in driver.submitted] == ids[:1]
    assert given_back == [ids[1:]], "in one statement"
    away.clear()
    claiming._claim_and_adopt()
    assert [execution.id for execution in driver.submitted] == [ids[0], ids[2]], "the one that failed waits a lease"
    damage(installation, update(executions_table).where(executions_table.c.id == ids[1]).values(claimable_at=PAST))
    claiming._claim_and_adopt()
    assert [execution.id for execution in driver.submitted] == [ids[0], ids[2], ids[1]]
    with database.read() as connection:
        assert set(connection.execute(select(executions_table.c.claims)).scalars()) == {1}
