"""A schema with all that limits, permissions and errors are about, small enough to read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from threading import Event

import strawberry

from flexiroaster.errors import NotFoundError, StoreError
from flexiroaster.model.viewer import Role
from graphql_api.context import Info
from graphql_api.permissions import interface_type, object_type, requires

RELEASED = Event()
"""What the field `stuck` waits for; set it, so that no thread stays behind."""


@interface_type(Role.VIEWER)
class Named:
    name: str
    key: str


@object_type(Role.VIEWER)
class Stage(Named):
    secret: str = strawberry.field(default="s", metadata=requires(Role.ADMIN))

    @strawberry.field(metadata=requires(Role.OPERATOR))
    def key(self) -> str:
        return "k"

    @strawberry.field
    def parent(self) -> Run:
        return Run(name="parent", key="k")

    @strawberry.field
    def tags(self) -> list[Stage]:
        return []


@object_type(Role.VIEWER)
class Edge:
    cursor: str
    node: Run


@object_type(Role.VIEWER)
class Connection:
    edges: list[Edge]


@object_type(Role.VIEWER)
class Run(Named):
    @strawberry.field
    def runs(self, first: int | None = None, last: int | None = None) -> Connection:
        return Connection(edges=[])

    @strawberry.field
    def stages(self) -> list[Stage]:
        return [Stage(name="a")]

    @strawberry.field
    def again(self) -> Run:
        return self


@strawberry.type
class Silent:
    """Says nothing of who may use it."""

    @strawberry.field
    def undeclared(self) -> int | None:
        return 1


@object_type(Role.VIEWER)
class Query(Silent):
    @strawberry.field
    def run(self) -> Run:
        return Run(name="r", key="k")

    @strawberry.field
    def named(self) -> Named:
        return Stage(name="a")

    @strawberry.field
    def runs(
        self, first: int | None = 20, last: int | None = None, matrix: list[list[int]] | None = None
    ) -> Connection:
        return Connection(edges=[Edge(cursor="c", node=Run(name="r", key="k")) for _ in range(min(first or 20, 100))])

    @strawberry.field
    def echo(self, text: str = "", number: int | None = None) -> str:
        return text

    @strawberry.field
    def viewer(self, info: Info) -> str:
        return f"{info.context.viewer.name} {info.context.viewer.role}"

    @strawberry.field
    def request_id(self, info: Info) -> str:
        return info.context.request_id

    @strawberry.field
    def missing(self, name: str) -> str | None:
        raise NotFoundError(f"there is no {name}", name=name)

    @strawberry.field
    def broken(self, text: str = "") -> str | None:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ValueError(f"cannot use {text!r}") from error

    @strawberry.field
    def no_database(self) -> str | None:
        raise StoreError("cannot reach the database: db.internal:5432")

    @strawberry.field
    async def slow(self) -> str:
        await asyncio.sleep(3600)
        return "never"

    @strawberry.field
    def stuck(self) -> str:
        RELEASED.wait(60)
        return "released"


@object_type(Role.OPERATOR)
class Mutation:
    @strawberry.mutation
    def start(self, name: str) -> Run:
        return Run(name=name, key="k")


@object_type(Role.VIEWER)
class Tick:
    number: int

    __hash__ = object.__hash__  # payloads are shared by what they are, not by what they say


@object_type(Role.VIEWER)
class Subscription:
    @strawberry.subscription
    async def ticks(self) -> AsyncIterator[int]:
        yield 1

    @strawberry.subscription
    async def clock(self, ticks: int = 1) -> AsyncIterator[Tick]:
        for number in range(ticks):
            yield Tick(number=number)

    @strawberry.subscription
    async def silence(self) -> AsyncIterator[Tick]:
        await asyncio.Event().wait()
        yield Tick(number=0)


schema = strawberry.Schema(Query, Mutation, Subscription, types=[Stage])
