"""The operators' reference: up to date, complete, and every example in it holds."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

import flexiroaster
from flexiroaster.model.pipeline import Stage, StageType
from flexiroaster.operators import document, registry
from flexiroaster.operators.base import SOME, Access, Arity, Operator, OperatorConfig, SecretRef
from flexiroaster.operators.document import ConfigField, config_schema, fields_of, nested_models

UNDESCRIBED: dict[str, list[str]] = {
    "input.file": ["has_header", "encoding", "quote", "try_parse_dates"],
    "input.http": ["headers", "params", "pagination", "max_retries"],
    "input.sql": ["query"],
    "output.http": ["url", "headers"],
}
"""Fields whose description is still to be written; nothing may be added."""

REFERENCE = Path(flexiroaster.__file__).parents[1] / "docs" / "operators.md"


class Rule(OperatorConfig):
    """What must
    hold."""

    column: str = Field(description="Where it | holds.")
    least: float | None = Field(default=None, ge=0, lt=10)


class Options(OperatorConfig):
    """`flag` is up, or not."""

    flag: bool = False


class ExampleConfig(Options):
    """`free` and `by`

    are free.
    """

    rules: list[Rule] = Field(min_length=1, description="All of them\nmust hold.")
    mode: Literal["a", "b"] = "a"
    by: str | list[str] | None = None
    token: str | SecretRef | None = None
    sizes: dict[str, int] = Field(default_factory=dict)
    pair: tuple[int, str] | None = None
    day: date | None = None
    count: int = Field(default=3, ge=1, le=5)
    anything: Any = None
    labels: list[str] = Field(default=["x", "ü"], min_length=2, max_length=4)
    free: dict[str, Any] | None = None


class Example(Operator[ExampleConfig]):
    """Keep what holds.

    The second paragraph.
    """

    stage_type = StageType.TRANSFORM
    name = "example"
    config_model = ExampleConfig
    arity = SOME
    example: ClassVar[dict[str, Any]] = {
        "id": "held",
        "type": "transform",
        "config": {"operation": "example", "rules": [{"column": "x"}]},
        "dependencies": ["in"],
    }

    def run(self, context: Any) -> None:
        raise NotImplementedError  # it is described here, never run


def test_the_reference_is_up_to_date() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == document.reference(), "make docs writes it anew"


@pytest.mark.parametrize("name", registry.names())
def test_every_operator_says_what_it_does_and_its_example_holds(name: str) -> None:
    operator = registry.find(name)
    assert document.full_name(operator) == name
    assert document.description_of(operator).partition("\n")[0].endswith(".")
    stage = Stage.model_validate(dict(document.example_of(operator)))
    assert registry.operator_of(stage.type, stage.config) == name
    access = Access(
        file_roots=(".",), python_modules=("steps",), connections={"warehouse": "postgresql+psycopg://db/w"},
        output_url="sqlite:///out.db", secrets={"SHOP_TOKEN": "x", "SALES_TOKEN": "x"},
    )  # fmt: skip
    assert list(registry.check_stage(0, stage, {"least": 3, "since": "2026-01-01"}, access)) == []


@pytest.mark.parametrize("name", registry.names())
def test_every_field_is_described(name: str) -> None:
    """By a description of its own, by a docstring that names it, or by its values."""
    operator = registry.find(name)
    schema = config_schema(operator)
    told = document.notes_of(operator) + document.description_of(operator)
    missing = [field.name for field in fields_of(schema) if not is_described(field, told)]
    for model, nested in nested_models(schema):
        told = nested.get("description", "")
        missing += [f"{model}.{f.name}" for f in fields_of(nested, schema["$defs"]) if not is_described(f, told)]
    assert missing == UNDESCRIBED.get(name, []), "what is described now comes off the list"


def is_described(field: ConfigField, docstring: str) -> bool:
    return bool(field.description) or f"`{field.name}`" in docstring or field.type.startswith(('"', "one of"))


def test_one_operator_as_markdown() -> None:
    assert (
        document.operator_markdown(Example)
        == """\
### transform.example

Keep what holds.

The second paragraph.

Takes one or more input tables.

| field | type | default | |
|---|---|---|---|
| `operation` | "example" | required |  |
| `rules` | list of Rule (not empty) | required | All of them must hold. |
| `flag` | boolean | `false` |  |
| `mode` | one of "a", "b" | `"a"` |  |
| `by` | text or list of text |  |  |
| `token` | text or {secret: NAME} |  |  |
| `sizes` | mapping of text to integer |  |  |
| `pair` | list [integer, text] |  |  |
| `day` | date |  |  |
| `count` | integer ≥ 1 and ≤ 5 | `3` |  |
| `anything` | any value |  |  |
| `labels` | list of text (at least 2 items, at most 4 items) | `["x", "ü"]` |  |
| `free` | mapping |  |  |

`free` and `by`

are free.

`flag` is up, or not.

`Rule`: What must hold.

| field | type | default | |
|---|---|---|---|
| `column` | text | required | Where it \\| holds. |
| `least` | number ≥ 0 and < 10 |  |  |

```yaml
- id: held
  type: transform
  config:
    operation: example
    rules:
    - {column: x}
  dependencies: [in]
```
"""
    )


def test_the_schema_is_that_of_the_whole_config() -> None:
    schema = config_schema(Example)
    assert schema["properties"]["operation"] == {"const": "example"}
    assert schema["required"] == ["operation", "rules"]
    assert schema["additionalProperties"] is False
    rules = config_schema(registry.find("validation.rules"))
    assert rules["properties"]["validator"] == {"const": "rules", "default": "rules"}
    assert "validator" not in rules.get("required", ())


@pytest.mark.parametrize(
    ("arity", "words"),
    [
        ((0, 0), "no input table"),
        ((1, 1), "one input table"),
        ((2, 2), "two input tables"),
        ((0, None), "any number of input tables"),
        ((1, None), "one or more input tables"),
        ((1, 2), "one to two input tables"),
        ((1, 9), "one to 9 input tables"),
    ],
)
def test_numbers_of_inputs_in_words(arity: tuple[int, int | None], words: str) -> None:
    assert document.inputs_of(Arity(*arity)) == words
