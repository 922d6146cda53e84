"""The reference of the operators, written from the operators themselves.

`python -m flexiroaster.operators.document` prints `docs/operators.md`. An operator's docstring says what it does, the
descriptions of its config's fields, and the config's own docstring, what they mean, its `example` how it is used.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flexiroaster.model import yaml_core
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import Arity, Operator, OperatorConfig
from flexiroaster.operators.fields import ConfigField, config_schema, fields_of, nested_models
from flexiroaster.operators.registry import SELECTORS, find, names

__all__ = [
    "description_of",
    "example_of",
    "example_text",
    "full_name",
    "inputs_of",
    "notes_of",
    "operator_markdown",
    "reference",
]

_TITLES = {
    StageType.INPUT: "Inputs",
    StageType.TRANSFORM: "Transforms",
    StageType.VALIDATION: "Validations",
    StageType.OUTPUT: "Outputs",
}

_NUMBERS = {0: "no", 1: "one", 2: "two", 3: "three"}

_INTRODUCTION = """\
# Operators

<!-- Written by `python -m flexiroaster.operators.document`: change the operators' docstrings and fields, not this. -->

What a stage does is named by its `type` and one field of its `config`. Unknown fields are refused. A value may be
`${name}`, which stands for the variable of that name. Where a type says `{secret: NAME}`, the value is looked up in
the environment variable `FLEXIROASTER_SECRET_NAME` when the stage runs, and stored nowhere.
"""


def reference() -> str:
    """The whole reference, of the operators that come with the product, as markdown."""
    built_in = [find(name) for name in names() if find(name).__module__.startswith("flexiroaster.")]
    parts = [_INTRODUCTION, _contents(built_in)]
    for stage_type, title in _TITLES.items():
        field, default = SELECTORS[stage_type]
        chosen = f"`config.{field}`" + (f" (`{default}` where it is absent)" if default else "")
        parts.append(f"## {title}\n\n`type: {stage_type}`, chosen by {chosen}.\n")
        parts += [operator_markdown(o) for o in built_in if o.stage_type is stage_type]
    return "\n".join(parts)


def operator_markdown(operator: type[Operator[Any]]) -> str:
    """One operator: heading, description, fields, example."""
    schema = config_schema(operator)
    lines = [f"### {full_name(operator)}", "", description_of(operator), "", f"Takes {inputs_of(operator.arity)}.", ""]
    lines += _table(fields_of(schema))
    if notes_of(operator):
        lines += [notes_of(operator), ""]
    for name, nested in nested_models(schema):
        lines += [f"`{name}`: {_paragraph(nested.get('description', ''))}".rstrip(": "), ""]
        lines += _table(fields_of(nested, schema["$defs"]))
    if example_of(operator):
        lines += ["```yaml", example_text(operator), "```", ""]
    return "\n".join(lines)


def full_name(operator: type[Operator[Any]]) -> str:
    """`transform.join`."""
    return f"{operator.stage_type}.{operator.name}"


def description_of(operator: type[Operator[Any]]) -> str:
    """The class docstring; the first line is the summary."""
    return inspect.cleandoc(operator.__doc__ or "")


def notes_of(operator: type[Operator[Any]]) -> str:
    """What the docstrings of the config and its bases say of its fields: those that name one, in backticks."""
    fields = [f"`{field.name}`" for field in fields_of(config_schema(operator))]
    bases = operator.config_model.__mro__
    texts = [inspect.cleandoc(base.__doc__ or "") for base in bases[: bases.index(OperatorConfig)]]
    return "\n\n".join(text for text in texts if any(field in text for field in fields))


def inputs_of(arity: Arity) -> str:
    """How many input tables, in words: `two input tables or more`."""
    least, most = arity
    if most == 0:
        return "no input table"
    if least == most:
        return "one input table" if least == 1 else f"{_NUMBERS.get(least, least)} input tables"
    if most is None:
        return "any number of input tables" if least == 0 else f"{_NUMBERS.get(least, least)} or more input tables"
    return f"{_NUMBERS.get(least, least)} to {_NUMBERS.get(most, most)} input tables"


def example_of(operator: type[Operator[Any]]) -> Mapping[str, Any]:
    """A stage that uses the operator, as a definition has it; empty where there is no example."""
    return operator.example or _examples().get(full_name(operator), {})


def example_text(operator: type[Operator[Any]]) -> str:
    """The example as YAML, an item of a definition's `stages`."""
    return yaml_core.dump([dict(example_of(operator))]).rstrip()


@cache
def _examples() -> Mapping[str, Mapping[str, Any]]:
    """The examples of the operators that come with the product."""
    text = Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8")
    examples: dict[str, Mapping[str, Any]] = yaml_core.load(text)
    return examples


def _contents(operators: Iterable[type[Operator[Any]]]) -> str:
    lines = ["| operator | |", "|---|---|"]
    for operator in operators:
        name = full_name(operator)
        summary = description_of(operator).partition("\n")[0]
        lines.append(f"| [`{name}`](#{name.replace('.', '')}) | {_cell(summary)} |")
    return "\n".join([*lines, ""])


def _table(fields: Iterable[ConfigField]) -> Iterator[str]:
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    for field in fields:
        default = "required" if field.required else (f"`{field.default}`" if field.default else "")
        yield f"| `{field.name}` | {_cell(field.type)} | {_cell(default)} | {_cell(field.description)} |"
    yield ""


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _paragraph(text).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
