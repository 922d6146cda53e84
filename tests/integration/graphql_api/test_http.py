"""GraphQL over HTTP, against a running server."""

from __future__ import annotations

import gzip
import json
import logging
import socket
from typing import Any

import httpx
import pytest

from flexiroaster.web.request_guard import MAX_BODY
from graphql_api.transport import requests
from tests.integration.graphql_api.running import Api

NAME = "{ run { name } }"


def code_of(response: httpx.Response) -> str:
    """The code of the one error; every error response has this shape."""
    errors = response.json()["errors"]
    assert all(set(error) <= {"message", "locations", "path", "extensions"} for error in errors)
    return str(errors[0]["extensions"]["code"])


def sent(api: Api, body: bytes, **headers: str) -> httpx.Response:
    given = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return api.http.post(api.url, content=body, headers=given)


# --- what an answer looks like ----------------------------------------------------------------------------------------


def test_a_query_by_post_and_by_get(api: Api) -> None:
    assert api.data(NAME) == {"run": {"name": "r"}}
    by_get = api.http.get(api.url, params={"query": "query($t: String!) { echo(text: $t) }", "variables": '{"t": "é"}'})
    assert by_get.json() == {"data": {"echo": "é"}}


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, requests.JSON),
        ("*/*", requests.JSON),
        ("application/*", requests.JSON),
        ("application/json", requests.JSON),
        ("application/graphql-response+json", requests.GRAPHQL),
        ("application/graphql-response+json, application/json;q=0.9", requests.GRAPHQL),
        ("application/graphql-response+json;q=0.5, application/json", requests.JSON),
        ("application/graphql-response+json;q=zero, application/json;q=0.1", requests.JSON),
    ],
)
def test_the_client_chooses_the_media_type(api: Api, accept: str | None, media_type: str) -> None:
    client = httpx.Client(headers={"accept": accept} if accept else {}, timeout=60)
    if accept is None:
        del client.headers["accept"]
    with client:
        answer = client.post(api.url, json={"query": NAME})
    assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"


def test_another_media_type_is_not_acceptable(api: Api) -> None:
    answer = api.post(NAME, accept="text/plain")
    assert (answer.status_code, code_of(answer)) == (406, "NOT_ACCEPTABLE")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("{ run { name }", 400, "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", 400, "GRAPHQL_VALIDATION_FAILED"),
        ("{ undeclared }", 403, "FORBIDDEN"),
        ("query a { echo } query b { echo }", 400, "BAD_REQUEST"),
        ("query ($n: Int!) { echo(number: $n) }", 400, "BAD_USER_INPUT"),
        ("{ " + "a: echo " * 3000 + "}", 400, "GRAPHQL_PARSE_FAILED"),
        ("subscription { ticks }", 400, "BAD_REQUEST"),
    ],
)
def test_a_refused_operation_has_errors_and_no_data(api: Api, query: str, status: int, code: str) -> None:
    answer = api.post(query, accept=requests.GRAPHQL)
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert "data" not in answer.json()


def test_clients_that_know_only_json_get_200_for_an_operation_that_is_refused(api: Api) -> None:
    answer = api.post("{ nothing }", accept="application/json")
    assert (answer.status_code, code_of(answer)) == (200, "GRAPHQL_VALIDATION_FAILED")


def test_partial_data_comes_with_its_errors(api: Api) -> None:
    answer = api.post('{ echo(text: "a") missing(name: "x") }', accept=requests.GRAPHQL)
    assert answer.status_code == 200
    assert answer.json() == {
        "data": {"echo": "a", "missing": None},
        "errors": [
            {
                "message": "there is no x",
                "locations": [{"line": 1, "column": 19}],
                "path": ["missing"],
                "extensions": {"code": "not_found", "name": "x"},
            }
        ],
    }


def test_large_responses_are_compressed_if_the_client_accepts_it(api: Api) -> None:
    text = "x" * 5000
    query, variables = "query($t: String!) { echo(text: $t) }", {"t": text}
    with api.http.stream(
        "POST", api.url, json={"query": query, "variables": variables}, headers={"accept-encoding": "gzip"}
    ) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in answer.headers["vary"]
    assert len(raw) < 500
    assert json.loads(gzip.decompress(raw)) == {"data": {"echo": text}}
    plain = api.post(query, variables, accept_encoding="identity")
    assert "content-encoding" not in plain.headers
    assert plain.json() == {"data": {"echo": text}}


def test_every_response_has_the_id_of_its_request(api: Api) -> None:
    chosen = api.post("{ requestId }", x_request_id="order-17.a")
    assert chosen.headers["x-request-id"] == "order-17.a"
    assert chosen.json()["data"]["requestId"] == "order-17.a"
    given = [api.post("{ requestId }", x_request_id="not an id\t!").headers["x-request-id"] for _ in range(2)]
    assert len(set(given)) == 2
    assert api.http.get(api.url.replace("graphql", "nothing")).headers["x-request-id"]


# --- methods ----------------------------------------------------------------------------------------------------------


def test_mutations_need_post(api: Api) -> None:
    answer = api.http.get(api.url, params={"query": 'mutation { start(name: "x") { name } }'})
    assert (answer.status_code, code_of(answer), answer.headers["allow"]) == (405, "METHOD_NOT_ALLOWED", "POST")
    assert api.data('mutation { start(name: "x") { name } }') == {"start": {"name": "x"}}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(api: Api, method: str) -> None:
    answer = api.http.request(method, api.url)
    assert (answer.status_code, code_of(answer)) == (405, "METHOD_NOT_ALLOWED")


