"""docs/doors.md is right: every call in its table exists, and every call it calls missing is missing."""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command

import flexiroaster
from flexiroaster.cli.app import app
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from graphql_api.schema import schema
from tests.acceptance.doors.cli_door import CliDoor
from tests.acceptance.doors.conftest import House
from tests.acceptance.doors.door import Door
from tests.acceptance.doors.graphql_door import GraphQLDoor
from tests.acceptance.doors.python_door import PythonDoor
from tests.acceptance.doors.rest_door import RestDoor
from tests.acceptance.doors.table import TABLE, able, calls

COMMON = {"name", "seen", "ask", "wait"}
ADAPTERS: list[type[Door]] = [PythonDoor, CliDoor, GraphQLDoor, RestDoor]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_interface_has_the_calls_in_the_table(adapter: type[Door]) -> None:
    assert set(TABLE) == {name for name in vars(Door) if not name.startswith("_")} - COMMON
    for call in TABLE:
        assert able(adapter.name, call) == (getattr(adapter, call) is not getattr(Door, call)), call


def test_python_has_the_calls_in_the_table() -> None:
    homes = {"flexiroaster": flexiroaster, "pipelines": pipelines, "executions": executions, "commands": commands}
    for call in calls("Python"):
        home, name = call.split(".")
        assert callable(getattr(homes[home], name)), call


def test_the_command_line_has_the_calls_in_the_table_and_lacks_the_others() -> None:
    words = {" ".join(path) for path in _commands(get_command(app), ())}
    assert set(calls("command line")) <= words
    last = {path.rpartition(" ")[2] for path in words if not path.startswith("token")}
    assert {call for call in TABLE if not able("command line", call)}.isdisjoint(last)


def _commands(command: Any, path: tuple[str, ...]) -> Any:
    for name, each in getattr(command, "commands", {}).items():
        yield (*path, name)
        yield from _commands(each, (*path, name))


def test_graphql_has_the_calls_in_the_table() -> None:
    roots = [schema._schema.query_type, schema._schema.mutation_type]
    assert set(calls("GraphQL")) <= {field for root in roots if root is not None for field in root.fields}


def test_rest_has_the_calls_in_the_table_and_lacks_the_others(house: House) -> None:
    paths = house.http.get("/api/openapi.json").json()["paths"]
    operations = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
    assert set(calls("REST")) <= operations
    last = {path.rpartition("/")[2] for path in paths}
    assert {call for call in TABLE if not able("REST", call)}.isdisjoint(last)
