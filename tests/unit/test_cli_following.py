"""The command line waits for an execution on a separate thread, and reports what fails there."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest

from flexiroaster.cli import progress


@pytest.mark.parametrize("error", [ValueError("a defect"), MemoryError()])
def test_an_error_while_waiting_for_the_end_ends_the_wait(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(progress.executions, "wait", fail)
    inbox: SimpleQueue[Any] = SimpleQueue()
    progress._watch_for_end(object(), "x", inbox)  # type: ignore[arg-type]
    assert inbox.get_nowait().failure is error
