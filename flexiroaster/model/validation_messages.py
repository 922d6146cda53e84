"""Validation messages: pydantic errors as problems with a path, a cause and a fix, for users who know no Python.

pydantic names Python types, its own validators and every alternative of a union. Here a location contains only what
the user wrote, and for a union only the errors of the alternative that the value was meant for are reported.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from flexiroaster.errors import Problem

__all__ = [
    "Location",
    "key_text",
    "listing",
    "located_problems",
    "problem_text",
    "problems_of",
    "quoted",
    "render_path",
    "shown",
    "suggestion_hint",
]

Location = tuple[int | str, ...]

_MAX_NAME_LENGTH = 100  # characters of a name in a path, and of a word to find similar words for
_MAX_VALUE_LENGTH = 60
_MAX_ITEMS, _MAX_LEVELS = _MAX_VALUE_LENGTH // 3, 4  # more do not fit into a message
_MAX_BITS = 256


def suggestion_hint(word: str, known: Iterable[str]) -> str:
    """The hint `; did you mean 'x' or 'y'?`, or an empty text if no known word is similar."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.55) if len(word) <= _MAX_NAME_LENGTH else ()
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def render_path(location: Sequence[int | str]) -> str:
    """Render a location as text: `("stages", 2, "config", "by")` -> `stages[2].config.by`."""
    path = ""
    for part in location:
        name = str(part) if len(str(part)) <= _MAX_NAME_LENGTH else f"{str(part)[:_MAX_NAME_LENGTH]}..."
        path += f"[{part}]" if isinstance(part, int) else (f".{name}" if path else name)
    return path


def shown(value: object) -> str:
    """Render a bad value as short JSON for a message; only the beginning of a large value is read."""
    text = json.dumps(_truncated(value, _MAX_LEVELS), ensure_ascii=False, default=_kind)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."


def key_text(key: object) -> str:
    """The message for a mapping key that is not text."""
    written = f"; write {json.dumps(str(key))}" if isinstance(key, int | float) else ""
    return f"a key must be text, not {shown(key)}{written}"


def quoted(name: str) -> str:
    """A name in quotes, truncated if it is very long."""
    return repr(name if len(name) <= _MAX_NAME_LENGTH else f"{name[:_MAX_NAME_LENGTH]}...")


def listing(names: Iterable[str]) -> str:
    """The hint `; known are a, b and c`."""
    known = list(names)
    return f"; known are {_join(known, 'and')}" if known else "; there are none"


def problems_of(
    error: ValidationError, raw: object, model: type[BaseModel], prefix: Sequence[int | str] = ()
) -> list[Problem]:
    """The problems of `raw`, which failed validation as a `model`, in its order; paths begin with `prefix`."""
    return [problem for _, problem in located_problems(error, raw, model, prefix)]


def located_problems(
    error: ValidationError, raw: object, model: type[BaseModel], prefix: Sequence[int | str] = ()
) -> list[tuple[Location, Problem]]:
    """The problems of `raw`, each with its location in it."""
    items = error.errors(include_url=False, include_context=True)
    findings = [_finding(item, raw) for item in items if not _is_consequence(item)]
    return [
        (found.path, Problem(render_path((*prefix, *found.path)), _text(found, model), found.code))
        for found in _intended(findings)
    ]


def problem_text(item: ErrorDetails, *, secret: bool = False) -> str:
    """The message for one value, without its path; a secret value is not shown."""
    wording = _WORDINGS.get(item["type"])
    if wording is not None:
        return wording(item)
    kind = _KINDS.get(item["type"])
    message = f"must be {kind}" if kind else _plain(item["msg"])
    return message if secret else f"{message}, not {shown(item['input'])}"


@dataclass(frozen=True, slots=True)
class _Finding:
    """One error. `path` is what the user wrote, `branches` the union alternatives on the way as (depth, name)."""

    path: Location
    branches: tuple[tuple[int, str], ...]
    item: ErrorDetails
    kinds: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """The error type that pydantic reports."""
        return self.item["type"]


