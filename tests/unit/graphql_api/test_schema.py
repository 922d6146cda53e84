"""The schema as a whole: what is checked in is what is served, and it says of everything what it is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLInterfaceType, GraphQLObjectType

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.model.pipeline import OnConflict, Stage, StageType
from flexiroaster.model.pipeline import Pipeline as PipelineModel
from flexiroaster.model.viewer import Role
from flexiroaster.safety.policy import Action
from graphql_api.permissions import undeclared_fields
from graphql_api.schema import schema
from graphql_api.sdl import changes, permission_table, sdl

ROOT = Path(__file__).parents[3]
SDL = ROOT / "graphql_api" / "schema.graphql"
PERMISSIONS = ROOT / "docs" / "graphql-permissions.md"


def test_the_definition_that_is_checked_in_is_the_one_that_is_served() -> None:
    assert SDL.read_text() == sdl(schema), "run `make docs`, and look at the difference"


def test_the_table_of_permissions_that_is_checked_in_is_the_one_in_force() -> None:
    assert PERMISSIONS.read_text() == permission_table(schema), "run `make docs`, and look at the difference"


def test_every_field_declares_who_may_use_it() -> None:
    assert undeclared_fields(schema) == []


@pytest.mark.parametrize(
    "enum",
    [ExecutionStatus, StageStatus, StageType, OnConflict, EventType, Level, ErrorClass, CommandKind, Role, PolicyMode,
     Action],
)  # fmt: skip
def test_enums_are_those_of_the_model(enum: type[StrEnum]) -> None:
    shown = schema._schema.type_map["DecisionAction" if enum is Action else enum.__name__]
    assert isinstance(shown, GraphQLEnumType)
    assert list(shown.values) == [member.name for member in enum]


def test_every_type_says_what_it_is() -> None:
    described = (GraphQLObjectType, GraphQLInterfaceType, GraphQLInputObjectType, GraphQLEnumType)
    types = [t for name, t in schema._schema.type_map.items() if isinstance(t, described) and not name.startswith("__")]
    assert [t.name for t in types if not t.description] == []


@pytest.mark.parametrize(
    ("shown", "model", "left_out"),
    [
        ("StageInput", Stage, set()),
        ("PipelineInput", PipelineModel, set()),
        ("PipelineChanges", PipelineModel, {"id"}),
    ],
)
def test_inputs_have_the_fields_of_the_model(
    shown: str, model: type[Stage | PipelineModel], left_out: set[str]
) -> None:
    definition = schema._schema.type_map[shown].extensions["strawberry-definition"]
    assert {field.name for field in definition.fields} == set(model.model_fields) - left_out


def test_what_breaks_clients_is_told() -> None:
    before = SDL.read_text()
    assert list(changes(before, schema)) == []
    gone = before.replace("  progress: Float!\n", "  progress: Float!\n  gone: Int\n")
    assert list(changes(gone, schema)) == ["breaking: Field Execution.gone was removed."]
    fewer = before.replace("enum Level {\n  CRITICAL\n", "enum Level {\n")
    assert any(line.startswith("dangerous: ") for line in changes(fewer, schema))
