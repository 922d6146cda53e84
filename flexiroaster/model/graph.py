"""Dependency graphs of stages: topological order and cycles. A graph maps each node to the nodes it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

__all__ = ["dependents", "downstream", "find_cycle", "topological_order"]

Graph = Mapping[str, Sequence[str]]


def find_cycle(edges: Graph) -> list[str] | None:
    """Find one cycle, as a path in data-flow direction that starts and ends with the same node, or None."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return None


def topological_order(edges: Graph) -> tuple[str, ...]:
    """Sort all nodes after their dependencies; ties keep the order of `edges`. Raises graphlib.CycleError."""
    rank = {node: i for i, node in enumerate(edges)}
    sorter = TopologicalSorter(edges)
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=rank.__getitem__)
        order += ready
        sorter.done(*ready)
    return tuple(order)


def dependents(edges: Graph) -> dict[str, list[str]]:
    """Map each node to the nodes that directly depend on it."""
    result: dict[str, list[str]] = {node: [] for node in edges}
    for node, wanted in edges.items():
        for dependency in wanted:
            result[dependency].append(node)
    return result


def downstream(edges: Graph, node: str) -> set[str]:
    """All nodes that depend on `node`, directly or indirectly."""
    direct = dependents(edges)
    found: set[str] = set()
    todo = [node]
    while todo:
        for follower in direct[todo.pop()]:
            if follower not in found:
                found.add(follower)
                todo.append(follower)
    return found