_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("string_type", "string_sub_type"), "text"),
    "string_unicode": "valid Unicode text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
}
"""pydantic error type -> the kind of value that is required."""

_Wording = Callable[[ErrorDetails], str]


def _bound(words: str, limit: str) -> _Wording:
    return lambda item: f"must be {words} {item['ctx'][limit]:.15g}, not {shown(item['input'])}"


def _choice(item: ErrorDetails) -> str:
    expected = str(item["ctx"]["expected"])
    several = expected.count("'") > 4
    return f"must be {'one of ' if several else ''}{expected}, not {shown(item['input'])}"


def _too_short(item: ErrorDetails) -> str:
    minimum = item["ctx"].get("min_length", 1)
    items = "characters" if item["type"] == "string_too_short" else "items"
    return "must not be empty" if minimum == 1 else f"must have at least {minimum} {items}, not {len(item['input'])}"


def _too_long(item: ErrorDetails) -> str:
    maximum = item["ctx"]["max_length"]
    items = "character" if item["type"] == "string_too_long" else "item"
    return f"must have at most {maximum} {items}{'' if maximum == 1 else 's'}, not {len(item['input'])}"


_WORDINGS: Mapping[str, _Wording] = {
    "missing": lambda _: "is required",
    "value_error": lambda item: item["msg"].removeprefix("Value error, "),
    "enum": _choice,
    "literal_error": _choice,
    "union_tag_not_found": lambda _: "is required",
    "union_tag_invalid": lambda item: f"must be one of {item['ctx']['expected_tags']}, not {shown(item['ctx']['tag'])}",
    "invalid_key": lambda item: key_text(item["input"]),
    "string_too_short": _too_short,
    "too_short": _too_short,
    "string_too_long": _too_long,
    "too_long": _too_long,
    "greater_than": _bound("greater than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
}
"""pydantic error type -> function that words the message."""


def _text(found: _Finding, model: type[BaseModel]) -> str:
    if found.kinds:
        value = found.item["input"]
        return f"must be {_join(found.kinds, 'or')}, not {shown(value)}"
    if found.code == "extra_forbidden":
        known = list(_fields_at(model, found.path[:-1]))
        return f"is not a known field{suggestion_hint(str(found.path[-1]), known) or listing(known)}"
    if found.item["loc"][-1:] == ("[key]",) and found.code == "string_type":
        return key_text(found.item["input"])
    return f"{problem_text(found.item)}{_fix_hint(found, model)}"


def _fix_hint(found: _Finding, model: type[BaseModel]) -> str:
    """A hint with the correct spelling, if it is certain."""
    kind, value = _KINDS.get(found.code), found.item["input"]
    if kind == "text" and isinstance(value, bool | int | float):
        return f"; write {json.dumps(shown(value))}"
    if kind == "a list" and isinstance(value, str) and _takes_texts(model, found.path):
        return f"; write [{shown(value)}]"
    return ""


def _plain(message: str) -> str:
    """Adapt pydantic's own message, where we have none: `Input should be ...` becomes `must be ...`."""
    text = re.sub(r"^\w+ should ", "must ", message)
    return f"{text[:1].lower()}{text[1:]}"


# --- locations: pydantic's, without the parts that only pydantic knows --------------------------------------------


def _finding(item: ErrorDetails, raw: object) -> _Finding:
    path: list[int | str] = []
    branches: list[tuple[int, str]] = []
    value: object = raw
    last = len(item["loc"]) - 1
    for position, part in enumerate(item["loc"]):
        if part == "[key]" and position == last:
            path[-1:] = [] if item["type"] == "string_type" else path[-1:]
        elif _has(value, part):
            value = value[part]  # type: ignore[index] # _has checked it
            path.append(part)
        elif isinstance(part, int) or (position == last and item["type"] in {"missing", "extra_forbidden"}):
            path.append(part)
        else:
            branches.append((len(path), part))
    if item["type"].startswith("union_tag_"):
        path.append(item["ctx"]["discriminator"].strip("'"))
    if item["type"] == "invalid_key":
        path.pop()
    return _Finding(tuple(path), tuple(branches), item)


def _has(value: object, part: int | str) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)


