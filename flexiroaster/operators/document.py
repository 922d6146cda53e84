"""Operator reference: generates `docs/operators.md` and the help of single operators from the operator classes.

`python -m flexiroaster.operators.document` prints `docs/operators.md`. The text comes from the docstring of each
operator, the docstring and field descriptions of its config, and its `example`.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flexiroaster.model import yaml_core
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import Arity, Operator, OperatorConfig, SecretRef
from flexiroaster.operators.registry import SELECTORS, find, names

__all__ = [
    "ConfigField",
    "config_schema",
    "description_of",
    "example_of",
    "example_text",
    "fields_of",
    "full_name",
    "inputs_of",
    "nested_models",
    "notes_of",
    "operator_markdown",
    "reference",
]


# Config schemas: the JSON Schema of an operator's config, and a description of its fields in words.
_WORDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean", "null": "null"}
_FORMATS = {"date": "date", "date-time": "date and time", "time": "time", "uri": "URL", "duration": "duration"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_COUNTS = {"minItems": "at least {} items", "maxItems": "at most {} items"}

_Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigField:
    """A config field. `default` is JSON, or None if the field is required or has no default worth showing."""

    name: str
    type: str
    required: bool
    default: str | None
    description: str


def config_schema(operator: type[Operator[Any]]) -> dict[str, Any]:
    """Return the JSON Schema of a stage's `config`, including the field that selects the operator."""
    schema = operator.config_model.model_json_schema()
    selector, default = SELECTORS[operator.stage_type]
    chosen: dict[str, Any] = {"const": operator.name}
    if default == operator.name:
        chosen["default"] = default
    properties = {selector: chosen, **schema.get("properties", {})}
    required = [*([] if "default" in chosen else [selector]), *schema.get("required", ())]
    return {**schema, "properties": properties, "required": required}


def fields_of(schema: _Schema, definitions: _Schema | None = None) -> Iterator[ConfigField]:
    """Yield the fields of an object schema, required first; `definitions` (default: its `$defs`) resolves `$ref`s."""
    known: _Schema = schema.get("$defs", {}) if definitions is None else definitions
    required = frozenset(schema.get("required", ()))
    for name, field in sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required):
        resolved = _resolve(field, known)
        description = field.get("description") or resolved.get("description", "") if _is_leaf(resolved) else None
        yield ConfigField(
            name=name,
            type=_words(field, known),
            required=name in required,
            default=_default(field),
            description=field.get("description", "") if description is None else description,
        )


def nested_models(schema: _Schema) -> Iterator[tuple[str, _Schema]]:
    """Yield the nested objects of a config as (name, schema), in the order of their names."""
    for name, definition in schema.get("$defs", {}).items():
        if definition.get("properties") and name != SecretRef.__name__:
            yield name, definition


def _default(field: _Schema) -> str | None:
    value = field.get("default")
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _is_leaf(schema: _Schema) -> bool:
    return not schema.get("properties")


def _resolve(schema: _Schema, definitions: _Schema) -> _Schema:
    reference = schema.get("$ref")
    return definitions.get(reference.rpartition("/")[2], {}) if reference else schema


def _words(schema: _Schema, definitions: _Schema) -> str:
    """Describe a schema in a few words: `list of text`, `one of "a", "b"`, `integer ≥ 1`, `Condition`."""
    reference = schema.get("$ref", "").rpartition("/")[2]
    if reference == SecretRef.__name__:
        return "{secret: NAME}"
    if reference and not _is_leaf(definitions.get(reference, {})):
        return str(reference)
    schema = _resolve(schema, definitions)
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    for combined in ("anyOf", "oneOf", "allOf"):
        if combined in schema:
            parts = dict.fromkeys(_words(part, definitions) for part in schema[combined] if part.get("type") != "null")
            return " or ".join(parts)
    return _simple_words(schema, definitions)


def _simple_words(schema: _Schema, definitions: _Schema) -> str:
    kind = schema.get("type")
    if kind == "array":
        return _array_words(schema, definitions)
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping of text to {_words(values, definitions)}" if isinstance(values, Mapping) else "mapping"
    if kind is None:
        return "any value"
    words = _FORMATS.get(schema.get("format", ""), _WORDS.get(kind, str(kind)))
    bounds = " and ".join(f"{sign} {_number(schema[bound])}" for bound, sign in _BOUNDS.items() if bound in schema)
    return f"{words} {bounds}" if bounds else words


