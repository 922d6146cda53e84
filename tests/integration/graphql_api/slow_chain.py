"""A pipeline that takes a while, so that there is something to follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["slow_chain"]


def slow_chain(stages: int, seconds: float, gate: Path | None = None) -> list[dict[str, Any]]:
    """Stages one after another, each of which takes so long; the first one waits for the file `gate`."""
    chain = []
    for number in range(stages):
        function, arguments = "sleep_for", {"seconds": seconds}
        if gate is not None and number == 0:
            function, arguments = "wait_for_file", {"path": str(gate)}
        config = {"operation": "python", "function": f"tests.integration.stages:{function}", "arguments": arguments}
        before = [f"s{number - 1}"] if number else []
        chain.append({"id": f"s{number}", "type": "TRANSFORM", "config": config, "dependencies": before})
    return chain
