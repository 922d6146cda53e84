"""The server answers any malformed request with an error of the usual shape, logs nothing, and continues.

`FAULT_TRIALS=full` sends the 10,000 requests of the promise, otherwise a tenth.
"""

from __future__ import annotations

import json
import logging
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from tests.faults.tiers import trials
from tests.integration.graphql_api.malformed import malformed
from tests.integration.graphql_api.running import Api

REQUESTS = trials(1_000, 10_000)
CLIENTS = 8


def shape_problem(answer: httpx.Response) -> str | None:
    """The problem of a response; None if a client can handle it."""
    if answer.status_code >= 500:
        return f"status {answer.status_code}"
    try:
        content = json.loads(answer.content)
    except ValueError:
        return f"not JSON: {answer.text[:100]}"
    if answer.status_code >= 400 and not content.get("errors"):
        return "no errors"
    for error in content.get("errors", []):
        if not isinstance(error.get("message"), str) or not isinstance(error.get("extensions", {}).get("code"), str):
            return f"an error of another shape: {error}"
    return None


def test_malformed_requests_are_the_clients_errors(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def send(number: int) -> tuple[int, str | None]:
        request = malformed(number)
        answer = api.http.post(api.url, content=request.body, headers=request.headers)
        if number % 500 == 0:
            assert api.alive()
        return answer.status_code, shape_problem(answer)

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(send, range(REQUESTS)))
    problems = {number: problem for number, (_, problem) in enumerate(answers) if problem}
    assert not problems
    statuses = [status for status, _ in answers]
    assert statuses.count(400) > REQUESTS / 4  # they are malformed, most of them,
    assert statuses.count(200) > REQUESTS / 50  # and some are not, so the server did look at them
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert api.data('{ echo(text: "fine") }') == {"echo": "fine"}


def test_invalid_http_ends_only_its_own_connection(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(7)
    head = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    beginnings = (
        b"", head, head + b"Content-Length: 5\r\n\r\n", head + b"Content-Length: -1\r\n\r\n",
        head + b"Content-Length: 99999999999999999999999\r\n\r\n", head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET /graphql?query=\xff\xfe HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", head + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    )  # fmt: skip
    for number in range(200):
        with socket.create_connection(("127.0.0.1", api.port), timeout=30) as raw:
            raw.sendall(beginnings[number % len(beginnings)] + chance.randbytes(chance.randrange(1, 200)))
            with suppress(OSError):  # it has hung up, which is right
                raw.shutdown(socket.SHUT_WR)
                while answer := raw.recv(1000):
                    assert b" 500 " not in answer
    assert api.alive()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
