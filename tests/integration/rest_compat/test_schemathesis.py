"""Requests generated from the OpenAPI document get the documented responses: examples, coverage, fuzzing and sequences
of calls.

`SCHEMATHESIS_EXAMPLES=150` makes more than 5,000 requests, `FAULT_TRIALS=full` takes both databases.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.tiers import DATABASES, full
from tests.integration.rest_compat.client import Rest

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "3")

# A definition takes 0 for false and "5" for 5, as YAML and older clients write them: of its two calls alone it is not
# asked that all be refused which the description does not allow. What is refused there has tests of its own.
LENIENT = ["create_pipeline", "update_pipeline"]
STRICT = [option for name in LENIENT for option in ("--exclude-operation-id", name)]


@pytest.mark.parametrize("rest_settings", DATABASES if full() else ("postgresql",), indirect=True)
@pytest.mark.parametrize(
    ("options", "operations", "least"),
    [(["--exclude-checks", "negative_data_rejection"], 26, 500), (STRICT, 24, 300)],
    ids=["everything", "refusals"],
)
def test_every_generated_request_gets_a_documented_response(
    rest: Rest, options: list[str], operations: int, least: int
) -> None:
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)]
    common = ["--checks", "all", "--max-examples", EXAMPLES, "--continue-on-failure", "--request-timeout", "60"]
    location = f"{rest.url}/api/openapi.json"
    command = [*program, "run", location, *common, *options, "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (made, passed) = re.findall(r"(\d+) generated, (\d+) passed", done.stdout)[0]
    print(f"{made} requests")
    assert made == passed
    assert int(made) > least  # it really has seen the description
    assert re.search(rf"Tested: {operations}\b", done.stdout)
