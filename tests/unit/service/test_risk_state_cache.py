"""Many who ask at once what is known of the past: the runs that have ended are taken over for all of them together."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from flexiroaster.config import load_settings
from flexiroaster.service.installation import open_installation
from flexiroaster.service.safety import risk_state_cache
from flexiroaster.store.database import Database
from flexiroaster.store.safety.risk import Progress
from tests.waiting import eventually


def test_who_waited_for_one_that_began_later_does_not_look_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    looks: list[str] = []
    go_on = threading.Event()
    real = risk_state_cache.check_progress

    def now() -> float:
        asked.append(time.monotonic())
        return asked[-1]

    def look(database: Database, since: Progress | None) -> tuple[Progress, bool]:
        looks.append(threading.current_thread().name)
        assert go_on.wait(60)
        return real(database, since)

    monkeypatch.setattr(risk_state_cache, "monotonic", now)
    monkeypatch.setattr(risk_state_cache, "check_progress", look)
    with open_installation(load_settings(database_url=f"sqlite:///{tmp_path / 'k.db'}")) as installation:
        known = installation.risk_state
        first = threading.Thread(target=known.catch_up, name="first")
        first.start()
        eventually(lambda: looks == ["first"])
        others = [threading.Thread(target=known.catch_up) for _ in range(5)]
        for other in others:
            other.start()
        eventually(lambda: len(asked) == 2 + len(others))  # all have asked, and wait for the first
        go_on.set()
        for thread in (first, *others):
            thread.join()
        assert len(looks) == 2, "the first began before the others asked; one of them did it for all"
        known.catch_up()
        assert len(looks) == 3
