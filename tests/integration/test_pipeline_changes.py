"""Pipelines over their life: changed field by field, switched off and on, compared, deleted and made anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import ConflictError, DefinitionError, NotAllowedError, NotFoundError
from flexiroaster.model.paging import Window
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.pipelines import Change, ChangeKind, PipelineFilter, PipelineSort, differences
from tests.integration.test_pages import walked
from tests.integration.test_runs import FUNCTIONS, python, rows
from tests.statements import statements


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings.model_copy(update={"python_modules": (FUNCTIONS,)})) as opened:
        yield opened


def definition(**fields: Any) -> dict[str, Any]:
    return {"id": "p", "name": "Test", "stages": [rows("a", {"x": 1})], **fields}


def test_only_the_given_fields_change(installation: Installation) -> None:
    made = pipelines.create(
        installation,
        definition(
            description="d", schedule="0 * * * *", concurrency=None, variables={"day": None}, config={"k": [None]}
        ),
    )
    changed = pipelines.update(installation, "p", {"name": "Other", "schedule": None})
    stored = pipelines.get(installation, "p").pipeline
    assert (made.revision, changed.revision) == (1, 2)
    assert stored == changed.pipeline
    assert (stored.name, stored.schedule, stored.description, stored.concurrency) == ("Other", None, "d", None)
    assert (stored.variables, stored.config) == ({"day": None}, {"k": [None]})
    assert stored.stages == made.pipeline.stages
    assert pipelines.update(installation, "p", {}).revision == 2
    assert pipelines.get(installation, "p", 1).pipeline == made.pipeline


def test_mappings_keep_the_order_they_were_written_in(installation: Installation) -> None:
    source = rows("a", {"zz": 1, "b": 2, "a": 3})
    pipelines.create(installation, definition(stages=[source], variables={"z": 1, "a": 2}))
    stored = pipelines.get(installation, "p").pipeline
    assert list(stored.variables) == ["z", "a"]
    assert list(stored.stages[0].config["data"][0]) == ["zz", "b", "a"]
    done = executions.wait(installation, executions.start(installation, "p"), timeout=120)
    assert list(executions.stages(installation, done.id)[0].output["schema"]) == ["zz", "b", "a"]


def test_what_comes_of_a_change_is_checked_whole(installation: Installation) -> None:
    stages = [rows("a", {"x": 1}), {"id": "b", "type": "output", "config": {"destination": "file", "path": "${name}"},
                                    "dependencies": ["a"]}]  # fmt: skip
    pipelines.create(installation, definition(stages=stages, variables={"name": "out.csv"}))
    with pytest.raises(DefinitionError) as caught:
        pipelines.update(installation, "p", {"variables": {"name": "/etc/passwd"}, "timeout": -1})
    assert {problem.path for problem in caught.value.problems} >= {"timeout", "stages[1].config.path"}
    with pytest.raises(DefinitionError, match=r"^nmae: is not a known field; did you mean 'name'\?"):
        pipelines.update(installation, "p", {"nmae": "x"})
    with pytest.raises(DefinitionError, match=r"^id: cannot be changed$"):
        pipelines.update(installation, "p", {"id": "q"})
    with pytest.raises(DefinitionError, match=r"^name: "):
        pipelines.update(installation, "p", {"name": None})
    with pytest.raises(NotFoundError):
        pipelines.update(installation, "nobody", {})
    assert pipelines.get(installation, "p").revision == 1


def test_a_change_names_the_revision_it_is_of(installation: Installation) -> None:
    pipelines.create(installation, definition())
    assert pipelines.update(installation, "p", {"name": "Second"}, expected_revision=1).revision == 2
    with pytest.raises(ConflictError, match=r"^Pipeline p is at revision 2, not 1$"):
        pipelines.update(installation, "p", {"name": "Third"}, expected_revision=1)


def test_switched_off_and_on(installation: Installation) -> None:
    pipelines.create(installation, definition())
    pipelines.deactivate(installation, "p")
    assert pipelines.get(installation, "p").pipeline.is_active is False
    for pipeline in ("p", pipelines.get(installation, "p"), pipelines.get(installation, "p", 1)):
        with pytest.raises(NotAllowedError, match=r"^Pipeline is not active: p$"):
            executions.start(installation, pipeline)
    pipelines.activate(installation, "p")
    pipelines.activate(installation, "p")
    assert executions.wait(installation, executions.start(installation, "p"), timeout=120).status == "completed"
    assert pipelines.update(installation, "p", {"is_active": False}).revision == 1
    assert pipelines.by_ids(installation, ["p"])["p"].is_active is False
    for active in (True, False):
        with pytest.raises(NotFoundError, match=r"^Pipeline not found: nobody$"):
            (pipelines.activate if active else pipelines.deactivate)(installation, "nobody")


def test_saving_again_leaves_a_pipeline_off_unless_the_definition_says_otherwise(installation: Installation) -> None:
    pipelines.save(installation, definition())
    pipelines.deactivate(installation, "p")
    for raw in (definition(), definition(name="Other"), Pipeline.model_validate(definition())):
        assert pipelines.save(installation, raw).pipeline.is_active is False
    assert pipelines.get(installation, "p").pipeline.is_active is False
    for raw in (definition(is_active=True), Pipeline.model_validate(definition(is_active=True))):
        pipelines.deactivate(installation, "p")
        assert pipelines.save(installation, raw).pipeline.is_active is True
        assert pipelines.get(installation, "p").pipeline.is_active is True


def test_delete_waits_for_what_is_live_and_keeps_history(installation: Installation) -> None:
    pipelines.create(installation, definition(stages=[python("a", "sleep_long")]))
    live = executions.start(installation, "p")
    with pytest.raises(ConflictError, match=f"^Pipeline p has live executions: {live}$") as caught:
        pipelines.delete(installation, "p")
    assert caught.value.details["executions"] == [live]
    commands.stop(installation, live)
    executions.wait(installation, live, timeout=120)
    pipelines.delete(installation, "p")
    for gone in (lambda: pipelines.get(installation, "p"), lambda: pipelines.delete(installation, "p"),
                 lambda: executions.start(installation, "p")):  # fmt: skip
        with pytest.raises(NotFoundError, match=r"^Pipeline not found: p$"):
            gone()
    assert pipelines.page(installation).items == ()
    assert executions.get(installation, live).pipeline_id == "p"
    assert pipelines.get(installation, "p", 1).pipeline.name == "Test"


def test_the_id_of_a_deleted_pipeline_may_be_used_again(installation: Installation) -> None:
    pipelines.create(installation, definition(description="old"))
    pipelines.delete(installation, "p")
    assert pipelines.save(installation, definition(description="new")).revision == 2
    assert [pipelines.get(installation, "p", n).pipeline.description for n in (1, 2)] == ["old", "new"]
    with pytest.raises(ConflictError, match=r"^Pipeline already exists: p$"):
        pipelines.create(installation, definition())


def test_an_invalid_definition_is_refused_with_all_problems_and_not_stored(installation: Installation) -> None:
    bad = definition(name="", stages=[{"id": "a", "type": "input", "config": {"source": "nothing"}, "timeout": -1}])
    with pytest.raises(DefinitionError) as refused:
        pipelines.create(installation, bad)
    assert {p.path for p in refused.value.problems} == {"name", "stages[0].timeout", "stages[0].config.source"}
    assert pipelines.count(installation) == 0


def test_revisions_and_what_differs(installation: Installation) -> None:
    pipelines.create(installation, definition())
    for i in range(2, 8):
        pipelines.update(installation, "p", {"description": f"d{i}"})
    for backward in (False, True):
        with statements(installation) as sent:
            pipelines.revisions(installation, "p")
        assert len(sent) == 1
        found = walked(lambda window: pipelines.revisions(installation, "p", window), 3, backward=backward)
        assert [row.revision for row in found] == [7, 6, 5, 4, 3, 2, 1]
    assert pipelines.diff(installation, "p", 3, 7) == [Change("description", ChangeKind.CHANGED, "d3", "d7")]
    assert pipelines.diff(installation, "p", 2, 2) == []
    with pytest.raises(NotFoundError, match=r"^Pipeline p has no revision 8$"):
        pipelines.diff(installation, "p", 1, 8)


def test_differences_are_named_field_by_field() -> None:
    a, b, c = ({"id": i, "config": {"path": i, "n": 1, "on": [1, 2]}} for i in "abc")
    before = {"name": "x", "schedule": "daily", "variables": {"day": "1", "gone": 1}, "stages": [a, b]}
    after = {
        "name": "x",
        "timeout": 5.0,
        "variables": {"day": "2"},
        "stages": [c, {**b, "config": {"path": "b", "n": True, "on": [1, 3]}}],
    }
    assert differences(before, after) == [
        Change("schedule", ChangeKind.REMOVED, before="daily"),
        Change("variables.day", ChangeKind.CHANGED, "1", "2"),
        Change("variables.gone", ChangeKind.REMOVED, before=1),
        Change("timeout", ChangeKind.ADDED, after=5.0),
        Change("stages[a]", ChangeKind.REMOVED, before=a),
        Change("stages[b].config.n", ChangeKind.CHANGED, 1, True),
        Change("stages[b].config.on", ChangeKind.CHANGED, [1, 2], [1, 3]),
        Change("stages[c]", ChangeKind.ADDED, after=c),
    ]
    turned = {**before, "stages": [b, a]}
    assert differences(before, turned) == [Change("stages", ChangeKind.CHANGED, ["a", "b"], ["b", "a"])]


def test_pages_of_pipelines(installation: Installation) -> None:
    names = ["Zebra", "apple", "Mango", "mango 100%", "Kiwi"]
    for i, name in enumerate(names):
        pipelines.create(installation, definition(id=f"p{i}", name=name, is_active=i != 2))
    pipelines.update(installation, "p1", {"description": "sweet"})
    pipelines.update(installation, "p0", {"description": "striped"})
    expected = {
        PipelineSort.OLDEST: ["p0", "p1", "p2", "p3", "p4"],
        PipelineSort.NEWEST: ["p4", "p3", "p2", "p1", "p0"],
        PipelineSort.UPDATED_LAST: ["p0", "p1", "p4", "p3", "p2"],
        PipelineSort.UPDATED_FIRST: ["p1", "p0", "p2", "p3", "p4"],
    }
    by_name = [row.id for row in pipelines.page(installation, sort=PipelineSort.NAME).items]
    assert set(by_name) == {f"p{i}" for i in range(5)}
    expected |= {PipelineSort.NAME: by_name, PipelineSort.NAME_LAST: by_name[::-1]}
    for sort, ids in expected.items():
        for backward in (False, True):
            found = walked(lambda w, s=sort: pipelines.page(installation, PipelineFilter(), s, w), 2, backward=backward)
            assert [row.id for row in found] == ids

    def found_by(**wanted: Any) -> set[str]:
        page = pipelines.page(installation, PipelineFilter(**wanted), window=Window(first=100))
        assert pipelines.count(installation, PipelineFilter(**wanted)) == len(page.items)
        return {row.id for row in page.items}

    assert found_by(is_active=False) == {"p2"}
    assert found_by(text="MANGO") == {"p2", "p3"}
    assert found_by(text="0%") == {"p3"}
    assert found_by(text="sweet") == {"p1"}
    assert found_by(ids=("p1", "p9")) == {"p1"}
    with statements(installation) as sent:
        pipelines.page(installation)
    assert len(sent) == 1
    assert "definition" not in sent[0]
