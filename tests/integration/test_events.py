"""Following the events of an execution: no gap, no repeat, from any process, to the end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import NotFoundError
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.events import follow
from flexiroaster.service.installation import Installation, open_installation
from tests.integration.test_runs import FUNCTIONS, python
from tests.waiting import eventually


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings.model_copy(update={"python_modules": (FUNCTIONS,)})) as opened:
        yield opened


def start(installation: Installation, *stages: dict) -> str:
    return executions.start(installation, pipelines.create(installation, {"name": "T", "stages": list(stages)}))


def test_readers_in_any_process_see_each_event_once_and_then_the_end(
    installation: Installation, settings: Settings, tmp_path: Path
) -> None:
    """Readers in the driving process and in another installation, from the start, the middle and after the end."""
    go_on = tmp_path / "go-on"
    x = start(
        installation, python("a", "wait_for_file", arguments={"path": str(go_on)}), python("b", "print_many", "a")
    )
    eventually(lambda: executions.get(installation, x).last_seq >= 3)  # no cursor lies beyond the events to come
    seen: dict[str, list[int]] = {}

    def read(name: str, where: Installation, after: int) -> None:
        seen[name] = [event.seq for event in follow(where, x, after, timeout=120)]

    with open_installation(settings) as elsewhere:
        readers = [
            threading.Thread(target=read, args=arguments)
            for arguments in (("here", installation, 0), ("here, later", installation, 3), ("elsewhere", elsewhere, 0))
        ]
        for reader in readers:
            reader.start()
        go_on.touch()
        for reader in readers:
            reader.join()
    last = executions.get(installation, x).last_seq
    assert last > 300
    assert seen == {
        "here": list(range(1, last + 1)),
        "here, later": list(range(4, last + 1)),
        "elsewhere": list(range(1, last + 1)),
    }
    read("after the end", installation, last - 2)
    assert seen["after the end"] == [last - 1, last]


def test_an_abandoned_reader_leaves_nothing_behind(installation: Installation) -> None:
    x = start(installation, python("a", "two"))
    executions.wait(installation, x, timeout=120)
    gc.collect()
    gc.freeze()  # what is there already need not be gone through
    try:
        for _ in range(60):
            assert [event.seq for event in islice(follow(installation, x), 2)] == [1, 2]
        gc.collect()
        alive = [item for item in gc.get_objects() if isinstance(item, threading.Event)]
    finally:
        gc.unfreeze()
    assert len(alive) < 30, "each reader has one; threads that start meanwhile have some as well"


def test_an_unknown_execution_cannot_be_followed(installation: Installation) -> None:
    with pytest.raises(NotFoundError, match=r"^Execution not found: nobody$"):
        next(follow(installation, "nobody"))
