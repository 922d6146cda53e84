"""Rows sent to a real local server."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from flexiroaster.errors import ErrorClass
from flexiroaster.operators.base import Access
from flexiroaster.operators.outputs.http import HttpOutput, HttpOutputConfig
from tests.unit.operators.output_attempts import context, error_of

DATA = pl.DataFrame({"id": [1, 2, 3, 4, 5], "name": ["a", "b", None, "d", "e"]})


class Receiver:
    """A server that notes what it gets and answers as scripted; 200 when the script is at its end.

    An answer is a status, or (status, headers, body); the status 0 breaks the connection off.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.script: list[Any] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append((self.command, self.path, headers, body))
                scripted = receiver.script.pop(0) if receiver.script else 200
                status, given, text = scripted if isinstance(scripted, tuple) else (scripted, {}, "")
                if status == 0:
                    self.connection.close()
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **given}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the names http.server calls

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/rows"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def keys(self) -> list[str]:
        return [headers["idempotency-key"] for _, _, headers, _ in self.requests]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, _, _, body in self.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Record the waits between attempts instead of waiting."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


ACCESS = Access(http_hosts=("127.0.0.1",), secrets={"TOKEN": "swordfish", "BAD": "sword\nfish"})


def operator(receiver: Receiver, **config: object) -> HttpOutput:
    return HttpOutput(HttpOutputConfig.model_validate({"url": receiver.url, **config}))


def run(receiver: Receiver, data: pl.DataFrame = DATA, access: Access = ACCESS, **config: object):
    return operator(receiver, **config).run(context(data, access))


def undo(receiver: Receiver, effect: dict[str, object] | None = None, **config: object) -> str:
    return operator(receiver, **config).undo(effect or {}, context(pl.DataFrame(), ACCESS, "e/1"))


def test_batches_are_sent_in_order_each_with_its_key(receiver):
    receiver.script = [200, 201, 200]
    result = run(receiver, batch_size=2)
    assert receiver.bodies == [DATA[:2].to_dicts(), DATA[2:4].to_dicts(), DATA[4:].to_dicts()]
    assert receiver.keys == ["e1/save/0", "e1/save/1", "e1/save/2"]
    assert {(method, path, headers["content-type"]) for method, path, headers, _ in receiver.requests} == {
        ("POST", "/rows", "application/json")
    }
    assert result.effect == {
        "kind": "http",
        "url": receiver.url,
        "batches": 3,
        "rows": 5,
        "statuses": {"200": 2, "201": 1},
        "undoable": False,
    }
    assert result.report == {"rows": 5, "url": receiver.url, "batches": 3}
    assert result.passthrough_stage == "in"


def test_a_repeated_attempt_sends_the_same_rows_under_the_same_keys(receiver):
    for _ in range(2):
        run(receiver, batch_size=2)
    assert receiver.keys[:3] == receiver.keys[3:]
    assert receiver.bodies[:3] == receiver.bodies[3:]


def test_ndjson_and_put(receiver):
    run(receiver, format="ndjson", method="PUT")
    ((method, _, headers, body),) = receiver.requests
    assert (method, headers["content-type"]) == ("PUT", "application/x-ndjson")
    assert [json.loads(line) for line in body.decode().splitlines()] == DATA.to_dicts()


def test_an_object_around_the_rows(receiver):
    run(receiver, DATA[:1], body_key='re"cords')
    assert receiver.bodies == [{'re"cords': [{"id": 1, "name": "a"}]}]


def test_values(receiver):
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 600)
    values = {
        "nan": float("nan"),
        "inf": float("inf"),
        "at": at,
        "zoned": at.replace(tzinfo=dt.UTC),
        "on": at.date(),
        "clock": at.time(),
        "span": dt.timedelta(days=-2, seconds=1.5),
        "price": Decimal("1.20"),
        "raw": b"\x00\xff",
        "nested": [{"x": float("nan"), "on": at.date()}],
    }
    data = pl.DataFrame({name: [value] for name, value in values.items()}).with_columns(
        big=pl.lit(2**63, dtype=pl.UInt64), huge=pl.lit(2**100, dtype=pl.Int128)
    )
    run(receiver, data)
    assert receiver.bodies == [
        [
            {
                "nan": None,
                "inf": None,
                "at": "2026-01-02T03:04:05.000600",
                "zoned": "2026-01-02T03:04:05.000600+00:00",
                "on": "2026-01-02",
                "clock": "03:04:05.000600",
                "span": "-P1DT86398.5S",
                "price": "1.20",
                "raw": "AP8=",
                "nested": [{"x": None, "on": "2026-01-02"}],
                "big": 2**63,
                "huge": str(2**100),
            }
        ]
    ]


