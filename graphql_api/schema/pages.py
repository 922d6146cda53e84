"""Pages of lists, from the service to the schema's connections. What nobody asks for is not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from graphql import FieldNode, FragmentSpreadNode, GraphQLResolveInfo, InlineFragmentNode, SelectionSetNode

from flexiroaster.service import decisions, events, executions, pipelines
from flexiroaster.service.decisions import DecisionFilter
from flexiroaster.service.events import EventFilter
from flexiroaster.service.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.paging import Page, Window
from flexiroaster.service.pipelines import PipelineFilter, PipelineSort
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
"""Columns of an execution that may be large; in the schema they have the same names."""


def connection(page: Page[Any], count: Callable[[], int]) -> Connection[Any]:
    """The connection of a page; `count` says how many there are in all, if that is asked for."""
    return served(Listed(page.items, page.cursors, page.has_next, page.has_previous, count))


def execution_page(info: Info, wanted: ExecutionFilter, sort: ExecutionSort, window: Window) -> Connection[Any]:
    """Executions, without what is large unless it is asked for."""
    installation = info.context.installation
    page = executions.page(installation, wanted, sort, window, leave_out=HEAVY - asked(info))
    return connection(page, lambda: executions.count(installation, wanted))


def pipeline_page(info: Info, wanted: PipelineFilter, sort: PipelineSort, window: Window) -> Connection[Any]:
    """Pipelines, without their definitions."""
    installation = info.context.installation
    page = pipelines.page(installation, wanted, sort, window)
    return connection(page, lambda: pipelines.count(installation, wanted))


def revision_page(info: Info, pipeline_id: str, window: Window) -> Connection[Any]:
    """The revisions of a pipeline, the newest first."""
    installation = info.context.installation
    page = pipelines.revisions(installation, pipeline_id, window)
    return connection(page, lambda: pipelines.get(installation, pipeline_id).revision)


def event_page(info: Info, execution_id: str, wanted: EventFilter, window: Window) -> Connection[Any]:
    """Events of an execution, in order."""
    installation = info.context.installation
    page = events.page(installation, execution_id, wanted, window)
    return connection(page, lambda: events.count(installation, execution_id, wanted))


def decision_page(info: Info, wanted: DecisionFilter, window: Window) -> Connection[Any]:
    """Decisions of the safety engine, newest first."""
    installation = info.context.installation
    page = decisions.page(installation, wanted, window)
    return connection(page, lambda: decisions.count(installation, wanted))


def asked(info: Info) -> frozenset[str]:
    """The names of all fields below this one in the document; more than asked for where a directive leaves some out."""
    raw = info._raw_info  # strawberry's own view of the selection copies all of it
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
