"""Many subscribers of one execution, in their own process.

    python -m tests.integration.graphql_api.subscribers PORT EXECUTION CLIENTS STALLED

Each client follows all events over its own WebSocket. Whenever the connection ends, it reconnects and resumes from its
last cursor. The last STALLED of them stop reading after their first payload, with a small receive buffer,
until a line comes in. One line goes out when all are subscribed, and at the end one with what each of them saw.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

__all__ = ["Seen", "Subscribers"]

ROOT = Path(__file__).parents[3]
AGAIN_SECONDS = 0.1
OPEN_AT_ONCE = 20
SMALL_BUFFER = 2048

PLAIN = """subscription ($id: ID!, $after: String) {
  executionEvents(executionId: $id, after: $after) {
    cursor caughtUp events { seq at type stageId message } execution { status progress }
  }
}"""
_COPIES = " ".join(f"m{number}: data" for number in range(40))
LARGE = PLAIN.replace("message", _COPIES)
"""What the stalled ask for: enough that no buffer of the system holds it all."""


@dataclass
class Seen:
    """One client's view: event numbers in the order of arrival, and the delay of the live ones."""

    stalled: bool
    numbers: list[int] = field(default_factory=list)
    connections: int = 0
    codes: list[int | None] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """Milliseconds from an event's own time, which is before its commit, to its arrival."""
    payloads: int = 0
    completed: bool = False


class Client:
    """One of them."""

    def __init__(self, port: int, execution: str, stalled: bool, go_on: asyncio.Event) -> None:
        self.url = f"ws://127.0.0.1:{port}/graphql"
        self.port = port
        self.execution = execution
        self.go_on = go_on
        self.subscribed = asyncio.Event()
        self.seen = Seen(stalled)
        self.cursor: str | None = None

    async def follow(self) -> Seen:
        """Follow the execution until the subscription completes."""
        while not self.seen.completed:
            try:
                async with await self._open() as connection:
                    self.seen.connections += 1
                    await self._subscribe(connection)
                    await self._read(connection)
            except ConnectionClosed as closed:
                self.seen.codes.append(closed.rcvd.code if closed.rcvd else None)
            except (OSError, InvalidHandshake, TimeoutError):
                pass  # nobody is there
            if not self.seen.completed:
                await asyncio.sleep(AGAIN_SECONDS)
        return self.seen

    async def _open(self) -> ClientConnection:
        raw = socket.socket()
        raw.setblocking(False)
        if self.seen.stalled:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        try:
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
            return await connect(
                self.url, sock=raw, subprotocols=["graphql-transport-ws"], compression=None, max_size=None,
                ping_interval=None, max_queue=1 if self.seen.stalled else 16, open_timeout=60,
            )  # fmt: skip
        except BaseException:
            raw.close()
            raise

    async def _subscribe(self, connection: ClientConnection) -> None:
        await connection.send('{"type": "connection_init"}')
        assert json.loads(await connection.recv())["type"] == "connection_ack"
        query = LARGE if self.seen.stalled else PLAIN
        variables = {"id": self.execution, "after": self.cursor}
        asked = {"id": "1", "type": "subscribe", "payload": {"query": query, "variables": variables}}
        await connection.send(json.dumps(asked))

    async def _read(self, connection: ClientConnection) -> None:
        live = False
        async for text in connection:
            arrived = time.time()
            message = orjson.loads(text)
            if message["type"] == "complete":
                self.seen.completed = True
                return
            assert message["type"] == "next", message
            assert "errors" not in message["payload"], message
            batch = message["payload"]["data"]["executionEvents"]
            self._take(batch, arrived, live)
            live = live or batch["caughtUp"]
            if self.seen.stalled:
                await self.go_on.wait()

    def _take(self, batch: dict[str, Any], arrived: float, live: bool) -> None:
        self.seen.payloads += 1
        self.cursor = batch["cursor"]
        for event in batch["events"]:
            self.seen.numbers.append(event["seq"])
            if live and not self.seen.stalled:
                self.seen.late.append(round(1000 * (arrived - datetime.fromisoformat(event["at"]).timestamp()), 2))
        self.subscribed.set()


async def _follow_all(port: int, execution: str, clients: int, stalled: int) -> list[Seen]:
    go_on = asyncio.Event()
    places = asyncio.Semaphore(OPEN_AT_ONCE)
    everybody = [Client(port, execution, number >= clients - stalled, go_on) for number in range(clients)]

    async def begin(client: Client) -> asyncio.Task[Seen]:
        async with places:
            task = asyncio.create_task(client.follow())
            await client.subscribed.wait()
            return task

    tasks = await asyncio.gather(*map(begin, everybody))
    sys.stdout.write("subscribed\n")
    sys.stdout.flush()
    asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline).add_done_callback(lambda _: go_on.set())
    return await asyncio.gather(*tasks)


class Subscribers:
    """The process of the subscribers, as a test sees it."""

    def __init__(self, port: int, execution: str, clients: int, stalled: int = 0) -> None:
        arguments = [sys.executable, "-m", __name__, str(port), execution, str(clients), str(stalled)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def wait_until_subscribed(self) -> None:
        """Wait until every client has its first payload."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "subscribed\n"

    def result(self, within: float = 300) -> list[Seen]:
        """Let the stalled clients continue; return what each client saw, once all have reached the end."""
        out, _ = self.process.communicate("go on\n", timeout=within)
        assert self.process.returncode == 0
        return [Seen(**each) for each in json.loads(out)]

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    port, execution, clients, stalled = sys.argv[1:]
    found = asyncio.run(_follow_all(int(port), execution, int(clients), int(stalled)))
    sys.stdout.write(json.dumps([asdict(each) for each in found]))
