"""A pipeline that takes a while, so that there is something to follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["slow_chain"]


def slow_chain(
    stages: int, seconds: float, gate: Path | None = None, second_gate: Path | None = None
) -> list[dict[str, Any]]:
    """Stages one after another, each of which takes so long; the first waits for the file `gate`, the one in the middle
    for `second_gate`.
    """
    gates = {0: gate, stages // 2: second_gate}
    chain = []
    for number in range(stages):
        function, arguments = "sleep_for", {"seconds": seconds}
        if (path := gates.get(number)) is not None:
            function, arguments = "wait_for_file", {"path": str(path)}
        config = {"operation": "python", "function": f"tests.integration.stages:{function}", "arguments": arguments}
        before = [f"s{number - 1}"] if number else []
        chain.append({"id": f"s{number}", "type": "TRANSFORM", "config": config, "dependencies": before})
    return chain
