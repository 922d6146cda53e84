from __future__ import annotations

import gzip
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
import tenacity.nap

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.pipeline import Stage, StageType
from flexiroaster.operators.access.network_guard import seconds_until
from flexiroaster.operators.base import Access, StageContext
from flexiroaster.operators.inputs.http import HttpConfig, HttpInput
from flexiroaster.operators.registry import build, check_stage, find

ROWS = [{"id": 1, "name": "ann"}, {"id": 2, "name": None}]


@dataclass
class Seen:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    body: bytes | str | list[Any] | dict[str, Any] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False

    def content(self) -> tuple[bytes, str | None]:
        if isinstance(self.body, list | dict):
            return json.dumps(self.body).encode(), "application/json"
        return (self.body.encode() if isinstance(self.body, str) else self.body), None


class Site:
    """A real server: `pages` maps a path to answers, given one after the other, the last for ever."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, list[Answer] | Callable[[Seen], Answer]] = {}
        self.seen: list[Seen] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def do_POST(self) -> None:
                site.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        seen = Seen(handler.command, parts.path, parse_qs(parts.query), headers, body)
        self.seen.append(seen)
        page = self.pages.get(parts.path, [Answer(status=404)])
        answer = page(seen) if callable(page) else (page.pop(0) if len(page) > 1 else page[0])
        content, media_type = answer.content()
        handler.send_response(answer.status)
        if media_type and "Content-Type" not in answer.headers:
            handler.send_header("Content-Type", media_type)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content) + (10 if answer.cut else 0)))
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = answer.cut

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def other() -> Iterator[Site]:
    """Another origin: another port."""
    site = Site()
    yield site
    site.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, noted and not waited for."""
    taken: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", taken.append)
    return taken


def run(tmp_path: Path, url: str, *, hosts: tuple[str, ...] = ("127.0.0.1",), **config: Any) -> pl.DataFrame:
    operator = build(StageType.INPUT, {"source": "http", "url": url, **config}, {})
    access = Access(http_hosts=hosts, secrets={"TOKEN": "sesame"})
    table = operator.run(StageContext("e", "p", "s", 1, {}, tmp_path / "work", access=access))
    assert isinstance(table, pl.LazyFrame)
    return table.collect()


def failure(tmp_path: Path, url: str, **config: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        run(tmp_path, url, **config)
    return caught.value


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_it_is_registered() -> None:
    assert find("input.http") is HttpInput


TABLE = pl.DataFrame(ROWS)


@pytest.mark.parametrize(
    ("path", "answer", "given"),
    [
        ("/x", Answer(ROWS), "auto"),
        ("/x", Answer(json.dumps(ROWS), headers={"Content-Type": "application/vnd.api+json; charset=utf-8"}), "auto"),
        ("/x.json", Answer(json.dumps(ROWS)), "auto"),
        ("/x", Answer(json.dumps(ROWS), headers={"Content-Type": "text/html"}), "json"),
        ("/x", Answer(TABLE.write_ndjson(), headers={"Content-Type": "application/x-ndjson"}), "auto"),
        ("/x.csv", Answer(TABLE.write_csv(), headers={"Content-Type": "text/plain"}), "auto"),
        ("/x", Answer(TABLE.write_csv(), headers={"Content-Type": "text/csv; charset=utf-8"}), "auto"),
        ("/x.csv.gz", Answer(gzip.compress(TABLE.write_csv().encode())), "auto"),
        ("/x", Answer(gzip.compress(json.dumps(ROWS).encode()), headers={"Content-Type": "application/json"}), "auto"),
        ("/x", Answer(parquet(TABLE), headers={"Content-Type": "application/octet-stream"}), "parquet"),
        ("/x.parquet", Answer(parquet(TABLE)), "auto"),
    ],
)
def test_every_format(tmp_path: Path, site: Site, path: str, answer: Answer, given: str) -> None:
    site.pages[path] = [answer]
    assert run(tmp_path, site.url + path, format=given).equals(TABLE)


def test_content_encoding_is_undone(tmp_path: Path, site: Site) -> None:
    body = gzip.compress(json.dumps(ROWS).encode())
    site.pages["/x"] = [Answer(body, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})]
    assert run(tmp_path, f"{site.url}/x").equals(TABLE)
    site.pages["/x"] = [Answer(b"damaged", headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})]
    error = failure(tmp_path, f"{site.url}/x")
    assert (error.message, error.error_class) == (
        f"GET {site.url}/x: the response body does not match its content encoding",
        ErrorClass.DATA,
    )