def test_an_input_without_rows_sends_nothing(receiver, caplog):
    for data in (pl.DataFrame(), DATA.head(0)):
        effect = run(receiver, data).effect
        assert (effect["batches"], effect["rows"], effect["undoable"]) == (0, 0, True)
        assert undo(receiver, effect) == "nothing was sent"
    assert receiver.requests == []
    assert "the input has no rows: nothing is sent" in caplog.text


def test_progress_is_told(receiver):
    progress = []
    attempt = context(DATA, ACCESS)
    object.__setattr__(attempt, "report_progress", lambda fraction, message: progress.append((fraction, message)))
    operator(receiver, batch_size=4).run(attempt)
    assert progress == [(0.8, "4 of 5 rows sent"), (1.0, "5 of 5 rows sent")]


# headers


def test_secrets_go_into_headers_and_nowhere_else(receiver, caplog):
    receiver.script = [(422, {}, 'bad rows, Bearer? "swordfish" given')]
    error = error_of(run, receiver, headers={"Authorization": {"secret": "TOKEN"}, "X-Kind": "demo"})
    headers = receiver.requests[0][2]
    assert (headers["authorization"], headers["x-kind"]) == ("swordfish", "demo")
    assert error.message == (f'POST {receiver.url}: 422 Unprocessable Entity: bad rows, Bearer? "***" given')
    assert "swordfish" not in caplog.text


def test_a_content_type_of_ones_own(receiver):
    run(receiver, headers={"content-type": "application/vnd.rows+json"})
    assert receiver.requests[0][2]["content-type"] == "application/vnd.rows+json"


def test_a_user_and_a_password_in_the_url(receiver):
    url = receiver.url.replace("//", "//me:swordfish@")
    receiver.script = [401]
    error = error_of(run, receiver, url=url + "?key=swordfish")
    assert receiver.requests[0][2]["authorization"].startswith("Basic ")
    assert error.message == f"POST {receiver.url}?key=...: 401 Unauthorized"
    assert run(receiver, url=url + "?key=swordfish").effect["url"] == f"{receiver.url}?key=..."


def test_secrets_that_are_absent_or_no_header_values(receiver):
    error = error_of(run, receiver, headers={"X": {"secret": "NONE"}})
    assert error.message == "secret 'NONE' is not set: set FLEXIROASTER_SECRET_NONE"
    error = error_of(run, receiver, headers={"X": {"secret": "BAD"}})
    assert error.message == "headers: the value of 'X' has characters that a header cannot have"
    assert receiver.requests == []


# failures


@pytest.mark.parametrize("failure", [429, 502, 503, 504, 0])
def test_passing_failures_are_waited_out_with_the_same_key(receiver, failure, waits, caplog):
    receiver.script = [failure, failure, 200]
    assert run(receiver).effect["statuses"] == {"200": 1}
    assert receiver.keys == ["e1/save/0"] * 3
    assert len(waits) == 2
    assert all(0 <= wait <= 30 for wait in waits)
    assert "next attempt in" in caplog.text


def test_retry_after_is_honoured(receiver, waits):
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=40)
    receiver.script = [
        (503, {"Retry-After": "7"}, ""),
        (429, {"Retry-After": moment.strftime("%a, %d %b %Y %H:%M:%S GMT")}, ""),
    ]
    run(receiver)
    assert waits[0] == 7
    assert 30 < waits[1] <= 40


def test_who_asks_for_a_long_wait_gets_a_later_attempt_of_the_stage(receiver, waits):
    receiver.script = [(429, {"Retry-After": "600"}, "")]
    error = error_of(run, receiver)
    assert (error.error_class, error.retry_after) == (ErrorClass.TRANSIENT, 600)
    assert waits == []


def test_attempts_are_limited(receiver, waits):
    receiver.script = [503] * 9
    error = error_of(run, receiver, max_retries=2)
    assert error.message == f"POST {receiver.url}: 503 Service Unavailable"
    assert error.error_class is ErrorClass.TRANSIENT
    assert (len(receiver.requests), len(waits)) == (3, 2)


def test_nobody_listens(receiver, waits):
    receiver.server.server_close()
    error = error_of(run, receiver, max_retries=1)
    assert error.error_class is ErrorClass.TRANSIENT
    assert error.message.startswith(f"POST {receiver.url}: ")
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "Bad Request", ErrorClass.DATA),
        (409, "Conflict", ErrorClass.DATA),
        (413, "Request Entity Too Large", ErrorClass.DATA),
        (401, "Unauthorized", ErrorClass.CONFIGURATION),
        (404, "Not Found", ErrorClass.CONFIGURATION),
        (500, "Internal Server Error", ErrorClass.TRANSIENT),
    ],
)
def test_other_answers_end_the_attempt_at_once(receiver, status, reason, kind, waits):
    receiver.script = [200, status]
    error = error_of(run, receiver, batch_size=2)
    assert (error.message, error.error_class) == (f"POST {receiver.url}: {status} {reason}", kind)
    assert (len(receiver.requests), waits) == (2, [])


