"""The examples of docs/graphql.md, run unchanged and in order against a running server."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexiroaster.config import load_settings
from flexiroaster.service.executions import executions
from flexiroaster.store import commands
from tests.integration.graphql_api.running import Api, serving
from tests.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "graphql.md"
ANY = "…"
STARTED = "exec-…"


@dataclass
class Example:
    """A document of the page, with the variables and the response that follow it."""

    document: str
    variables: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None
    line: int = 0


@dataclass
class Reader:
    """A reader who tries the examples of the page."""

    api: Api
    execution_id: str = ""
    done: list[str] = field(default_factory=list)

    def try_out(self, example: Example) -> None:
        """Run an example and compare the response; remember the newest execution."""
        document = example.document.replace(STARTED, self.execution_id)
        if document.startswith("subscription"):
            self.watch(document)
            return
        data = self.api.data(document, example.variables)
        for payload in data.values():
            if isinstance(payload, dict) and "executionId" in (payload.get("execution") or {}):
                self.execution_id = payload["execution"]["executionId"]
                self.settle()
        assert example.answer is not None, f"{PAGE.name}:{example.line} shows no answer"
        assert alike(example.answer, data), f"{PAGE.name}:{example.line}: {json.dumps(data, indent=2)}"

    def settle(self) -> None:
        """Wait until all commands have been applied and the execution has ended or is paused."""
        installation, id_ = self.api.installation, self.execution_id
        eventually(lambda: not commands.pending(installation.database, [id_]))
        executions.wait(installation, id_, timeout=60)

    def watch(self, document: str) -> None:
        """Follow the execution to its end, over server-sent events."""
        headers = {"accept": "text/event-stream"}
        with self.api.http.stream("POST", self.api.url, json={"query": document}, headers=headers) as response:
            lines = list(response.iter_lines())
        payloads = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith('data: {"data"')]
        events = [event for payload in payloads for event in payload["data"]["executionEvents"]["events"]]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["type"] == "EXECUTION_COMPLETED"
        assert "event: complete" in lines


def alike(shown: object, given: object) -> bool:
    """Whether a response equals the one shown; `…` matches anything."""
    if isinstance(shown, str) and shown.endswith(ANY):
        return shown == ANY or (isinstance(given, str) and given.startswith(shown.removesuffix(ANY)))
    if isinstance(shown, dict):
        return (
            isinstance(given, dict) and shown.keys() == given.keys() and all(alike(shown[k], given[k]) for k in shown)
        )
    if isinstance(shown, list):
        return isinstance(given, list) and len(shown) == len(given) and all(map(alike, shown, given))
    return shown == given


def examples() -> list[Example]:
    """The examples of the page, in order."""
    found: list[Example] = []
    text = PAGE.read_text()
    for match in re.finditer(r"^```(graphql|json variables|json answer)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        kind, body = match.groups()
        if kind == "graphql":
            found.append(Example(body, line=text.count("\n", 0, match.start()) + 1))
        elif kind == "json variables":
            found[-1].variables = json.loads(body)
        else:
            found[-1].answer = json.loads(body)
    return found


def test_the_examples_return_what_the_page_shows(tmp_path: Path) -> None:
    settings = load_settings(database_url=f"sqlite:///{tmp_path / 'docs.db'}", redis_url="")
    with serving(settings) as api:
        api.installation.start_claiming()
        reader = Reader(api)
        shown = examples()
        assert len(shown) >= 14
        for example in shown:
            reader.try_out(example)


def test_every_root_field_has_an_example() -> None:
    from graphql_api.schema import schema

    text = PAGE.read_text()
    roots = [schema._schema.query_type, schema._schema.mutation_type, schema._schema.subscription_type]
    fields = [name for root in roots if root is not None for name in root.fields]
    assert [name for name in fields if not re.search(rf"\b{name}\b", text)] == []
