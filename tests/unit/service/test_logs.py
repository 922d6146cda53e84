"""The log of a process: JSON or text, who and what on every line, no secret in any."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import logging, sys
from flexiroaster.config import load_settings
from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.operators.base import Access
from flexiroaster.service.admin import logs
access = Access(secrets={"TOKEN": "hunter2hunter2"}, connections={"w": "postgresql://u:pa55word@h/d"})
logs.configure(load_settings(log_format=sys.argv[1], log_level="INFO"), access, "host:1:abc")
events = [
    Event("x1", 7, EventType.STAGE_FAILED, "failed with hunter2hunter2", level=Level.ERROR, stage_id="a", attempt=2),
    Event("x1", 8, EventType.STAGE_PROGRESS, "50 %", level=Level.DEBUG),
]
logs.log_events()(events)
logging.getLogger("other").debug("not shown")
try:
    raise ValueError("postgresql://u:pa55word@h/d refused")
except ValueError:
    logging.getLogger("other").exception("it failed")
"""


def lines(log_format: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, log_format], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    assert "pa55word" not in done.stderr
    return done.stderr.splitlines()


def test_json() -> None:
    first, second = map(json.loads, lines("json"))
    assert {name: first[name] for name in ("event", "level", "execution", "stage", "attempt", "worker", "seq")} == {
        "event": "failed with ***",
        "level": "error",
        "execution": "x1",
        "stage": "a",
        "attempt": 2,
        "worker": "host:1:abc",
        "seq": 7,
    }
    assert second["event"] == "it failed"
    assert second["exception"][0]["exc_type"] == "ValueError"


@pytest.mark.parametrize("part", ["failed with ***", "execution=x1", "stage=a", "worker=host:1:abc", "ValueError"])
def test_text(part: str) -> None:
    assert part in "\n".join(lines("text"))
