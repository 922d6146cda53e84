"""Operations transport WebSockets and event streams: one result for a query or mutation, many for a subscription.

A thread executes and encodes a subscription payload once for all subscribers with the same document, variables and
role; each of them receives the same text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from time import monotonic
from typing import Any, TypeAlias, TypeGuard, cast
from weakref import WeakKeyDictionary

import orjson
import strawberry
from graphql import (
    ExecutionResult,
    Executor,
    GraphQLError,
    OperationType,
    VariableNode,
    Visitor,
    create_source_event_stream,
    execute,
    visit,
)
from strawberry.execution import optimized_is_awaitable

from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service.installation import Installation
from flexiroaster.web.streams import Streams, StreamsClosedError, Transport
from flexiroaster.web.thread_pool import OVERLOADED, TIMEOUT, RefusedError, ThreadPool
from graphql_api import client_errors
from graphql_api.context import Context, StreamContext
from graphql_api.documents import Documents, Operation
from graphql_api.transport.requests import GraphQLRequest, dump_json

__all__ = ["FailedError", "Operations", "Response", "execute_operation"]

MAX_CACHED_FORMS = 8
"""Maximum number of forms in which a payload is cached; further forms are encoded for each subscriber."""

MAX_SUBSCRIPTIONS = 5_000
"""Maximum number of open subscriptions on all connections together."""

_is_awaitable = cast("Callable[[Any], TypeGuard[Awaitable[Any]]]", optimized_is_awaitable)  # faster than the default

_Form: TypeAlias = tuple[str, str | None, bytes, Role]


@dataclass(frozen=True, slots=True)
class Response:
    """One result as JSON; `cursor` resumes the subscription after it, if the subscription supports that."""

    text: str
    cursor: str | None = None


class FailedError(Exception):
    """An operation failed, or did not start; `errors` are in the form that the client may see."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(errors[0]["message"])
        self.errors = errors


class Operations:
    """The operations of one process."""

    def __init__(
        self,
        schema: strawberry.Schema,
        installation: Installation,
        documents: Documents,
        workers: ThreadPool,
        streams: Streams,
    ) -> None:
        self._schema = schema
        self._installation = installation
        self._documents = documents
        self._workers = workers
        self._streams = streams
        self._encoded: WeakKeyDictionary[object, dict[_Form, asyncio.Task[str]]] = WeakKeyDictionary()

    async def responses(
        self,
        request: GraphQLRequest,
        viewer: Viewer,
        transport: Transport,
        *,
        resume: str | None = None,
        read_only: bool = False,
    ) -> AsyncGenerator[Response, None]:
        """Yield the results of an operation; a subscription starts after the cursor `resume`, if given.

        `read_only` refuses mutations, which is required for GET because a web link can send it. Raises RefusedError
        (the operation is not executed), FailedError, StreamsClosedError. Close the generator if you stop early.
        """
        operation = await self._workers.run(
            lambda *_: self._documents.operation(request.query, viewer.role, request.variables, request.operation_name)
        )
        if read_only and operation.type is OperationType.MUTATION:
            raise RefusedError("Mutations need POST", "METHOD_NOT_ALLOWED", 405)
        try:
            async with aclosing(self._results(operation, request, viewer, transport, resume)) as results:
                async for response in results:
                    yield response
        except (RefusedError, FailedError, StreamsClosedError):
            raise
        except Exception as error:
            raise FailedError(_errors(operation, request, [GraphQLError("", original_error=error)])) from error

    async def _results(
        self, operation: Operation, request: GraphQLRequest, viewer: Viewer, transport: Transport, resume: str | None
    ) -> AsyncGenerator[Response, None]:
        if operation.type is not OperationType.SUBSCRIPTION:
            context = Context(self._installation, viewer)
            yield Response(await self._workers.run(partial(self._execute, operation, request, context, None)))
            return
        form = _form(operation, request, viewer.role)
        context = StreamContext(self._installation, viewer, self._streams, resume)
        async with (
            self._count_subscription(transport),
            aclosing(await self._source(operation, request, context)) as source,
        ):
            async for payload in source:
                text = await self._text(form, operation, request, payload)
                yield Response(text, getattr(payload, "cursor", None))

    @asynccontextmanager
    async def _count_subscription(self, transport: Transport) -> AsyncIterator[None]:
        opened = self._streams.subscriptions
        if opened.total() >= MAX_SUBSCRIPTIONS:
            raise RefusedError("Too many subscriptions are open, try again later", OVERLOADED, 503)
        opened[transport] += 1
        try:
            yield
        finally:
            opened[transport] -= 1

    async def _source(
        self, operation: Operation, request: GraphQLRequest, context: StreamContext
    ) -> AsyncGenerator[object, None]:
        """The payloads, before they are executed. Raises FailedError."""
        executor = self._schema.execution_context_class.build(
            self._schema._schema,  # strawberry has no public name for the schema it builds
            operation.document,
            context_value=context,
            raw_variable_values=dict(request.variables) if request.variables else None,
            operation_name=operation.name,
            operation_extensions=None,
        )
        source: object = executor
        if isinstance(executor, Executor):
            begun = create_source_event_stream(executor)
            source = await begun if executor.is_awaitable(begun) else begun
            if isinstance(source, ExecutionResult):
                source = source.errors or []
        if isinstance(source, list):
            raise FailedError(_errors(operation, request, source))
        return cast("AsyncGenerator[object, None]", source)

    async def _text(self, form: _Form, operation: Operation, request: GraphQLRequest, payload: object) -> str:
        """The result of a payload, executed once for all subscribers with this form."""
        forms = self._encoded.setdefault(payload, {})
        task = forms.get(form)
        if task is None:
            context = Context(self._installation, Viewer(form[-1], form[-1]))  # shared by all viewers of a role
            work = partial(self._execute, operation, request, context, payload)
            task = asyncio.create_task(self._streams.run(work))
            if len(forms) < MAX_CACHED_FORMS:
                forms[form] = task
            task.add_done_callback(partial(_forget_failure, forms, form))
        return await asyncio.shield(task)

    def _execute(
        self,
        operation: Operation,
        request: GraphQLRequest,
        context: Context,
        root: object,
        loop: asyncio.AbstractEventLoop,
        deadline: float,
    ) -> str:
        """The result as JSON, made in a worker thread."""
        result = execute_operation(self._schema, operation, request.variables, context, loop, deadline, root)
        content: dict[str, Any] = {"data": result.data}
        if result.errors:
            content["errors"] = _errors(operation, request, result.errors)
        return dump_json(content).decode()