def test_redirects_are_not_followed(receiver):
    receiver.script = [(307, {"Location": "http://169.254.169.254/"}, "")]
    error = error_of(run, receiver)
    assert error.message.endswith(
        "307 Temporary Redirect; redirects are not followed, so use the URL that this one leads to"
    )
    assert error.error_class is ErrorClass.CONFIGURATION
    assert len(receiver.requests) == 1


def test_a_long_answer_is_shown_in_part(receiver):
    receiver.script = [(400, {}, "x" * 5000)]
    assert error_of(run, receiver).message.endswith(f"400 Bad Request: {'x' * 200}")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_private_addresses_are_refused(receiver, host):
    url = receiver.url.replace("127.0.0.1", host)
    error = error_of(run, receiver, access=Access(), url=url)
    assert error.error_class is ErrorClass.CONFIGURATION
    assert "private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it" in error.message
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("config", "path", "expected"),
    [
        ({"url": "ftp://example.com/x"}, "url", "must be an http:// or https:// URL"),
        ({"url": "http://example.com:99999/x"}, "url", "is not a valid URL"),
        (
            {"url": "http://[::1]/x"},
            "url",
            "::1 is a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it",
        ),
        ({"undo": {"url": "nothing"}}, "undo.url", "must be an http:// or https:// URL"),
        ({"headers": {"idempotency-KEY": "x"}}, "headers.idempotency-KEY", "is set by this output itself"),
        (
            {"format": "ndjson", "body_key": "rows"},
            "body_key",
            "applies to json: ndjson has no object around its lines",
        ),
    ],
)
def test_what_the_check_of_a_definition_finds(config, path, expected):
    made = HttpOutput(HttpOutputConfig.model_validate({"url": "https://example.com/x", **config}))
    (problem,) = made.check(("in",), ACCESS)
    assert (problem.path, problem.message) == (path, expected)
    error = error_of(made.run, context(DATA, ACCESS))
    assert error.message == f"config.{path}: {expected}"


@pytest.mark.parametrize(
    "config", [{"method": "GET"}, {"batch_size": 0}, {"undo": {"url": "x", "method": "GET"}}, {"x": 1}]
)
def test_malformed_configs(config):
    with pytest.raises(ValidationError):
        HttpOutputConfig.model_validate({"url": "https://example.com/x", **config})


# undo


def test_without_a_declared_request_there_is_no_undo(receiver):
    effect = run(receiver).effect
    error = error_of(undo, receiver, effect)
    assert error.message == "cannot be undone: the stage declares no `undo` request"
    assert error.error_class is ErrorClass.CONFIGURATION


def test_the_declared_request_is_sent_with_a_key_of_its_own(receiver):
    url = f"{receiver.url}/{{execution_id}}?stage={{stage_id}}"
    config = {
        "headers": {"Authorization": {"secret": "TOKEN"}, "X": "general"},
        "undo": {"url": url, "headers": {"x": "own"}},
    }
    assert run(receiver, **config).effect["undoable"] is True
    receiver.requests.clear()
    assert undo(receiver, **config) == f"DELETE {receiver.url}/e%2F1?stage=... answered 200"
    ((method, path, headers, body),) = receiver.requests
    assert (method, path, body) == ("DELETE", "/rows/e%2F1?stage=save", b"")
    assert headers["idempotency-key"] == "e/1/save/undo"
    assert (headers["authorization"], headers["x"]) == ("swordfish", "own")


def test_a_request_with_a_body(receiver):
    body = {"undo": ["{execution_id}", {"stage": "{stage_id}", "other": "{x}"}], "n": 1}
    undo(receiver, undo={"url": receiver.url, "method": "POST", "body": body})
    ((method, _, headers, _),) = receiver.requests
    assert (method, headers["content-type"]) == ("POST", "application/json")
    assert receiver.bodies == [{"undo": ["e/1", {"stage": "save", "other": "{x}"}], "n": 1}]


def test_credentials_do_not_go_to_another_origin(receiver):
    other = Receiver()
    undo(receiver, headers={"Authorization": {"secret": "TOKEN"}}, undo={"url": other.url})
    other.server.shutdown()
    other.server.server_close()
    assert "authorization" not in other.requests[0][2]


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_already_need_not_be_deleted(receiver, status):
    receiver.script = [status, status]
    assert undo(receiver, undo={"url": receiver.url}) == f"DELETE {receiver.url} answered {status}"
    error = error_of(undo, receiver, undo={"url": receiver.url, "method": "POST"})
    assert error.error_class is ErrorClass.CONFIGURATION


def test_an_undo_is_retried_and_may_be_repeated(receiver, waits):
    receiver.script = [503, 200, 200]
    for _ in range(2):
        undo(receiver, undo={"url": receiver.url})
    assert receiver.keys == ["e/1/save/undo"] * 3
    assert len(waits) == 1
