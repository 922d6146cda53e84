"""The documents name only files that exist, and draw the layers that import-linter checks."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import flexiroaster
from rest_compat.routes.system import DESCRIPTION

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ROOT / "flexiroaster"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")] if path.name != "CHANGELOG.md")

_CODE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(?:[A-Za-z_][\w-]*/)*[a-z_]\w*\.py")
_FOLDER = re.compile(r"[a-z_]+(?:/[a-z_]+)+/?")
_STEP = re.compile(r"^\| (\d+) \| (.+?) \|", re.MULTILINE)


def code(text: str) -> list[str]:
    """The code spans of a text outside its fenced blocks."""
    return _CODE.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def exists(path: str) -> bool:
    return (ROOT / path).exists() or (PRODUCT / path).exists()


def layers() -> list[set[str]]:
    """The layers of the import-linter contract, each as the names of its packages without the prefix."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return [{name.strip().removeprefix("flexiroaster.") for name in row.split("|")} for row in contract["layers"]]


def packages() -> Iterator[str]:
    """Every package of the product that has modules of its own, as the documents write it."""
    for package in ("flexiroaster", "graphql_api", "rest_compat"):
        for path in (ROOT / package).rglob("__init__.py"):
            name = path.parent.relative_to(ROOT).as_posix().removeprefix("flexiroaster/")
            if name != "flexiroaster" and "versions" not in name:
                yield name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_file_in_a_document_exists(document: Path) -> None:
    named = {each for each in code(document.read_text()) if _FILE.fullmatch(each)}
    example = {"steps.py"}  # a file of a user
    assert [each for each in sorted(named - example) if not exists(each)] == []


@pytest.mark.parametrize("text", [ARCHITECTURE, CONTRIBUTING], ids=["architecture", "contributing"])
def test_every_folder_in_the_two_maps_exists(text: str) -> None:
    named = {each for each in code(text) if _FOLDER.fullmatch(each)}
    assert named
    assert [each for each in sorted(named) if not exists(each)] == []


def test_the_page_draws_the_layers_that_are_checked() -> None:
    table = ARCHITECTURE.partition("| layer | content |")[2].partition("\n\n")[0]
    rows = [set(code(line.split("|")[1])) for line in table.splitlines()[2:]]
    assert rows == layers()


@pytest.mark.parametrize(("section", "verb"), [("Start", "start an execution"), ("Tell", "tell a subscriber")])
def test_the_steps_of_an_execution_are_counted(section: str, verb: str) -> None:
    table = ARCHITECTURE.partition(f"\n### {section}: ")[2].partition("\n#")[0]
    steps = _STEP.findall(table)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert all(code(files) for _, files in steps)
    assert re.search(rf"\b{len(steps)}\s+(files\s+)?{verb}", ARCHITECTURE)


def test_the_map_for_contributors_lists_every_package_once() -> None:
    map_ = CONTRIBUTING.partition("| package | content |")[2].partition("\n\n")[0]
    listed = [code(line.split("|")[1])[0] for line in map_.splitlines()[2:]]
    assert sorted(listed) == sorted(packages())


def test_the_diagram_for_contributors_has_every_layer_in_order() -> None:
    diagram = CONTRIBUTING.partition("```text\n")[2].partition("```")[0]
    at = {name: re.search(rf"\b{name}\b", diagram) for row in layers() for name in row}
    assert [name for name, found in at.items() if found is None] == []
    rows = [[found.start() for name in row if (found := at[name])] for row in layers()]
    assert all(max(upper) < min(lower) for upper, lower in pairwise(rows))


def test_one_sentence_describes_the_product_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["description"] == DESCRIPTION
    assert (ROOT / "README.md").read_text().startswith(f"# FlexiRoaster\n\n**{DESCRIPTION}**\n")
    assert (flexiroaster.__doc__ or "").startswith(f"{DESCRIPTION}\n")
