"""50 clients for a minute, reads and starts mixed, on PostgreSQL: what they wait for, and that nothing fails.

Once with nothing in the way; once a worker is killed and Redis stopped after 20 seconds, both to be back 20 seconds
later. The bare route is asked by as many clients in the same run: what is left over it is the product.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flexiroaster.config import load_settings
from tests.faults.load import Clients, loaded
from tests.faults.load_clients import Seen
from tests.proxy import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
CLIENTS, SECONDS, BARE_SECONDS = 50, 60, 10
FAULTS = {"kill_after": 20.0, "away": 20.0}


@contextmanager
def bare() -> Iterator[str]:
    """The address of the bare server."""
    port = free_port()
    program = [sys.executable, "-m", "uvicorn", "tests.bench.bare:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen([*program, "--no-access-log"], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(answers, 60)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def spread(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    return {"count": len(times), "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}


def figures(seen: Seen) -> dict[str, Any]:
    """Calls a second, and how long they took, in milliseconds."""
    calls = len(seen.reads) + len(seen.starts)
    starts = {"starts": spread(seen.starts)} if seen.starts else {}
    return {"rate": calls / seen.seconds, "reads": spread(seen.reads), **starts}


@pytest.mark.parametrize("meanwhile", ["nothing", "faults"])
def test_load(benchmark: Any, meanwhile: str, postgres_url: str, tmp_path: Path) -> None:
    with bare() as url:
        asking = Clients(url, CLIENTS, BARE_SECONDS)
        asking.wait_until_asking()
        peer = asking.result()
    assert peer.errors == []
    settings = load_settings(database_url=postgres_url, executor_workers=2)
    with loaded(settings, tmp_path) as installation:
        faults = FAULTS if meanwhile == "faults" else {}
        seen = benchmark.pedantic(lambda: installation.asked(CLIENTS, SECONDS, **faults), rounds=1)
        print(meanwhile, figures(seen), "bare", figures(peer), seen.errors[:10])
        print({name: spread(times) for name, times in seen.times.items()})
        assert seen.errors == []
        assert installation.violations(seen) == []
    benchmark.extra_info["load"] = {"ours": figures(seen), "peer": figures(peer)}
