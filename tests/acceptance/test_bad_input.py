"""Broken input of every kind: the user sees exactly what is wrong and where, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flexiroaster
from flexiroaster.config import load_settings
from flexiroaster.errors import DefinitionError, ErrorClass, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators import registry
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from tests.acceptance import bad_definitions, bad_files
from tests.acceptance.bad_definitions import Case


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    url = f"sqlite:///{tmp_path_factory.mktemp('installation') / 'test.db'}"
    with open_installation(load_settings(database_url=url, **bad_definitions.SETTINGS)) as opened:
        yield opened


def assert_nothing_is_stored(installation: Installation) -> None:
    assert pipelines.listing(installation) == ([], 0)
    assert executions.offset_page(installation) == ([], 0)


@pytest.mark.parametrize("case", bad_definitions.CASES, ids=lambda case: case.name)
def test_an_invalid_definition_is_rejected_with_every_problem(installation: Installation, case: Case) -> None:
    found = flexiroaster.validate(case.raw, **bad_definitions.SETTINGS)
    assert [str(problem) for problem in found] == case.problems
    with pytest.raises(DefinitionError) as caught:
        pipelines.create(installation, case.raw)
    assert str(caught.value) == "; ".join(case.problems)
    assert_nothing_is_stored(installation)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("case", bad_files.CASES, ids=lambda case: case.name)
def test_a_file_without_a_definition_is_rejected(case: bad_files.Case) -> None:
    content = case.content.encode() if isinstance(case.content, str) else case.content
    Path(case.name).write_bytes(content or b"")
    (problem,) = flexiroaster.validate(case.name)
    assert str(problem).removeprefix(f"{case.name}: ") == case.line
    with pytest.raises(DefinitionError) as caught:
        flexiroaster.run(case.name)
    assert str(caught.value) == str(problem)
    assert [path.name for path in Path().iterdir()] == [case.name]


def test_a_path_that_is_not_a_file_is_rejected() -> None:
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    assert problems_of_file("nowhere.yaml") == ["no such file: nowhere.yaml"]
    assert problems_of_file("folder") == ["folder is a directory: give the path of a YAML or JSON file"]
    assert problems_of_file("loop") == ["cannot read 'loop': Too many levels of symbolic links"]
    assert problems_of_file("a\0b") == ["cannot read 'a\\x00b': embedded null byte"]
    assert problems_of_file("/dev/zero") == ["/dev/zero: the file exceeds the 64 MiB limit of a definition"]


def problems_of_file(path: str) -> list[str]:
    return [str(problem) for problem in flexiroaster.validate(path)]


def test_unusual_but_valid_definitions_are_accepted() -> None:
    """A byte-order mark, anchors and merge keys, and a text of 5 MB."""
    Path("good.yaml").write_text(
        "\ufeffname: x\nstages:\n"
        f"  - &stage {{id: a, type: input, description: {'x' * 5_000_000}, config: {{source: api}}}}\n"
        "  - {<<: *stage, id: b}\n"
    )
    assert flexiroaster.validate("good.yaml") == []
    Path("good.json").write_text(
        '\ufeff{"name": "x", "stages": [{"id": "a", "type": "input", "config": {"source": "api"}}]}'
    )
    assert flexiroaster.validate("good.json") == []


WAITING = bad_definitions.pipeline(
    bad_definitions.A,
    {
        "id": "b",
        "type": "transform",
        "config": {"operation": "sort", "by": ["${by}"], "descending": "${down}"},
        "dependencies": ["a"],
    },
)


@pytest.mark.parametrize(
    ("variables", "problems"),
    [
        ({}, ["stages[1].config: variable 'by' has no value", "stages[1].config: variable 'down' has no value"]),
        ({"by": "x"}, ["stages[1].config: variable 'down' has no value"]),
        ({"by": 3, "down": False}, ['stages[1].config.by[0]: must be text, not 3; write "3"']),
        ({"by": "x", "down": "no way"}, ['stages[1].config.descending: must be true or false or a list, not "no way"']),
        ({"by": "x", "down": {1}}, ["variables.down: is a Python set, which JSON cannot represent"]),
        ({"by": "x\0", "down": True}, ["variables.by: contains the character NUL, which databases refuse"]),
    ],
)  # fmt: skip
def test_missing_and_invalid_variables_are_rejected(
    tmp_path: Path, variables: dict[str, Any], problems: list[str]
) -> None:
    with open_installation(load_settings(database_url=f"sqlite:///{tmp_path / 'test.db'}")) as installation:
        revision = pipelines.create(installation, WAITING)
        with pytest.raises(DefinitionError) as caught:
            executions.start(installation, revision, variables)
        assert [str(problem) for problem in caught.value.problems] == problems
        assert executions.offset_page(installation) == ([], 0)
        assert not Path(".flexiroaster").exists()


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with four operators, each broken in its own way."""
    folder = tmp_path / "site"
    info = folder / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[flexiroaster.operators]\ntransform.gone = acme_gone:Gone\ntransform.raises = acme:Raises\n"
        "transform.nothing = acme_good:Nothing\ntransform.function = acme_good:function\n"
    )
    (folder / "acme.py").write_text("raise RuntimeError('no licence')\n")
    (folder / "acme_good.py").write_text("def function(): ...\n")
    monkeypatch.syspath_prepend(folder)
    caches = (registry._entries, registry._references, registry.find)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ("gone", "ModuleNotFoundError: No module named 'acme_gone'"),
        ("raises", "RuntimeError: no licence"),
        ("nothing", "AttributeError: module 'acme_good' has no attribute 'Nothing'"),
        ("function", "acme_good:function is not an Operator subclass"),
    ],
)
@pytest.mark.usefixtures("foreign")
def test_an_operator_of_another_package_that_cannot_be_loaded_is_reported(operation: str, reason: str) -> None:
    message = f"operator 'transform.{operation}' of the package 'acme' cannot be loaded: {reason}"
    config = {"operation": operation}
    found = flexiroaster.validate(bad_definitions.transform(**config))
    assert [str(problem) for problem in found] == [f"stages[1].config.operation: {message}"]
    with pytest.raises(StageError) as caught:
        registry.build(StageType.TRANSFORM, config, {})
    assert (str(caught.value), caught.value.error_class) == (f"config.operation: {message}", ErrorClass.CONFIGURATION)
    assert f"transform.{operation}" in registry.names()
    assert registry.find("transform.sort").name == "sort"
