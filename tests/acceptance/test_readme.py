"""The README and its documents: the examples work as shown, and every name and link exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_VOLATILE = (
    (re.compile(r"exec-[0-9a-f]{20}"), "exec-ID"),
    (re.compile(r" *\b\d+(\.\d+)? s\b"), " TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "DATE"),
)
"""The volatile parts."""


class Command(NamedTuple):
    """A line after a `$`, and the lines shown below it."""

    line: str
    shown: list[str]


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def section(heading: str) -> str:
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def commands(block: str) -> list[Command]:
    lines = block.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("$ ")] + [len(lines)]
    return [Command(lines[start][2:], lines[start + 1 : end]) for start, end in pairwise(starts)]


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(Path.cwd()), "COLUMNS": "200", "TERM": "dumb"}


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/bash", "-c", line], env=environment(), capture_output=True, text=True, timeout=120)


def settled(lines: list[str]) -> list[str]:
    """Lines with the volatile parts replaced."""
    found = []
    for line in lines:
        for pattern, name in _VOLATILE:
            line = pattern.sub(name, line)
        found.append(line.rstrip())
    return found


def test_the_first_pipeline_works_as_shown() -> None:
    text = section("The first pipeline")
    (definition,) = blocks("yaml", text)
    Path("orders.yaml").write_text(definition)
    first, second = blocks("console", text)
    for command in commands(first):
        done = shell(command.line)
        assert done.returncode == 0, done.stderr
        assert settled(done.stdout.splitlines()) == settled(command.shown)
    (script,) = blocks("python", text)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "│ ann      ┆ 1      ┆ 10    │" in done.stdout
    prepare, validate = commands(second)
    assert shell(prepare.line).returncode == 0
    done = shell(validate.line)
    assert (done.returncode, done.stderr.splitlines()) == (2, validate.shown)
    done = shell("flexiroaster run orders.yaml --json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "completed")


def all_commands() -> list[str]:
    lines = [command.line for block in blocks("console") for command in commands(block)]
    lines += re.findall(r"`(flexiroaster [a-z][^`]*)`", README)
    return list(dict.fromkeys(line for line in lines if line.startswith("flexiroaster ")))


@pytest.mark.parametrize("line", all_commands())
def test_every_named_command_and_option_exists(line: str) -> None:
    words = shlex.split(line)[1:]
    names = [word for word in words if re.fullmatch(r"[a-z]+", word)]
    help_text = shell(f"flexiroaster {' '.join(names)} --help")
    assert help_text.returncode == 0, help_text.stderr
    assert f"Usage: flexiroaster {' '.join(names)} " in help_text.stdout
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert f"{option} " in help_text.stdout


@pytest.mark.parametrize("line", [line.partition("#")[0].strip() for line in blocks("console")[0].splitlines()])
def test_every_named_make_target_exists(line: str) -> None:
    assert line.startswith("make ")
    done = subprocess.run(["/usr/bin/env", "make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_stated_python_version_is_that_of_the_package() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"Needs Python {wanted.removeprefix('>=')} or newer" in README


def slugs(document: Path) -> set[str]:
    """The anchors of the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", document.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_has_a_target(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), target
        if anchor:
            assert anchor in slugs(found), target
