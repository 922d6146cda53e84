"""A slow pipeline, so that clients have something to follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["slow_chain"]


def slow_chain(
    stages: int, seconds: float, gate: Path | None = None, second_gate: Path | None = None
) -> list[dict[str, Any]]:
    """A chain of stages of this duration. The first waits for the file `gate`, the middle one for `second_gate`."""
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
