"""npm's own clients against a running server: graphql-ws over a WebSocket, graphql-sse over server-sent events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import load_settings
from flexiroaster.service.executions import executions
from tests.integration.graphql_api.running import serving
from tests.integration.graphql_api.served import CREATE
from tests.integration.graphql_api.slow_chain import slow_chain
from tests.node import run

STAGES = 5


@pytest.mark.parametrize("client", ["ws", "sse"])
def test_queries_mutations_and_subscriptions(client: str, tmp_path: Path) -> None:
    settings = load_settings(
        database_url=f"sqlite:///{tmp_path / 'api.db'}",
        python_modules=("tests.integration.stages",),
        executor_workers=1,
    )
    with serving(settings) as api:
        api.installation.start_claiming()
        saved = api.data(CREATE, {"pipeline": {"name": "slow", "stages": slow_chain(STAGES, 0.05, tmp_path / "go")}})
        answers = run("clients.mjs", client, api.url, saved["createPipeline"]["pipeline"]["id"], str(tmp_path / "go"))
        (execution,) = executions.page(api.installation).items
    assert answers["query"]["data"] == {"viewer": {"name": "local", "role": "ADMIN"}}
    assert "nothing" in str(answers["refused"]["errors"])
    live = answers["live"]
    assert numbers(live) == list(range(1, execution.last_seq + 1))
    assert live[-1]["execution"]["status"] == "COMPLETED"
    assert len(live) > 1  # the execution went on only after the first payload had come
    assert numbers(live[:1]) + numbers(answers["resumed"]) == numbers(live)


def numbers(batches: list[dict[str, Any]]) -> list[int]:
    return [event["seq"] for batch in batches for event in batch["events"]]