def test_an_unknown_path_gets_an_error_of_the_usual_shape(api: Api) -> None:
    answer = api.http.get(api.url.replace("graphql", "nothing"))
    assert (answer.status_code, code_of(answer)) == (404, "NOT_FOUND")


# --- the shape of a request -------------------------------------------------------------------------------------------

OK = b'{"query": "{ echo }"}'


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "BAD_REQUEST"),
        (b"null", 400, "BAD_REQUEST"),
        (b"1", 400, "BAD_REQUEST"),
        (b'"x"', 400, "BAD_REQUEST"),
        (b"[" + OK + b"]", 400, "BAD_REQUEST"),
        (b"{}", 400, "BAD_REQUEST"),
        (b'{"query": null}', 400, "BAD_REQUEST"),
        (b'{"query": " "}', 400, "BAD_REQUEST"),
        (b'{"query": ["{ echo }"]}', 400, "BAD_REQUEST"),
        (b'{"query": "{ echo }", "variables": []}', 400, "BAD_REQUEST"),
        (b'{"query": "{ echo }", "operationName": 1}', 400, "BAD_REQUEST"),
        (b'{"query": "{ echo }", "extensions": "x"}', 400, "BAD_REQUEST"),
        (b'{"query": "{ echo }"', 400, "BAD_REQUEST"),
        (b'{"query": "\xff"}', 400, "BAD_REQUEST"),
        (b'{"query": "\\ud800"}', 400, "BAD_REQUEST"),
        (b'\xef\xbb\xbf{"query": "{ echo }"}', 400, "BAD_REQUEST"),
        (OK.replace(b"}", b', "variables": {"a": NaN}}', 1), 400, "BAD_REQUEST"),
        (b'{"query": "{ echo }", "variables": {"a": ' + b"[" * 65 + b"]" * 65 + b"}}", 400, "BAD_REQUEST"),
        (b"[" * 100_000, 400, "BAD_REQUEST"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "BAD_REQUEST"),
        (b" " * (MAX_BODY + 1), 413, "BODY_TOO_LARGE"),
    ],
    ids=str,
)
def test_a_malformed_body_is_refused(api: Api, body: bytes, status: int, code: str) -> None:
    answer = sent(api, body)
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_nesting_up_to_the_limit_is_accepted(api: Api) -> None:
    body = b'{"query": "{ echo }", "variables": {"a": ' + b"[" * 60 + b"]" * 60 + b"}}"
    assert sent(api, body).json() == {"data": {"echo": ""}}


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('application/json; charset="UTF-8"', 200),
        ("application/json; charset=utf-16", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/graphql", 415),
        ("application/jsonp", 415),
        ("", 415),
        ("\u00e9", 415),
    ],
)
def test_only_json_is_read(api: Api, content_type: str, status: int) -> None:
    """A page of another site cannot send JSON without a preflight request."""
    headers = [(b"content-type", content_type.encode("latin-1"))]
    assert api.http.post(api.url, content=OK, headers=headers).status_code == status


def test_two_content_types_are_refused(api: Api) -> None:
    headers = [("content-type", "text/plain"), ("content-type", "application/json")]
    answer = api.http.post(api.url, content=OK, headers=headers)
    assert (answer.status_code, code_of(answer)) == (400, "BAD_REQUEST")


def test_a_compressed_body_is_refused(api: Api) -> None:
    assert sent(api, gzip.compress(OK), content_encoding="gzip").status_code == 415


@pytest.mark.parametrize(
    "query_string",
    [
        "",
        "query=",
        "query=%FF",
        "query={echo}&query={echo}",
        "query={echo}&variables=[]",
        "query={echo}&variables={",
        "query={echo}&extensions=1",
        "&".join(f"a{n}=1" for n in range(50)),
    ],
)
def test_a_malformed_query_string_is_refused(api: Api, query_string: str) -> None:
    answer = api.http.get(f"{api.url}?{query_string}")
    assert (answer.status_code, code_of(answer)) == (400, "BAD_REQUEST")


def test_a_body_in_pieces_is_read_up_to_the_limit(api: Api) -> None:
    def pieces(count: int) -> Any:
        yield OK
        for _ in range(count):
            yield b" " * 10_000

    small = api.http.post(api.url, content=pieces(5), headers={"content-type": "application/json"})
    assert small.json() == {"data": {"echo": ""}}
    head = f"POST /graphql HTTP/1.1\r\nHost: localhost:{api.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(MAX_BODY // 10_000 + 1):
            raw.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_disconnects_midway_causes_no_error(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as raw:
        raw.sendall(b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert api.data(NAME)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- errors that nobody expected --------------------------------------------------------------------------------------


def test_an_unexpected_error_is_masked_and_logged_once_without_client_input(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    query = 'query($t: String!) { broken(text: $t) a: broken(text: "literal-hunter2") echo(text: "other") }'
    answer = api.post(query, {"t": "variable-hunter3"}).json()
    assert answer["data"] == {"broken": None, "a": None, "echo": "other"}
    assert [error["message"] for error in answer["errors"]] == ["Internal error"] * 2
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == 2
    for error, record in zip(answer["errors"], logged, strict=True):
        text = record.getMessage()
        assert error["extensions"]["errorId"] in text
        assert "ValueError" in text
        assert "KeyError" in text
        assert "small_schema.py" in text
        assert "hunter" not in text


def test_the_location_of_the_database_is_not_disclosed(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    answer = api.post("{ noDatabase }")
    assert "db.internal" not in answer.text
    assert code_of(answer) == "store"
    assert "db.internal" in caplog.text
