"""Pages of lists: conversion of the service's pages to connections. Large columns are read only if requested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from graphql import FieldNode, FragmentSpreadNode, GraphQLResolveInfo, InlineFragmentNode, SelectionSetNode

from flexiroaster.service import pipelines
from flexiroaster.service.executions import events, executions
from flexiroaster.service.executions.events import EventFilter
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.paging import Page, Window
from flexiroaster.service.pipelines import PipelineFilter, PipelineSort
from flexiroaster.service.safety import decisions
from flexiroaster.service.safety.decisions import DecisionFilter
from graphql_api.context import Info
from graphql_api.schema.connections import Connection, Listed
from graphql_api.schema.served import served

__all__ = [
    "HEAVY",
    "Window",
    "asked",
    "connection",
    "decision_page",
    "event_page",
    "execution_page",
    "pipeline_page",
    "revision_page",
]

HEAVY = frozenset({"variables", "error"})
"""Columns of an execution that may be large; their schema fields have the same names."""


def connection(page: Page[Any], count: Callable[[], int]) -> Connection[Any]:
    """Return the connection of a page; `count` counts the whole list, but only if `totalCount` is requested."""
    return served(Listed(page.items, page.cursors, page.has_next, page.has_previous, count))


def execution_page(info: Info, wanted: ExecutionFilter, sort: ExecutionSort, window: Window) -> Connection[Any]:
    """Return a page of executions, with their large columns only if requested."""
    installation = info.context.installation
    page = executions.page(installation, wanted, sort, window, leave_out=HEAVY - asked(info))
    return connection(page, lambda: executions.count(installation, wanted))


def pipeline_page(info: Info, wanted: PipelineFilter, sort: PipelineSort, window: Window) -> Connection[Any]:
    """Return a page of pipelines, without their definitions."""
    installation = info.context.installation
    page = pipelines.page(installation, wanted, sort, window)
    return connection(page, lambda: pipelines.count(installation, wanted))


def revision_page(info: Info, pipeline_id: str, window: Window) -> Connection[Any]:
    """Return a page of a pipeline's revisions, newest first."""
    installation = info.context.installation
    page = pipelines.revisions(installation, pipeline_id, window)
    return connection(page, lambda: pipelines.get(installation, pipeline_id).revision)


def event_page(info: Info, execution_id: str, wanted: EventFilter, window: Window) -> Connection[Any]:
    """Return a page of an execution's events, in order."""
    installation = info.context.installation
    page = events.page(installation, execution_id, wanted, window)
    return connection(page, lambda: events.count(installation, execution_id, wanted))


def decision_page(info: Info, wanted: DecisionFilter, window: Window) -> Connection[Any]:
    """Return a page of the safety engine's decisions, newest first."""
    installation = info.context.installation
    page = decisions.page(installation, wanted, window)
    return connection(page, lambda: decisions.count(installation, wanted))


def asked(info: Info) -> frozenset[str]:
    """Return the names of all fields below this one in the document, including those that a directive skips."""
    raw = info._raw_info  # strawberry's own view copies the whole selection
    return frozenset(name for node in raw.field_nodes for name in _names(node.selection_set, raw))


def _names(selections: SelectionSetNode | None, raw: GraphQLResolveInfo[Any]) -> Iterator[str]:
    for selection in selections.selections if selections else ():
        if isinstance(selection, FieldNode):
            yield selection.name.value
            yield from _names(selection.selection_set, raw)
        elif isinstance(selection, InlineFragmentNode):
            yield from _names(selection.selection_set, raw)
        elif isinstance(selection, FragmentSpreadNode):
            yield from _names(raw.fragments[selection.name.value].selection_set, raw)
