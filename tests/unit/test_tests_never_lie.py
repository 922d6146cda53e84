"""Tests wait for causes: none asserts how long something took, none goes on after a while."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "process_time_ns"} | {
    "thread_time",
    "thread_time_ns",
    "time",
    "time_ns",
}

TIMED = ("bench/", "faults/")
"""Below these, times are what is measured or promised."""

PAUSES = {
    "waiting.py": "where all others wait",
    "functions.py": "stages that take long",
    "integration/stages.py": "stages that take long",
}
"""Which files may pause, and what for."""


def reads_a_clock(node: ast.expr) -> bool:
    """`monotonic()`, `time.monotonic()`, and sums with it; not `f(monotonic())`, whose value is no time."""
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr=name)):
            return name in CLOCKS
        case ast.BinOp(left=left, right=right):
            return reads_a_clock(left) or reads_a_clock(right)
        case _:
            return False


def timed_assertions(tree: ast.AST) -> Iterator[int]:
    """The lines of assertions that compare a reading of a clock, or a variable that was set to one."""
    timed = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and reads_a_clock(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def is_timed(node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name):
                return name in timed
            case ast.BinOp(left=left, right=right):
                return is_timed(left) or is_timed(right)
            case _:
                return reads_a_clock(node)

    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assert):
            for node in ast.walk(statement.test):
                if isinstance(node, ast.Compare) and any(map(is_timed, [node.left, *node.comparators])):
                    yield node.lineno


def pauses(tree: ast.AST) -> Iterator[int]:
    """The lines that call `time.sleep`, or wait for an event that nothing can set."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="sleep"))
                | ast.Call(func=ast.Name(id="sleep"))
                | ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Attribute(attr="Event")), attr="wait"), args=[_])
            ):
                yield node.lineno


def modules() -> list[str]:
    found = (path.relative_to(TESTS).as_posix() for path in sorted(TESTS.rglob("*.py")))
    return [name for name in found if not name.startswith(TIMED)]


def test_no_test_asserts_how_long_something_took() -> None:
    lines = [f"{name}:{n}" for name in modules() for n in timed_assertions(ast.parse((TESTS / name).read_text()))]
    assert lines == []


def test_no_test_goes_on_after_a_while() -> None:
    lines = {name: list(pauses(ast.parse((TESTS / name).read_text()))) for name in modules()}
    assert {name: found for name, found in lines.items() if found and name not in PAUSES} == {}
    assert [name for name in PAUSES if not lines[name]] == [], "no longer needed"


@pytest.mark.parametrize(
    "text",
    [
        "assert time.monotonic() - began < 5",
        "took = perf_counter() - began\nassert took < 5",
        "began = process_time()\nassert 5 > process_time() - began",
    ],
)
def test_a_timed_assertion_is_found(text: str) -> None:
    assert list(timed_assertions(ast.parse(text))) != []


@pytest.mark.parametrize("text", ["time.sleep(1)", "sleep(0.1)", "threading.Event().wait(0.1)"])
def test_a_pause_is_found(text: str) -> None:
    assert list(pauses(ast.parse(text))) != []