def test_a_format_that_nothing_tells(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer("a\n", headers={"Content-Type": "text/html"})]
    expected = f"{site.url}/x?key=...: cannot tell the format (content type 'text/html'): set `format`"
    error = failure(tmp_path, f"{site.url}/x?key=sesame")
    assert (error.message, error.error_class) == (expected, ErrorClass.CONFIGURATION)


def test_what_is_sent(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer(ROWS)]
    headers = {"X-Key": {"secret": "TOKEN"}, "Accept": "application/json"}
    params = {"page": 2, "all": True, "q": "a b&c"}
    run(tmp_path, f"{site.url}/x?fixed=1", method="POST", headers=headers, params=params, body={"since": "2026"})
    (seen,) = site.seen
    assert (seen.method, json.loads(seen.body)) == ("POST", {"since": "2026"})
    assert seen.query == {"fixed": ["1"], "page": ["2"], "all": ["true"], "q": ["a b&c"]}
    assert (seen.headers["x-key"], seen.headers["content-type"]) == ("sesame", "application/json")


def test_user_and_password_of_a_url_become_a_header(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer(ROWS)]
    run(tmp_path, f"{site.url.replace('//', '//ann:s%C3%A9same@')}/x")
    assert site.seen[0].headers["authorization"] == "Basic YW5uOnPDqXNhbWU="


def test_records_at_a_path(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer({"data": {"items": ROWS, "none": None}, "list": [{"rows": ROWS}]})]
    assert run(tmp_path, f"{site.url}/x", records_path="data.items").equals(TABLE)
    assert run(tmp_path, f"{site.url}/x", records_path="list.0.rows").equals(TABLE)
    assert run(tmp_path, f"{site.url}/x", records_path="data.none").height == 0
    error = failure(tmp_path, f"{site.url}/x", records_path="data.item")
    expected = f"{site.url}/x: nothing at records_path 'data.item'; the keys are 'items', 'none'"
    assert (error.message, error.error_class) == (expected, ErrorClass.DATA)
    site.pages["/x"] = [Answer({"items": [1]})]
    error = failure(tmp_path, f"{site.url}/x", records_path="items")
    assert error.message == f"{site.url}/x at items: record [0] is a number, not an object"
    site.pages["/x"] = [Answer("id\n1\n", headers={"Content-Type": "text/csv"})]
    error = failure(tmp_path, f"{site.url}/x", records_path="items")
    assert error.message == f"records_path: {site.url}/x is csv, not json"


