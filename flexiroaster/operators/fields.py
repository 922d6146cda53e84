"""Config schemas: the JSON Schema of an operator's config, and a description of its fields in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flexiroaster.operators.base import Operator, SecretRef
from flexiroaster.operators.registry import SELECTORS

__all__ = ["ConfigField", "config_schema", "fields_of", "nested_models"]

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
