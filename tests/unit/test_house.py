"""The house keeps its shape: no import cycle among the modules, type-checking imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flexiroaster", "graphql_api", "rest_compat")


def modules() -> dict[str, Path]:
    """Every module of the product, by its dotted name."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the product that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for name in node.names:
                target = f"{node.module}.{name.name}"
                yield target if target in known else str(node.module)


def cycle(known: dict[str, Path]) -> list[str] | None:
    """One import cycle, or None."""
    graph = {name: {other for other in imports(path, known) if other in known} - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_no_module_imports_itself_through_others() -> None:
    assert cycle(modules()) is None


def test_the_product_imports_no_tool() -> None:
    """`tools/` holds offline work, and is not installed."""
    found = {path: set(imports(path, {"tools": path})) for path in modules().values()}
    assert not [path for path, names in found.items() if any(name.partition(".")[0] == "tools" for name in names)]


def test_a_cycle_would_be_found(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from b import x\n")
    second.write_text("def f() -> None:\n    import a\n")
    found = cycle({"a": first, "b": second})
    assert found is not None
    assert set(found) == {"a", "b"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_is_in_it(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
