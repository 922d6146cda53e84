"""YAML 1.2 (the core schema) for pipeline definitions.

PyYAML implements 1.1, where `on`, `off`, `yes` and `no` are booleans (also as keys: `on: [customer_id]`), `2026-01-31`
is a date, `010` is eight and `12:30` is 750. Here these are text and decimal numbers. A duplicate key is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from flexiroaster.model.json_values import MAX_DEPTH
from flexiroaster.model.validation_messages import quoted, shown

try:
    from yaml import CSafeDumper as _BaseDumper
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # a PyYAML built without libyaml
    from yaml import SafeDumper as _BaseDumper  # type: ignore[assignment]
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]

__all__ = ["dump", "load"]

MAX_ALIASED = 1_000_000
"""Maximum number of values that the aliases of a document may expand to."""

_CORE = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
)


class _Loader(_BaseLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's name and type

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401 - PyYAML's signature
        """Reject duplicate keys and keys that are not scalars."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                kind = "a mapping" if isinstance(key, yaml.MappingNode) else "a list"
                raise _error(f"a key must be text, not {kind}", key.start_mark)
            if key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise _error(f"the key {quoted(key.value)} is given twice", key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


class _Dumper(_BaseDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's name and type

    def ignore_aliases(self, _data: object) -> bool:
        """Repeat a value instead of writing an alias."""
        return True


def _error(message: str, mark: Any) -> yaml.MarkedYAMLError:  # noqa: ANN401 - a mark of PyYAML or of libyaml
    return yaml.constructor.ConstructorError(None, None, message, mark)


def _guarded(kind: str, construct: Callable[[Any, Any], object]) -> Callable[[Any, Any], object]:
    """Wrap a constructor so that its errors have a position.

    An explicit tag can be on any value, and Python refuses integers of thousands of digits.
    """

    def guarded(loader: _Loader, node: Any) -> object:  # noqa: ANN401 - PyYAML's nodes have no useful type
        try:
            return construct(loader, node)
        except (ValueError, KeyError) as error:
            raise _error(f"{shown(node.value)} cannot be {kind}", node.start_mark) from error

    return guarded


def _construct_int(_loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    return int(text, 0) if text[:2] in {"0o", "0x"} else int(text, 10)


def _unknown_tag(_loader: _Loader, node: yaml.Node) -> None:
    tag = str(node.tag).replace("tag:yaml.org,2002:", "!!")
    raise _error(f"the tag {shown(tag)} is not supported: a definition contains plain values only", node.start_mark)


for _tag, _pattern, _first in _CORE:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
for _name, _kind, _construct in (
    ("int", "a whole number", _construct_int),
    ("float", "a number", _BaseLoader.construct_yaml_float),
    ("bool", "true or false", _BaseLoader.construct_yaml_bool),
):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _guarded(_kind, _construct))
_Loader.add_constructor(None, _unknown_tag)


def load(text: str) -> Any:  # noqa: ANN401 - any YAML value
    """Parse a YAML document. Raises yaml.YAMLError, with the position in `problem_mark`."""
    _refuse_bombs(text)
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, with fewer implicit types


def _refuse_bombs(text: str) -> None:
    """Reject documents that are too deep, or huge once their aliases are expanded, before constructing any value.

    libyaml's composer recurses per level, and a few lines of nested aliases expand to billions of values.
    """
    extent = _Extent()
    for event in yaml.parse(text, Loader=_Loader):
        extent.take(event)


class _Extent:
    """Depth of a document and number of values its aliases expand to, computed from its events."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}  # anchor -> size of its value with aliases expanded
        self._open: list[tuple[str | None, int]] = []  # (anchor, size so far), outermost first
        self._by_aliases = 0

    def take(self, event: yaml.Event) -> None:
        """Process the next event. Raises yaml.YAMLError if the document exceeds a limit."""
        if isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) == MAX_DEPTH:
                raise _error(f"is nested more than {MAX_DEPTH} levels deep", event.start_mark)
            self._open.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(*self._open.pop())
        elif isinstance(event, yaml.ScalarEvent):
            self._add(event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            self._add(None, self._size_of(event))

    def _size_of(self, alias: yaml.AliasEvent) -> int:
        if any(anchor == alias.anchor for anchor, _ in self._open):
            raise _error(f"*{alias.anchor} is inside the value it refers to", alias.start_mark)
        size = self._sizes.get(alias.anchor or "", 0)  # the composer reports a missing anchor
        self._by_aliases += size
        if self._by_aliases > MAX_ALIASED:
            raise _error(f"its aliases expand to more than {MAX_ALIASED:,} values", alias.start_mark)
        return size

    def _add(self, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = size
        if self._open:
            outer, so_far = self._open[-1]
            self._open[-1] = (outer, so_far + size)


def dump(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Serialize a value as YAML that `load` reads back; keys keep their order, small collections take one line."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    return text
