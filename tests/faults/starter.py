"""A program that starts executions of one pipeline, as many as it is told, from several threads at once.

It waits for a file before it begins, so that several of it begin together, and prints what came of it as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flexiroaster.config import load_settings
from flexiroaster.errors import ConflictError
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import open_installation


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline")
    parser.add_argument("count", type=int)
    parser.add_argument("--go", type=Path, help="begin when this file is there")
    parser.add_argument("--key", help="the idempotency key of every start")
    parser.add_argument("--drive", action="store_true", help="drive the executions in this process")
    given = parser.parse_args()
    with open_installation(load_settings()) as installation:
        revision = pipelines.get(installation, given.pipeline)

        def start(_number: int) -> str:
            try:
                return executions.start(installation, revision, idempotency_key=given.key, drive=given.drive)
            except ConflictError:
                return "refused"

        print("ready", flush=True)
        while given.go is not None and not given.go.exists():
            time.sleep(0.001)
        with ThreadPoolExecutor(given.count) as threads:
            print(json.dumps(list(threads.map(start, range(given.count)))), flush=True)


if __name__ == "__main__":
    main()
