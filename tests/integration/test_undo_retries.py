"""Undos that fail are repeated as late as the other side asks for, whichever process drives the rollback then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import update

from flexiroaster.config import Settings
from flexiroaster.errors import NotAllowedError
from flexiroaster.model.event import utc_now
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store.tables import stage_runs
from tests.integration.test_control import begin, settings
from tests.integration.test_runs import rows
from tests.leases import expire_leases
from tests.waiting import eventually

__all__ = ["settings"]  # the fixture


class Receiver:
    """A server that takes every delivery; it answers undo requests with `status`, once `may_answer` is set."""

    def __init__(self) -> None:
        self.taken_back = 0
        self.status = 503
        self.may_answer = threading.Event()
        self.may_answer.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200)

            def do_DELETE(self) -> None:
                receiver.taken_back += 1
                receiver.may_answer.wait(60)
                self.answer(receiver.status)

            def answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Retry-After", "3600")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/rows"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def output(self) -> dict[str, Any]:
        config = {"destination": "http", "url": self.url, "max_retries": 0, "undo": {"url": self.url}}
        limits = {"max_retries": 3, "retry_delay": 0.0, "max_retry_delay": 1.0}
        return {"id": "send", "type": "output", "dependencies": ["a"], "config": config, **limits}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.may_answer.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def one_process(settings: Settings) -> Settings:
    """One stage at a time: what is ready first runs first."""
    return settings.model_copy(update={"http_allowed_hosts": ("127.0.0.1",), "executor_workers": 1})


def rolling_back(installation: Installation, receiver: Receiver) -> str:
    x = begin(installation, rows("a", {"x": 1}), receiver.output())
    assert executions.wait(installation, x, 120).status == "completed"
    commands.rollback(installation, x)
    return x


def others_run(installation: Installation) -> None:
    """A whole execution, behind all that could start before it."""
    x = begin(installation, rows("a", {"x": 1}), concurrency=None)
    assert executions.wait(installation, x, 120).status == "completed"


def undo_waits_until(installation: Installation, x: str) -> Any:
    return executions.stages(installation, x)[1].retry_at


def test_an_undo_waits_as_long_as_its_receiver_asks_for_whoever_drives_it(
    one_process: Settings, receiver: Receiver
) -> None:
    with open_installation(one_process) as first:
        first.start_claiming()
        x = rolling_back(first, receiver)
        failed, *more = eventually(lambda: [e for e in executions.events(first, x) if e.type == "stage.undo_failed"])
        due = undo_waits_until(first, x)
        assert more == []
        assert due - failed.at == timedelta(hours=1), "beyond the longest delay of the stage"
        others_run(first)
        assert receiver.taken_back == 1
        with pytest.raises(NotAllowedError):
            commands.stop(first, x, "enough")
    with open_installation(one_process) as second:  # the first one was closed without handing over
        expire_leases(second.database, first.owner)
        second.start_claiming()
        eventually(lambda: x in second.driver.driven)
        others_run(second)
        assert (receiver.taken_back, undo_waits_until(second, x)) == (1, due)
        second.hand_over()
        with second.database.write() as connection:  # the hour has passed
            waiting = stage_runs.c.execution_id == x, stage_runs.c.stage_id == "send"
            connection.execute(update(stage_runs).where(*waiting).values(retry_at=utc_now()))
    receiver.status = 204
    with open_installation(one_process) as third:
        third.start_claiming()
        eventually(lambda: executions.get(third, x).status == "rolled_back")
        assert (receiver.taken_back, undo_waits_until(third, x)) == (2, None)


def test_an_undo_that_was_ended_by_a_hand_over_is_repeated_elsewhere(one_process: Settings, receiver: Receiver) -> None:
    receiver.may_answer.clear()
    with open_installation(one_process) as first:
        first.start_claiming()
        x = rolling_back(first, receiver)
        eventually(lambda: receiver.taken_back)
        first.hand_over()
        assert not executions.get(first, x).error
    receiver.status = 204
    receiver.may_answer.set()
    with open_installation(one_process) as second:
        second.start_claiming()
        eventually(lambda: executions.get(second, x).status in {"rolled_back", "failed"})
        assert executions.get(second, x).status == "rolled_back"