def _is_consequence(item: ErrorDetails) -> bool:
    """Whether a sequence is reported as too short only because its items are invalid."""
    return item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]


# --- unions -----------------------------------------------------------------------------------------------------


def _intended(findings: Sequence[_Finding]) -> Iterator[_Finding]:
    """Keep, for each union, only the findings of the alternative that the value was meant for."""
    done: set[Location] = set()
    for found in findings:
        union = _outer_union(found)
        if union is None:
            yield found
        elif union not in done:
            done.add(union)
            yield from _of_intended_alternative([other for other in findings if _outer_union(other) == union], union)


def _outer_union(found: _Finding) -> Location | None:
    """Location of the outermost union on the way."""
    return found.path[: found.branches[0][0]] if found.branches else None


def _of_intended_alternative(findings: Sequence[_Finding], union: Location) -> Iterator[_Finding]:
    alternatives: dict[str, list[_Finding]] = {}
    for found in findings:
        inner = replace(found, branches=found.branches[1:])
        alternatives.setdefault(found.branches[0][1], []).append(inner)
    settled = [list(_intended(inner)) for inner in alternatives.values()]
    intended = [inner for inner in settled if not any(f.path == union and (f.kinds or f.code in _KINDS) for f in inner)]
    if intended:
        yield from min(intended, key=len)
        return
    kinds = dict.fromkeys(kind for inner in settled for f in inner for kind in f.kinds or (_KINDS[f.code],))
    if "a number" in kinds:
        kinds.pop("a whole number", None)
    yield replace(settled[0][0], kinds=tuple(kinds))


# --- annotations --------------------------------------------------------------------------------------------------


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> Iterator[str]:
    """Field names, as written in a definition, of the models that are allowed at a location."""
    for annotation in _annotations_at(model, location):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _by_alias(annotation)


def _takes_texts(model: type[BaseModel], location: Sequence[int | str]) -> bool:
    """Whether a list of texts is allowed at a location."""
    return any(
        issubclass(get_origin(annotation) or object, list | tuple) and _is_text(get_args(annotation)[0])
        for annotation in _annotations_at(model, location)
    )


def _is_text(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    return any(isinstance(inner, type) and issubclass(inner, str) for inner in _annotations_at(annotation, ()))


def _annotations_at(annotation: Any, location: Sequence[int | str]) -> Iterator[Any]:  # noqa: ANN401 - any annotation
    """Annotations that are allowed at a location, with unions expanded: models, types, generics such as `list[str]`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _annotations_at(arguments[0], location)
    elif origin in {Union, UnionType}:
        for alternative in arguments:
            yield from _annotations_at(alternative, location)
    elif not location:
        yield annotation
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        info = _by_alias(annotation).get(str(location[0]))
        if info is not None:
            yield from _annotations_at(info.annotation, location[1:])
    elif isinstance(origin, type) and issubclass(origin, Mapping | Sequence) and arguments:
        yield from _annotations_at(arguments[-1] if issubclass(origin, Mapping) else arguments[0], location[1:])


def _by_alias(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


# --- values -----------------------------------------------------------------------------------------------------


def _truncated(value: object, levels: int) -> object:
    """Truncate a value to what a message can show."""
    if isinstance(value, str):
        return value[: _MAX_VALUE_LENGTH + 1]
    if isinstance(value, Mapping | list | tuple) and not levels:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): _truncated(item, levels - 1) for key, item in islice(value.items(), _MAX_ITEMS)}
    if isinstance(value, list | tuple):
        return [_truncated(item, levels - 1) for item in value[:_MAX_ITEMS]]
    return "..." if isinstance(value, int) and value.bit_length() > _MAX_BITS else value


def _kind(value: object) -> str:
    """Render a value that JSON cannot represent."""
    return f"<{type(value).__name__}>"


def _join(words: Iterable[str], joint: str) -> str:
    *rest, last = words
    return f"{', '.join(rest)} {joint} {last}" if rest else last
