"""What the tests of the runner stand on: a runner in a loop of its own, with real processes."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from flexiroaster.operators.base import Access
from flexiroaster.workers.local_runner import Runner
from flexiroaster.workers.protocol import Ended, Log, Message, Task
from tests.waiting import eventually

LONG = 120.0  # seconds after which something that should have happened is missing; nothing waits for it to pass
ROOT = Path(__file__).parents[2]


class Bench:
    """A runner, and the loop around it that the driver is otherwise."""

    def __init__(self, folder: Path, size: int = 1, access: Access | None = None) -> None:
        self.selector = selectors.DefaultSelector()
        self.messages: list[Message] = []
        self.artifacts = folder / "artifacts"
        self.runner = Runner(
            size=size,
            access=access or Access(python_modules=("tests.functions", "steps")),
            artifacts_url=str(self.artifacts),
            selector=self.selector,
            deliver=self.messages.append,
        )
        self._count = 0

    def task(self, function: str, **fields: Any) -> Task:
        self._count += 1
        name = function if ":" in function else f"tests.functions:{function}"
        config = {"operation": "python", "function": name, "frames": "polars", "arguments": fields.pop("arguments", {})}
        given: dict[str, Any] = {"attempt": 1, "stage_id": "stage", "config": config, "inputs": {}, **fields}
        given = {"execution_id": "e1", "pipeline_name": "p", "stage_type": "transform", "variables": {}, **given}
        return Task(key=f"key-{self._count}", **given)

    def start(self, function: str, **arguments: Any) -> str:
        return self.start_task(self.task(function, arguments=arguments))

    def start_task(self, task: Task) -> str:
        self.runner.start(task)
        return task.key

    def run(self, function: str, **arguments: Any) -> Ended:
        return self.end_of(self.start(function, **arguments))

    def run_task(self, task: Task) -> Ended:
        return self.end_of(self.start_task(task))

    def end_of(self, key: str) -> Ended:
        self.until(lambda: bool(self.ends(key)), f"the end of {key}")
        (end,) = self.ends(key)
        last = [message for message in self.messages if message.key == key][-1]
        assert last is end, "the end is the last message"
        assert (end.output is None) != (end.error is None)
        assert end.started_at <= end.ended_at
        return end

    def ends(self, key: str) -> list[Ended]:
        return [m for m in self.messages if isinstance(m, Ended) and m.key == key]

    def logs(self, key: str) -> list[Log]:
        return [m for m in self.messages if isinstance(m, Log) and m.key == key]

    def texts(self, key: str) -> list[str]:
        return [log.message for log in self.logs(key)]

    def turn(self, seconds: float = 1.0) -> None:
        for key, _ in self.selector.select(seconds):
            key.data()

    def until(self, happened: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + LONG
        while not happened():
            if time.monotonic() > limit:
                raise AssertionError(f"missing: {what}; so far {self.messages[-5:]}")
            self.turn(0.05)

    def said(self, key: str, text: str) -> None:
        self.until(lambda: text in self.texts(key), f"the line {text!r}")

    def workers(self) -> list[int]:
        return [worker.pid for worker in self.runner._workers.values() if worker.pid]

    def fork_server(self) -> int:
        assert self.runner._fork_server is not None
        return self.runner._fork_server.process.pid

    def ready(self, size: int = 1) -> None:
        self.until(lambda: self.runner.free == size, f"{size} free workers")

    def close(self) -> None:
        self.runner.close()
        self.selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> None:
    eventually(lambda: not alive(pid), LONG, f"the end of process {pid}")


def error(end: Ended) -> tuple[str, str]:
    assert end.error is not None
    return end.error["class"], end.error["message"]
