"""The Python client gql runs a query, a mutation and a subscription over a socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gql import Client, GraphQLRequest
from gql.transport.websockets import WebsocketsTransport

from flexiroaster.config import Settings
from tests.integration.graphql_api.following import numbers
from tests.integration.graphql_api.live import EVENTS, Live, living

START = """
mutation ($id: ID!) {
  startExecution(input: {pipelineId: $id}) { ... on ExecutionStarted { execution { executionId pipelineId } } }
}
"""
RUN = "query ($id: ID!) { execution(id: $id) { pipelineId status } }"


def test_query_mutation_and_subscription(settings: Settings, tmp_path: Path) -> None:
    with living(settings, tmp_path) as live:
        pipeline_id = _pipeline_of(live)
        everything, resumed, status = asyncio.run(_talk(live.api.url.replace("http", "ws"), pipeline_id))
    assert numbers(everything) == list(range(1, len(numbers(everything)) + 1))
    assert numbers(everything[:1]) + numbers(resumed) == numbers(everything)
    assert everything[-1]["execution"]["status"] == status == "COMPLETED"


def _pipeline_of(live: Live) -> str:
    """A pipeline that has run once."""
    live.open_gate()
    execution_id = live.start(*["nothing"] * 4, concurrency=None)
    return str(live.api.data(RUN, {"id": execution_id})["execution"]["pipelineId"])


async def _talk(url: str, pipeline_id: str) -> tuple[list[Any], list[Any], str]:
    transport = WebsocketsTransport(
        url=url, subprotocols=[WebsocketsTransport.GRAPHQLWS_SUBPROTOCOL], connect_timeout=60, ack_timeout=60
    )
    async with Client(transport=transport, execute_timeout=60) as session:
        started = await session.execute(GraphQLRequest(START, variable_values={"id": pipeline_id}))
        execution_id = started["startExecution"]["execution"]["executionId"]

        async def follow(after: str | None) -> list[Any]:
            asked = GraphQLRequest(EVENTS, variable_values={"id": execution_id, "after": after})
            return [result["executionEvents"] async for result in session.subscribe(asked)]

        everything = await follow(None)
        resumed = await follow(everything[0]["cursor"])
        found = await session.execute(GraphQLRequest(RUN, variable_values={"id": execution_id}))
    return everything, resumed, found["execution"]["status"]