def test_pages_by_link_header(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [
        Answer([{"id": 1, "late": None}], headers={"Link": '</y?page=2>; rel="next", </z>; rel="last"'}),
    ]
    site.pages["/y"] = [Answer([{"id": 2.5, "late": "x"}, {"new": True}])]
    table = run(tmp_path, f"{site.url}/x", params={"size": 1}, pagination={"type": "link"})
    assert table.to_dict(as_series=False) == {
        "id": [1.0, 2.5, None],
        "late": [None, "x", None],
        "new": [None, None, True],
    }
    assert [(seen.path, seen.query) for seen in site.seen] == [("/x", {"size": ["1"]}), ("/y", {"page": ["2"]})]


def test_pages_by_link_in_the_document(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer({"items": ROWS, "next": "x2"})]
    site.pages["/x2"] = [Answer({"items": ROWS, "next": None})]
    pagination = {"type": "link", "path": "next"}
    assert run(tmp_path, f"{site.url}/x", records_path="items", pagination=pagination).height == 4


def test_pages_by_cursor(tmp_path: Path, site: Site) -> None:
    cursors: dict[str, tuple[int, Any]] = {"": (1, {"next": "a b"}), "a b": (2, {"next": 7}), "7": (3, {"next": ""})}

    def page(seen: Seen) -> Answer:
        number, meta = cursors[seen.query.get("after", [""])[0]]
        return Answer({"items": [{"n": number}], "meta": meta})

    site.pages["/x"] = page
    pagination = {"type": "cursor", "param": "after", "path": "meta.next"}
    table = run(tmp_path, f"{site.url}/x", records_path="items", params={"size": 1}, pagination=pagination)
    assert table["n"].to_list() == [1, 2, 3]
    assert all(seen.query["size"] == ["1"] for seen in site.seen)
    site.pages["/x"] = [Answer({"items": [], "meta": {"next": "same"}})]
    error = failure(tmp_path, f"{site.url}/x", records_path="items", pagination=pagination)
    assert (error.message, error.error_class) == ("page 2 has the same cursor as the previous page", ErrorClass.DATA)


def test_pages_by_number(tmp_path: Path, site: Site) -> None:
    def as_json(seen: Seen) -> Answer:
        page = int(seen.query["p"][0])
        return Answer([{"n": page}] if page < 3 else [])

    def as_csv(seen: Seen) -> Answer:
        page = int(seen.query["p"][0])
        return Answer(f"n\n{page}\n" if page < 3 else "n\n", headers={"Content-Type": "text/csv"})

    site.pages["/json"], site.pages["/csv"] = as_json, as_csv
    pagination = {"type": "page", "param": "p", "start": 0}
    assert run(tmp_path, f"{site.url}/json", pagination=pagination)["n"].to_list() == [0, 1, 2]
    assert run(tmp_path, f"{site.url}/csv", pagination=pagination)["n"].to_list() == [0, 1, 2]


def test_pages_without_end(tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.pages["/x"] = [Answer(ROWS)]
    pagination = {"type": "page", "param": "p"}
    with caplog.at_level(logging.WARNING, logger="flexiroaster.stage"):
        assert run(tmp_path, f"{site.url}/x", pagination=pagination, max_pages=3).height == 6
    assert caplog.messages == ["stopped after max_pages = 3 pages, but there are more"]
    config = HttpConfig.model_validate({"url": f"{site.url}/x", "pagination": pagination, "max_pages": 3})
    config.model_fields_set.remove("max_pages")  # as if 3 were the default
    context = StageContext("e", "p", "s", 1, {}, tmp_path / "default", access=Access(http_hosts=("127.0.0.1",)))
    with pytest.raises(StageError, match=r"^there are more than 3 pages: set `max_pages`$"):
        HttpInput(config).run(context)


def test_pages_of_two_formats(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [
        Answer(ROWS, headers={"Link": '</x>; rel="next"'}),
        Answer("a\n", headers={"Content-Type": "text/csv"}),
    ]
    error = failure(tmp_path, f"{site.url}/x", pagination={"type": "link"})
    assert error.message == f"{site.url}/x: page 2 is csv, but the previous pages are json"


def test_an_empty_answer(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer(status=204)]
    assert run(tmp_path, f"{site.url}/x").shape == (0, 0)
    site.pages["/x"] = [Answer([])]
    assert run(tmp_path, f"{site.url}/x").shape == (0, 0)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_passing_failures_are_waited_out(tmp_path: Path, site: Site, status: int, pauses: list[float]) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    site.pages["/x"] = [
        Answer(status=status, headers={"Retry-After": "7"}),
        Answer(status=status, headers={"Retry-After": later}),
        Answer(status=status, headers={"Retry-After": "soon"}),
        Answer(ROWS),
    ]
    assert run(tmp_path, f"{site.url}/x").equals(TABLE)
    assert pauses[0] == 7
    assert 25 < pauses[1] <= 30
    assert 0 <= pauses[2] <= 30


def test_failures_that_do_not_pass(tmp_path: Path, site: Site, pauses: list[float]) -> None:
    site.pages["/x"] = [Answer(status=503, headers={"Retry-After": "7"})]
    error = failure(tmp_path, f"{site.url}/x?key=sesame", max_retries=2)
    assert error.message == f"GET {site.url}/x?key=...: 503 Service Unavailable"
    assert (error.error_class, error.retry_after, pauses) == (ErrorClass.TRANSIENT, 7, [7, 7])


def test_a_wait_too_long_is_left_to_the_stage(tmp_path: Path, site: Site, pauses: list[float]) -> None:
    site.pages["/x"] = [Answer(status=429, headers={"Retry-After": "3600"})]
    error = failure(tmp_path, f"{site.url}/x")
    assert error.message == f"GET {site.url}/x: 429 Too Many Requests; the server asks for a retry in 3600 s"
    assert (error.error_class, error.retry_after, pauses) == (ErrorClass.TRANSIENT, 3600, [])


@pytest.mark.parametrize(
    ("status", "text", "error_class"),
    [
        (404, "404 Not Found", ErrorClass.CONFIGURATION),
        (401, "401 Unauthorized", ErrorClass.CONFIGURATION),
        (400, "400 Bad Request", ErrorClass.CONFIGURATION),
        (500, "500 Internal Server Error", ErrorClass.TRANSIENT),
        (408, "408 Request Timeout", ErrorClass.TRANSIENT),
        (304, "304 Not Modified", ErrorClass.CONFIGURATION),
    ],
)
def test_other_failures_are_not_asked_again(
    tmp_path: Path, site: Site, status: int, text: str, error_class: ErrorClass
) -> None:
    site.pages["/x"] = [Answer(status=status)]
    error = failure(tmp_path, f"{site.url}/x")
    assert (error.message, error.error_class) == (f"GET {site.url}/x: {text}", error_class)
    assert len(site.seen) == 1


def test_no_connection(tmp_path: Path, pauses: list[float]) -> None:
    error = failure(tmp_path, "http://127.0.0.1:1/x", max_retries=2)
    assert error.error_class is ErrorClass.TRANSIENT
    assert error.message == "GET http://127.0.0.1:1/x: [Errno 111] Connection refused"
    assert len(pauses) == 2


def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer(ROWS, cut=True), Answer(ROWS)]
    assert run(tmp_path, f"{site.url}/x").equals(TABLE)
    assert len(site.seen) == 2


def test_more_bytes_than_allowed(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer([{"x": "y" * 1000}])]
    error = failure(tmp_path, f"{site.url}/x", max_bytes=500)
    assert (error.message, error.error_class) == (
        f"{site.url}/x: more than max_bytes = 500 bytes",
        ErrorClass.CONFIGURATION,
    )
    pagination = {"type": "page", "param": "p"}
    error = failure(tmp_path, f"{site.url}/x", max_bytes=2500, pagination=pagination)
    assert error.message == f"{site.url}/x?p=...: more than max_bytes = 2500 bytes"
    assert len(site.seen) == 4


SECRETS = {"Authorization": {"secret": "TOKEN"}, "X-Key": {"secret": "TOKEN"}, "Cookie": "a=b", "Accept": "text/x"}


def test_credentials_stay_with_their_origin_at_redirects(tmp_path: Path, site: Site, other: Site) -> None:
    site.pages["/x"] = [Answer(status=302, headers={"Location": "/y"})]
    site.pages["/y"] = [Answer(status=307, headers={"Location": f"{other.url}/z"})]
    other.pages["/z"] = [Answer(status=301, headers={"Location": f"{site.url}/back"})]
    site.pages["/back"] = [Answer(ROWS)]
    assert run(tmp_path, f"{site.url}/x", headers=SECRETS).equals(TABLE)
    first, second, back = site.seen
    assert first.headers["x-key"] == second.headers["x-key"] == second.headers["authorization"] == "sesame"
    for seen in (other.seen[0], back):
        assert not {"authorization", "x-key", "cookie"} & seen.headers.keys()
        assert seen.headers["accept"] == "text/x"


def test_credentials_stay_with_their_origin_at_links(tmp_path: Path, site: Site, other: Site) -> None:
    leaving = other.url.replace("//", "//eve:secret@")
    site.pages["/x"] = [Answer(ROWS, headers={"Link": f'<{leaving}/z>; rel="next"'})]
    other.pages["/z"] = [Answer(ROWS)]
    run(tmp_path, f"{site.url}/x", headers=SECRETS, pagination={"type": "link"})
    assert not {"authorization", "x-key", "cookie"} & other.seen[0].headers.keys()


def test_a_post_is_not_redirected_to_another_origin(tmp_path: Path, site: Site, other: Site) -> None:
    site.pages["/x"] = [Answer(status=307, headers={"Location": f"{other.url}/z?key=sesame"})]
    error = failure(tmp_path, f"{site.url}/x", method="POST", body={"password": "sesame"})
    assert error.message == f"{site.url}/x redirects the POST to another origin, {other.url}/z?key=..."
    assert other.seen == []


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("gopher://127.0.0.1/x", "gopher://127.0.0.1/x: only http:// and https:// URLs may be fetched"),
        ("ftp://127.0.0.1/x", "ftp://127.0.0.1/x: only http:// and https:// URLs may be fetched"),
        (
            "http://169.254.169.254/latest/meta-data",
            "169.254.169.254 is a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it",
        ),
    ],
)
def test_redirects_and_links_are_judged(tmp_path: Path, site: Site, location: str, message: str) -> None:
    site.pages["/redirect"] = [Answer(status=302, headers={"Location": location})]
    site.pages["/link"] = [Answer(ROWS, headers={"Link": f'<{location}>; rel="next"'})]
    for path in ("/redirect", "/link"):
        error = failure(tmp_path, site.url + path, pagination={"type": "link"})
        assert (error.message, error.error_class) == (message, ErrorClass.CONFIGURATION), path


