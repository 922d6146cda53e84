"""The metrics in a PromQL expression, each with the labels and values that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import promql_parser

__all__ = ["Asked", "asked_of", "values_of"]

_GRAFANA = {"$__rate_interval": "5m", "$__range": "1h", "$job": ".*", "$operator": ".*"}
_BY_SERVER = frozenset({"job", "instance"})
"""Labels that Prometheus itself gives to all that it scrapes."""


@dataclass(frozen=True)
class Asked:
    """One metric in an expression: the label values it is compared with, and the labels it is grouped by."""

    name: str
    values: dict[str, str] = field(default_factory=dict)
    grouped: frozenset[str] = frozenset()

    @property
    def labels(self) -> set[str]:
        """The labels that the exposition itself must have."""
        return (set(self.values) | self.grouped) - _BY_SERVER


def asked_of(expression: str) -> list[Asked]:
    """All metrics of an expression of a rule or a panel. Raises ValueError if it is not PromQL."""
    for name, value in _GRAFANA.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"an unknown variable: {expression}"
    return list(_walk(promql_parser.parse(expression), frozenset()))


def _walk(node: Any, grouped: frozenset[str]) -> Iterator[Asked]:
    if isinstance(node, promql_parser.VectorSelector):
        matchers = {matcher.name: matcher.value for matcher in node.matchers.matchers}
        yield Asked(node.name, matchers, grouped)
        return
    if isinstance(node, promql_parser.AggregateExpr):
        grouped = grouped | frozenset(node.modifier.labels if node.modifier is not None else ())
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from _walk(child, grouped)
    for child in getattr(node, "args", ()):
        yield from _walk(child, grouped)


def values_of(pattern: str) -> list[str]:
    """The alternatives of a matcher that is a list of words; empty for a real pattern."""
    return pattern.split("|") if re.fullmatch(r"[\w|]+", pattern) else []