def _errors(operation: Operation, request: GraphQLRequest, errors: Sequence[GraphQLError]) -> list[dict[str, Any]]:
    values = client_errors.client_values(operation.document, request.variables)
    return [client_errors.error_for_client(error, values) for error in errors]


def _forget_failure(forms: dict[_Form, asyncio.Task[str]], form: _Form, task: asyncio.Task[str]) -> None:
    if (task.cancelled() or task.exception() is not None) and forms.get(form) is task:
        del forms[form]


def _form(operation: Operation, request: GraphQLRequest, role: Role) -> _Form:
    """The cache key of a payload's text; it does not include the cursor where the subscription began."""
    excluded = _cursor_variables(operation)
    variables = {name: value for name, value in (request.variables or {}).items() if name not in excluded}
    return request.query, operation.name, orjson.dumps(variables, option=orjson.OPT_SORT_KEYS), role


def _cursor_variables(operation: Operation) -> set[str]:
    """The variables that are used only as `after`, to say where the subscription begins."""
    uses = _Uses()
    visit(operation.document, uses)
    roots = [
        argument.value.name.value
        for field in operation.node.selection_set.selections
        for argument in getattr(field, "arguments", None) or ()
        if argument.name.value == "after" and isinstance(argument.value, VariableNode)
    ]
    return {name for name in roots if uses.found.count(name) == 2}  # this use and the declaration


class _Uses(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def enter_variable(self, node: VariableNode, *_: object) -> None:
        self.found.append(node.name.value)


def execute_operation(
    schema: strawberry.Schema,
    operation: Operation,
    variables: Mapping[str, Any] | None,
    context: Context,
    loop: asyncio.AbstractEventLoop,
    deadline: float,
    root: object = None,
) -> ExecutionResult:
    """Execute an operation in this thread, on its loop. For a subscription, `root` is the one payload to execute.

    Raises RefusedError at the deadline.
    """

    async def finished() -> ExecutionResult:
        result = execute(
            schema._schema,  # strawberry has no public name for the schema it builds
            operation.document,
            root,
            context_value=context,
            variable_values=dict(variables) if variables else None,
            operation_name=operation.name,
            executor_class=schema.execution_context_class,
            is_awaitable=_is_awaitable,
            operation_extensions=None,
        )
        return await result if isawaitable(result) else result

    async def limited() -> ExecutionResult:
        async with asyncio.timeout(deadline - monotonic()):
            return await finished()

    try:
        return loop.run_until_complete(limited())
    except TimeoutError as error:
        raise RefusedError("The request took too long", TIMEOUT, 503) from error