def test_redirects_without_end(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = [Answer(status=302, headers={"Location": "/x"})]
    error = failure(tmp_path, f"{site.url}/x")
    assert error.message == f"{site.url}/x: more than 10 redirects"


def test_private_addresses(tmp_path: Path, site: Site) -> None:
    error = failure(tmp_path, f"{site.url}/x", hosts=())
    expected = "127.0.0.1 is a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it"
    assert (error.message, error.error_class) == (expected, ErrorClass.CONFIGURATION)
    assert site.seen == []


def test_secrets_that_no_header_can_have(tmp_path: Path, site: Site) -> None:
    for value in ("ses\namé", "sesamé"):
        error = failure(tmp_path, f"{site.url}/x", headers={"X-Key": value})
        assert error.message == "headers: the value of 'X-Key' has characters that a header cannot have"
    assert failure(tmp_path, f"{site.url}/x", headers={"X-Key": {"secret": "NONE"}}).message == (
        "secret 'NONE' is not set: set FLEXIROASTER_SECRET_NONE"
    )


def test_no_secret_in_errors_and_logs(tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site.pages["/x"] = [Answer(status=503), Answer(status=500)]
    url = f"{site.url.replace('//', '//ann:sesame@')}/x?key=sesame"
    error = failure(tmp_path, url, headers=SECRETS, params={"token": "sesame"})
    assert error.message == f"GET {site.url}/x?key=...&token=...: 500 Internal Server Error"
    assert "503 Service Unavailable; next attempt in " in caplog.text
    assert "sesame" not in caplog.text


def problems(config: dict[str, Any]) -> list[tuple[str, str]]:
    stage = Stage(id="s", type=StageType.INPUT, config={"source": "http", **config})
    found = check_stage(0, stage, {}, Access(http_hosts=("127.0.0.1",)))
    return [(p.path.removeprefix("stages[0].config."), p.message) for p in found]


def test_problems_of_a_config() -> None:
    assert problems({"url": "https://example.com/x?a=${day}"}) == []
    assert problems({"url": "${url}"}) == []
    assert problems({"url": "http://127.0.0.1/x"}) == []
    assert problems({}) == [("url", "is required")]
    assert problems({"url": "ftp://example.com"}) == [("url", "must be an http:// or https:// URL")]
    assert problems({"url": "http://"}) == [("url", "must be an http:// or https:// URL")]
    assert problems({"url": "http://example.com:99999"}) == [("url", "is not a valid URL")]
    refused = "10.0.0.1 is a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it"
    assert problems({"url": "http://10.0.0.1/x"}) == [("url", refused)]
    ((path, _),) = problems({"url": "http://example.com", "pagination": {"type": "cursor", "param": "after"}})
    assert path == "pagination.path"
    ((path, _),) = problems({"url": "http://example.com", "pagination": {"type": "curser"}})
    assert path == "pagination.type"


def test_retry_after_in_both_forms() -> None:
    assert seconds_until(None) is None
    assert seconds_until("12") == 12
    assert seconds_until("nonsense") is None
    assert seconds_until("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert seconds_until("99999999") == 86_400
