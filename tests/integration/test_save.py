"""Saving a definition under its own id, whoever else does so."""

from __future__ import annotations

import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import NotFoundError
from flexiroaster.service import pipelines
from flexiroaster.service.definition import with_stable_id
from flexiroaster.service.installation import open_installation
from flexiroaster.service.pipelines import Revision
from tests.integration.program import DAILY


def test_a_definition_with_an_id_is_created_then_revised(settings: Settings) -> None:
    with open_installation(settings) as installation:
        named = with_stable_id(DAILY)
        changed = with_stable_id({**DAILY, "description": "changed"})
        saved = [pipelines.save(installation, definition) for definition in (named, named, changed)]
        assert [(revision.id, revision.revision) for revision in saved] == [("daily-sales", n) for n in (1, 1, 2)]
        assert pipelines.listing(installation)[1] == 1


def test_two_that_save_the_same_for_the_first_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process stores it between our look and our insert."""
    create = pipelines.create

    def create_late(installation: object, raw: object) -> Revision:
        with open_installation(settings) as other:
            create(other, {**with_stable_id(DAILY), "description": "theirs"})
        return create(installation, raw)  # type: ignore[arg-type]

    monkeypatch.setattr(pipelines, "create", create_late)
    with open_installation(settings) as installation:
        saved = pipelines.save(installation, with_stable_id(DAILY))
        assert (saved.id, saved.revision, saved.pipeline.description) == ("daily-sales", 2, "")


def test_without_an_id_every_save_is_another_pipeline(settings: Settings) -> None:
    with open_installation(settings) as installation:
        first, second = pipelines.save(installation, DAILY), pipelines.save(installation, DAILY)
        assert first.id != second.id
        with pytest.raises(NotFoundError, match=r"^Pipeline not found: daily-sales$"):
            pipelines.get(installation, "daily-sales")


def test_a_deleted_pipeline_comes_back_with_its_history(settings: Settings) -> None:
    with open_installation(settings) as installation:
        named = with_stable_id(DAILY)
        pipelines.save(installation, named)
        pipelines.delete(installation, "daily-sales")
        with pytest.raises(NotFoundError):
            pipelines.get(installation, "daily-sales")
        again = pipelines.save(installation, named)
        assert (again.id, again.revision) == ("daily-sales", 2), "an execution may stand at revision 1"
        assert [pipelines.get(installation, "daily-sales", n).revision for n in (1, 2)] == [1, 2]
        assert pipelines.save(installation, named).revision == 2
