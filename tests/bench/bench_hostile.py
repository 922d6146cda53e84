"""What hostile operations cost the server: CPU time from the text to the refusal, each at most 50 ms."""

from __future__ import annotations

from time import process_time

from flexiroaster.model.viewer import Role
from flexiroaster.web.thread_pool import RefusedError
from graphql_api.documents import Documents
from tests.unit.graphql_api.hostile import HOSTILE
from tests.unit.graphql_api.small_schema import schema

MOST_SECONDS = 0.050
ROUNDS = 5


def cost(documents: Documents, text: str) -> float:
    """Seconds of CPU."""
    began = process_time()
    try:
        documents.operation(text, Role.ADMIN)
    except RefusedError:
        return process_time() - began
    raise AssertionError("it was accepted")


def test_hostile_operations(benchmark) -> None:
    documents = Documents(schema, debug=True)
    costs = {name: min(cost(documents, text) for _ in range(ROUNDS)) for name, text in HOSTILE.items()}
    worst = max(costs, key=costs.__getitem__)
    print(f"{len(costs)} hostile operations, the worst {1000 * costs[worst]:.1f} ms of CPU: {worst}")
    benchmark.extra_info["milliseconds"] = {name: 1000 * seconds for name, seconds in costs.items()}
    assert costs[worst] <= MOST_SECONDS
    benchmark.pedantic(lambda: cost(documents, HOSTILE[worst]), rounds=20)
