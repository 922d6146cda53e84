"""Many clients of a server at once, in a process of their own: each asks as soon as it was answered.

    python -m tests.faults.load_clients URL CLIENTS SECONDS PIPELINE

They ask for at least SECONDS, and until standard input is closed.

Reads and starts are mixed as `CALLS` says, over REST and GraphQL. Whatever is not the expected answer is an error,
also one that never came. A line goes out when all clients have their first answer, and one at the end with what was
seen. Without PIPELINE all calls are `GET /` of a bare server, which is what others are compared with.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import httpx

__all__ = ["Seen"]

PATIENCE_SECONDS = 120.0
LIST = "{ executions(first: 20) { nodes { executionId status pipelineName progress createdAt } } }"
DETAIL = """query ($id: ID!) {
  execution(id: $id) {
    executionId status stageRuns { stageId status } logs(first: 20) { nodes { seq message } } risk { probability }
  }
}"""
START = """mutation ($id: ID!, $key: String!) {
  startExecution(input: {pipelineId: $id, idempotencyKey: $key}) {
    __typename ... on ExecutionStarted { execution { executionId } } ... on Error { message }
  }
}"""


class UnexpectedError(Exception):
    """An answer that is not the one it should be."""


@dataclass
class Seen:
    """What all clients saw. Times are milliseconds."""

    seconds: float = 0.0
    times: dict[str, list[float]] = field(default_factory=dict)
    """Call -> how long each took."""
    started: dict[str, str] = field(default_factory=dict)
    """Idempotency key -> the execution that it started."""
    errors: list[str] = field(default_factory=list)

    @property
    def reads(self) -> list[float]:
        return [time for name, times in self.times.items() if not name.startswith("start") for time in times]

    @property
    def starts(self) -> list[float]:
        return [time for name, times in self.times.items() if name.startswith("start") for time in times]


class Client:
    """One of them, with a connection and a seed of its own."""

    def __init__(self, number: int, http: httpx.AsyncClient, pipeline: str, seen: Seen, keys: list[str]) -> None:
        self.number = number
        self.http = http
        self.pipeline = pipeline
        self.seen = seen
        self.keys = keys  # of all clients: what was accepted
        self.asked = 0
        self.random = random.Random(number)

    async def ask_until(self, over: Callable[[], bool], first: Callable[[], None]) -> None:
        """One call after another."""
        while not over():
            if not self.pipeline:
                call: Callable[[Client], Awaitable[None]] = Client.bare
            else:
                (call,) = self.random.choices([call for call, _ in CALLS], [weight for _, weight in CALLS])
            await self._timed(call)
            first()

    async def _timed(self, call: Callable[[Client], Awaitable[None]]) -> None:
        name = call.__name__
        began = perf_counter()
        try:
            await call(self)
        except Exception as error:  # noqa: BLE001 - whatever went wrong counts
            self.seen.errors.append(f"{name}: {type(error).__name__}: {error}")
        self.seen.times.setdefault(name, []).append(round(1000 * (perf_counter() - began), 2))

    async def bare(self) -> None:
        await self._get("/")

    # --- reads --------------------------------------------------------------------------------------------------------

    async def list_rest(self) -> None:
        least = len(self.keys)
        body = await self._get("/api/executions?limit=20")
        _expect(0 < len(body["executions"]) <= 20 and body["total"] >= least, body)

    async def detail_rest(self) -> None:
        execution = self._any()
        body = await self._get(f"/api/executions/{execution}")
        _expect(body["id"] == execution and len(body["stage_executions"]) == 2, body)
        _expect(body["status"] in {"pending", "running", "completed"}, body)

    async def logs_rest(self) -> None:
        body = await self._get(f"/api/executions/{self._any()}/logs")
        ids = [line["id"] for line in body["logs"]]
        _expect(0 < len(ids) <= body["total"] and ids == list(range(1, len(ids) + 1)), body)  # it goes on meanwhile

    async def health(self) -> None:
        body = await self._get("/health")
        _expect(body["status"] == "healthy" and set(body["services"]) >= {"database", "redis"}, body)

    async def metrics(self) -> None:
        least = len(self.keys)
        body = await self._get("/metrics")
        _expect(body["total_executions"] >= least and body["failed_executions"] == 0, body)

    async def list_graphql(self) -> None:
        data = await self._graphql(LIST)
        _expect(0 < len(data["executions"]["nodes"]) <= 20, data)

    async def detail_graphql(self) -> None:
        execution = self._any()
        found = (await self._graphql(DETAIL, id=execution))["execution"]
        _expect(found["executionId"] == execution and len(found["stageRuns"]) == 2, found)
        _expect(found["status"] in {"PENDING", "RUNNING", "COMPLETED"}, found)

    # --- starts -------------------------------------------------------------------------------------------------------

    async def start_rest(self) -> None:
        key = self._new_key()
        await self._start_rest(key)
        self.keys.append(key)

    async def start_graphql(self) -> None:
        key = self._new_key()
        data = await self._graphql(START, id=self.pipeline, key=key)
        answer = data["startExecution"]
        _expect(answer["__typename"] == "ExecutionStarted", answer)
        self.seen.started[key] = answer["execution"]["executionId"]
        self.keys.append(key)

    async def start_again(self) -> None:
        """As who did not get the answer: the same key, the other face."""
        await self._start_rest(self.random.choice(self.keys))

    async def _start_rest(self, key: str) -> None:
        path, headers = f"/api/executions/{self.pipeline}/execute", {"idempotency-key": key}
        answer = await self.http.post(path, headers=headers)
        _expect(answer.status_code == 202, answer.text)
        execution = answer.json()["execution_id"]
        _expect(self.seen.started.setdefault(key, execution) == execution, f"{key}: a second execution, {execution}")

    def _new_key(self) -> str:
        self.asked += 1
        return f"client {self.number}, start {self.asked}"

    def _any(self) -> str:
        return self.seen.started[self.random.choice(self.keys)]

    async def _get(self, path: str) -> Any:
        answer = await self.http.get(path)
        _expect(answer.status_code == 200, f"{answer.status_code} {answer.text}")
        return answer.json()

    async def _graphql(self, query: str, **variables: Any) -> Any:
        answer = await self.http.post("/graphql", json={"query": query, "variables": variables})
        _expect(answer.status_code == 200, f"{answer.status_code} {answer.text}")
        body = answer.json()
        _expect("errors" not in body, body)
        return body["data"]


CALLS: list[tuple[Callable[[Client], Awaitable[None]], int]] = [
    (Client.list_rest, 15),
    (Client.detail_rest, 20),
    (Client.logs_rest, 10),
    (Client.health, 5),
    (Client.metrics, 5),
    (Client.list_graphql, 15),
    (Client.detail_graphql, 20),
    (Client.start_rest, 4),
    (Client.start_graphql, 4),
    (Client.start_again, 2),
]
"""Each call with its share in percent."""


def _expect(holds: bool, told: object) -> None:
    if not holds:
        raise UnexpectedError(str(told)[:500])


async def _ask(url: str, clients: int, seconds: float, pipeline: str) -> Seen:
    seen, verify = Seen(), ssl.create_default_context()
    ready: set[int] = set()
    told = threading.Thread(target=sys.stdin.read, daemon=True)
    told.start()
    keys: list[str] = []

    def first(number: int) -> None:
        if number not in ready:
            ready.add(number)
            if len(ready) == clients:
                sys.stdout.write("asking\n")
                sys.stdout.flush()

    def over() -> bool:
        return perf_counter() - began > seconds and not told.is_alive()

    def client(number: int, http: httpx.AsyncClient) -> Client:
        return Client(number, http, pipeline, seen, keys)

    async def one(number: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, verify=verify) as http:
            await client(number, http).ask_until(over, lambda: first(number))

    if pipeline:  # what the first reads are to find
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, verify=verify) as http:
            await client(clients, http).start_rest()
    began = perf_counter()
    await asyncio.gather(*(one(number) for number in range(clients)))
    seen.seconds = perf_counter() - began
    return seen


if __name__ == "__main__":
    address, count, length, *rest = sys.argv[1:]
    sys.stdout.write(json.dumps(asdict(asyncio.run(_ask(address, int(count), float(length), *(rest or [""]))))))