def _number(bound: float) -> str:
    return f"{bound:,.0f}" if bound == int(bound) else f"{bound:g}"


def _array_words(schema: _Schema, definitions: _Schema) -> str:
    if "prefixItems" in schema:
        return "list [" + ", ".join(_words(item, definitions) for item in schema["prefixItems"]) + "]"
    items = _words(schema["items"], definitions) if schema.get("items") else "any value"
    counts = [
        "not empty" if (bound, schema.get(bound)) == ("minItems", 1) else text.format(schema[bound])
        for bound, text in _COUNTS.items()
        if schema.get(bound)
    ]
    return f"list of {items}" + (f" ({', '.join(counts)})" if counts else "")


_TITLES = {
    StageType.INPUT: "Inputs",
    StageType.TRANSFORM: "Transforms",
    StageType.VALIDATION: "Validations",
    StageType.OUTPUT: "Outputs",
}

_NUMBERS = {0: "no", 1: "one", 2: "two", 3: "three"}

_INTRODUCTION = """\
# Operators

<!-- Generated by `python -m flexiroaster.operators.document`: edit the operators' docstrings and fields instead. -->

The `type` of a stage and one field of its `config` select the operator. Unknown fields are rejected. A value can be
`${name}`, which is replaced by the variable of that name. A field of type `{secret: NAME}` gets its value from the
environment variable `FLEXIROASTER_SECRET_NAME` when the stage runs; the value is never stored.
"""


def reference() -> str:
    """Return the reference of all built-in operators as Markdown."""
    built_in = [find(name) for name in names() if find(name).__module__.startswith("flexiroaster.")]
    parts = [_INTRODUCTION, _contents(built_in)]
    for stage_type, title in _TITLES.items():
        field, default = SELECTORS[stage_type]
        chosen = f"`config.{field}`" + (f" (default `{default}`)" if default else "")
        parts.append(f"## {title}\n\n`type: {stage_type}`, selected by {chosen}.\n")
        parts += [operator_markdown(o) for o in built_in if o.stage_type is stage_type]
    return "\n".join(parts)


def operator_markdown(operator: type[Operator[Any]]) -> str:
    """Return the Markdown of one operator: heading, description, fields, example."""
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
    """Return the full name, such as `transform.join`."""
    return f"{operator.stage_type}.{operator.name}"


def description_of(operator: type[Operator[Any]]) -> str:
    """Return the class docstring; its first line is the summary."""
    return inspect.cleandoc(operator.__doc__ or "")


def notes_of(operator: type[Operator[Any]]) -> str:
    """Return the docstrings of the config and its bases that name a config field in backticks."""
    fields = [f"`{field.name}`" for field in fields_of(config_schema(operator))]
    bases = operator.config_model.__mro__
    texts = [inspect.cleandoc(base.__doc__ or "") for base in bases[: bases.index(OperatorConfig)]]
    return "\n\n".join(text for text in texts if any(field in text for field in fields))


def inputs_of(arity: Arity) -> str:
    """Return the number of input tables in words, such as `two or more input tables`."""
    least, most = arity
    if most == 0:
        return "no input table"
    if least == most:
        return "one input table" if least == 1 else f"{_NUMBERS.get(least, least)} input tables"
    if most is None:
        return "any number of input tables" if least == 0 else f"{_NUMBERS.get(least, least)} or more input tables"
    return f"{_NUMBERS.get(least, least)} to {_NUMBERS.get(most, most)} input tables"


def example_of(operator: type[Operator[Any]]) -> Mapping[str, Any]:
    """Return a stage of a definition that uses the operator; empty if there is no example."""
    return operator.example or _examples().get(full_name(operator), {})


def example_text(operator: type[Operator[Any]]) -> str:
    """Return the example as YAML, as an item of a definition's `stages`."""
    return yaml_core.dump([dict(example_of(operator))]).rstrip()


@cache
def _examples() -> Mapping[str, Mapping[str, Any]]:
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
