"""The README's five minutes with the API: its commands work against the server that it starts."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from typing import Any

import httpx

from tests.acceptance.test_readme import blocks, section
from tests.integration.graphql_api.served import served

SECTION = section("Five minutes with the API")
ID = re.compile(r"exec-[0-9a-f]{20}")


def pasted(block: str) -> tuple[dict[str, str], str]:
    """The headers and the body of a curl command that spans several lines."""
    words = shlex.split(block.partition("\n{")[0].removeprefix("$ "))
    assert words[0] == "curl"
    options = dict(pairwise(words))
    headers = [words[i + 1] for i, word in enumerate(words) if word == "-H"]
    return dict(header.split(": ", 1) for header in headers), options["-d"]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """All events of a stream of payloads."""
    found = []
    kind = ""
    for line in response.iter_lines():
        if line.startswith("event:"):
            kind = line.partition(":")[2].strip()
        elif line.startswith("data:") and kind == "next":
            found += json.loads(line.partition(":")[2])["data"]["executionEvents"]["events"]
    assert kind == "complete"
    return found


def test_the_flights_pipeline_is_started_and_followed_to_its_end() -> None:
    _serve, start, watch = blocks("console", SECTION)
    with served("--demo") as server:
        headers, body = pasted(start)
        answer = httpx.post(f"{server.url}/graphql", content=body, headers=headers, timeout=60).json()
        execution_id = answer["data"]["startExecution"]["execution"]["executionId"]
        assert ID.fullmatch(execution_id)
        headers, body = pasted(watch)
        body = ID.sub(execution_id, body)
        with httpx.stream("POST", f"{server.url}/graphql", content=body, headers=headers, timeout=120) as response:
            seen = events(response)
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["type"] == "EXECUTION_COMPLETED"
    assert sum(event["type"] == "STAGE_COMPLETED" for event in seen) == 12
