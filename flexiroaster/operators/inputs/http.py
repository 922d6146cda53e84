"""`source: http`: a table from one response, or from all pages of an API.

A pagination gives the URL of each page, `Fetcher` downloads the pages, and `Collector` turns them into one table.
"""

from __future__ import annotations

import contextlib
import logging
from abc import abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import polars as pl
from pydantic import AfterValidator, Field

from flexiroaster.errors import Problem, StageError, configuration_error, data_error
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.access.network_guard import (
    call_with_retries,
    checked_headers,
    convert_request_errors,
    guarded_client,
    raise_if_transient,
    redact_url,
    require_public_literal,
    same_origin,
    web_host,
)
from flexiroaster.operators.base import NONE, Access, Operator, OperatorConfig, SecretRef, StageContext, resolve_secret
from flexiroaster.operators.formats import AUTO, Format, format_of_name
from flexiroaster.operators.inputs.json import parse_file, records_of
from flexiroaster.operators.inputs.scanning import scan
from flexiroaster.operators.inputs.sources import ReadOptions, Source, plain_sources
from flexiroaster.operators.inputs.type_inference import Spool

__all__ = ["HttpInput"]

_MEDIA_TYPES = {
    "application/json": Format.JSON,
    "text/json": Format.JSON,
    "application/x-ndjson": Format.NDJSON,
    "application/ndjson": Format.NDJSON,
    "application/jsonl": Format.NDJSON,
    "application/jsonlines": Format.NDJSON,
    "application/x-jsonlines": Format.NDJSON,
    "text/csv": Format.CSV,
    "application/csv": Format.CSV,
    "text/tab-separated-values": Format.TSV,
    "application/vnd.apache.parquet": Format.PARQUET,
    "application/x-parquet": Format.PARQUET,
    "application/vnd.apache.arrow.file": Format.ARROW,
    "application/vnd.apache.arrow.stream": Format.ARROW,
}
_MAX_REDIRECTS = 10
_HARMLESS_HEADERS = frozenset({"accept", "accept-language", "content-type", "user-agent"})
"""Request headers that are sent to another origin too."""

DottedPath = Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")]


@dataclass(frozen=True, slots=True)
class Received:
    """The facts about one page that determine the next: its number from 0, its URL, the next link of its header, its
    JSON (None for other formats), and its number of rows.
    """

    number: int
    url: httpx.URL
    next_link: str | None
    value: Any
    rows: int


class _Pages(OperatorConfig):
    def first(self, url: httpx.URL) -> httpx.URL:
        """The URL of the first page."""
        return url

    @abstractmethod
    def following(self, base: httpx.URL, page: Received) -> httpx.URL | None:
        """The URL of the next page, None after the last; `base` is the configured URL with its parameters."""


class LinkPages(_Pages):
    """The response links to its next page: in the header `Link` with `rel="next"`, or at `path` in its JSON."""

    type: Literal["link"]
    path: DottedPath | None = None

    def following(self, base: httpx.URL, page: Received) -> httpx.URL | None:  # noqa: ARG002 - the link is complete
        """The link, resolved against the URL of its page."""
        link = page.next_link if self.path is None else _at_path(page.value, self.path)
        try:
            return page.url.join(link) if link else None
        except (httpx.InvalidURL, TypeError) as error:
            raise data_error(f"the next link of page {page.number + 1} is not a valid URL") from error


class CursorPages(_Pages):
    """The JSON has at `path` the value of the parameter `param` for the next request; the last page has none."""

    type: Literal["cursor"]
    param: str = Field(min_length=1)
    path: DottedPath

    def following(self, base: httpx.URL, page: Received) -> httpx.URL | None:
        """The configured URL with the cursor. Raises StageError (data) if the cursor does not advance."""
        cursor = _at_path(page.value, self.path)
        if cursor is None or cursor == "" or cursor is False:
            return None
        following = base.copy_set_param(self.param, str(cursor))
        if following == page.url:
            raise data_error(f"page {page.number + 1} has the same cursor as the previous page")
        return following


class NumberedPages(_Pages):
    """The parameter `param` counts the pages from `start`; a page without rows ends the count."""

    type: Literal["page"]
    param: str = Field(min_length=1)
    start: int = Field(default=1, ge=0)

    def first(self, url: httpx.URL) -> httpx.URL:
        """The URL with the first page number."""
        return url.copy_set_param(self.param, str(self.start))

    def following(self, base: httpx.URL, page: Received) -> httpx.URL | None:
        """The URL with the next page number, None after a page without rows."""
        return base.copy_set_param(self.param, str(self.start + page.number + 1)) if page.rows else None


Pagination = Annotated[LinkPages | CursorPages | NumberedPages, Field(discriminator="type")]


def _web_address(url: str) -> str:
    web_host(url)
    return url


class HttpConfig(OperatorConfig):
    """`records_path` says where the records are in the JSON. `body` is sent as JSON; a string is sent as it is.

    `timeout` (s) limits the connection and each wait for data, `max_bytes` all pages together. With more than
    `max_pages` pages the stage fails; if the config sets `max_pages`, the stage stops there with a warning instead.
    """

    url: Annotated[str, AfterValidator(_web_address)]
    method: Literal["GET", "POST"] = "GET"
    headers: dict[str, str | SecretRef] = Field(default_factory=dict)
    params: dict[str, str | int | float | bool] = Field(default_factory=dict)
    body: Any | None = None
    format: Literal["auto", "json", "ndjson", "csv", "parquet"] = "auto"
    records_path: DottedPath | None = None
    pagination: Pagination | None = None
    max_pages: int = Field(default=1000, ge=1)
    timeout: float = Field(default=30.0, gt=0)
    max_retries: int = Field(default=4, ge=0, le=20)
    max_bytes: int = Field(default=1 << 30, ge=1)


class HttpInput(Operator[HttpConfig]):
    """Read json, ndjson, csv or parquet over HTTP, with pagination, retries and limits.

    Private addresses are refused unless HTTP_ALLOWED_HOSTS lists the host. Headers take secrets by reference; they are
    sent only to the origin of `url`.
    """

    stage_type = StageType.INPUT
    name = "http"
    config_model = HttpConfig
    arity = NONE

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - not needed
        """Report a private address in the URL. Host names are checked when the client connects to their addresses."""
        try:
            require_public_literal(web_host(self.config.url), access)
        except StageError as error:
            yield Problem("url", error.message, "address")

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the table of all pages. Raises StageError; its messages show URLs without their query values."""
        url = httpx.URL(self.config.url).copy_merge_params(self.config.params)
        with guarded_client(context.access, timeout=self.config.timeout) as client:
            fetcher = Fetcher(
                client,
                url,
                self._headers(url, context.access),
                max_retries=self.config.max_retries,
                max_bytes=self.config.max_bytes,
                folder=context.workdir / "pages",
                logger=context.logger,
            )
            collector = Collector(self.config.format, self.config.records_path, context.workdir / "read")
            return self._all_pages(fetcher, collector, url.copy_with(userinfo=b""), context)

    def _headers(self, url: httpx.URL, access: Access) -> dict[str, str]:
        """The headers with secrets filled in; a user and password in the URL become an Authorization header."""
        headers = {name: resolve_secret(value, access) for name, value in self.config.headers.items()}
        if url.userinfo and not any(name.lower() == "authorization" for name in headers):
            credentials = f"{url.username}:{url.password}".encode()
            headers["Authorization"] = f"Basic {b64encode(credentials).decode()}"
        return headers

    def _all_pages(
        self, fetcher: Fetcher, collector: Collector, base: httpx.URL, context: StageContext
    ) -> pl.LazyFrame:
        pagination = self.config.pagination
        url = pagination.first(base) if pagination else base
        for number in range(self.config.max_pages):
            page = fetcher.fetch(self.config.method, url, self.config.body)
            received = collector.add(page, number, count=pagination is not None)
            following = pagination.following(base, received) if pagination else None
            if following is None:
                return collector.table()
            url = following
        if "max_pages" not in self.config.model_fields_set:
            raise configuration_error(f"there are more than {self.config.max_pages} pages: set `max_pages`")
        context.logger.warning("stopped after max_pages = %d pages, but there are more", self.config.max_pages)
        return collector.table()


# --- pages ---


@dataclass(frozen=True, slots=True)
class Page:
    """A response whose body is in a file. `url` is the final URL, after redirects."""

    path: Path
    url: httpx.URL
    headers: httpx.Headers
    status: int


class Fetcher:
    """Fetches the pages of one source. `headers` contain revealed secrets; `max_bytes` limits all pages together."""

    def __init__(
        self,
        client: httpx.Client,
        origin: httpx.URL,
        headers: Mapping[str, str],
        *,
        max_retries: int,
        max_bytes: int,
        folder: Path,
        logger: logging.Logger,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._client, self._origin, self._headers = client, origin, checked_headers(headers)
        self._max_retries, self._max_bytes = max_retries, max_bytes
        self._folder, self._logger = folder, logger
        self._received = self._pages = 0

    def fetch(self, method: str, url: httpx.URL, body: Any = None) -> Page:  # noqa: ANN401 - any JSON value
        """Fetch one page. Raises StageError: transient once the attempts are used up, else configuration or data."""
        try:
            page = call_with_retries(self._max_retries, self._logger, self._attempt, method, url, body)
        except httpx.DecodingError as error:
            message = f"{method} {redact_url(url)}: the response body does not match its content encoding"
            raise data_error(message) from error
        self._received += page.path.stat().st_size
        self._pages += 1
        return page

    def _attempt(self, method: str, url: httpx.URL, body: Any) -> Page:  # noqa: ANN401 - any JSON value
        with convert_request_errors(f"{method} {redact_url(url)}"):
            request = self._request(method, url, body)
        for _ in range(_MAX_REDIRECTS + 1):
            with (
                convert_request_errors(f"{request.method} {redact_url(request.url)}"),
                contextlib.closing(self._client.send(request, stream=True)) as response,
            ):
                if response.next_request is None:
                    self._check_status(response)
                    return self._download(response)
                request = self._redirect(request, response.next_request)
        raise configuration_error(f"{redact_url(url)}: more than {_MAX_REDIRECTS} redirects")

    def _request(self, method: str, url: httpx.URL, body: Any) -> httpx.Request:  # noqa: ANN401 - any JSON value
        _require_web(url)
        content = {"content": body} if isinstance(body, str) else ({} if body is None else {"json": body})
        headers = self._headers if same_origin(self._origin, url) else _safe_headers(self._headers)
        return self._client.build_request(method, url.copy_with(userinfo=b""), headers=headers, **content)

    def _check_status(self, response: httpx.Response) -> None:
        if not response.is_success:
            status = f"{response.status_code} {response.reason_phrase}".strip()
            message = f"{response.request.method} {redact_url(response.url)}: {status}"
            raise_if_transient(response, message)
            raise configuration_error(message)

    def _redirect(self, request: httpx.Request, following: httpx.Request) -> httpx.Request:
        """The request that a redirect leads to, without credentials if it leaves the origin."""
        _require_web(following.url)
        following.url = following.url.copy_with(userinfo=b"")
        if same_origin(self._origin, following.url):
            return following
        if following.method not in {"GET", "HEAD"}:
            message = f"redirects the {following.method} to another origin, {redact_url(following.url)}"
            raise configuration_error(f"{redact_url(request.url)} {message}")
        for name in self._headers.keys() - _safe_headers(self._headers).keys():
            following.headers.pop(name, None)
        return following

    def _download(self, response: httpx.Response) -> Page:
        path = self._folder / f"page-{self._pages:05d}"
        left = self._max_bytes - self._received
        with path.open("wb") as file:
            for block in response.iter_bytes():
                left -= len(block)
                if left < 0:
                    message = f"{redact_url(response.url)}: more than max_bytes = {self._max_bytes} bytes"
                    raise configuration_error(message)
                file.write(block)
        return Page(path, response.url, response.headers, response.status_code)


def _safe_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() in _HARMLESS_HEADERS}


def _require_web(url: httpx.URL) -> None:
    if url.scheme not in {"http", "https"} or not url.host:
        raise configuration_error(f"{redact_url(url)}: only http:// and https:// URLs may be fetched")


class Collector:
    """Collects pages one after the other; memory holds at most one of them."""

    def __init__(self, given: str, records_path: str | None, folder: Path) -> None:
        self._given, self._records_path, self._folder = given, records_path, folder
        self._spool = Spool(folder / "records")
        self._sources: list[Source] = []
        self._format: Format | None = None

    def add(self, page: Page, number: int, *, count: bool) -> Received:
        """Add a page and return the facts that determine the next. Rows of files are counted only if `count`."""
        label = redact_url(page.url)
        link = _next_link(page.headers)
        if page.status == httpx.codes.NO_CONTENT:
            return Received(number, page.url, link, None, 0)
        kind = _format_of_page(page, self._given)
        self._format = self._format or kind
        if kind is not self._format:
            raise data_error(f"{label}: page {number + 1} is {kind}, but the previous pages are {self._format}")
        if kind is Format.JSON:
            value, rows = self._add_json(page, label)
            return Received(number, page.url, link, value, rows)
        if self._records_path is not None:
            raise configuration_error(f"records_path: {label} is {kind}, not json")
        sources = list(plain_sources(page.path, label, kind, self._folder / "unpacked"))
        if number and not page.path.stat().st_size:
            return Received(number, page.url, link, None, 0)
        rows = self._scan(sources).select(pl.len()).collect().item() if count else 0
        if rows or not number:
            self._sources += sources
        return Received(number, page.url, link, None, rows)

    def table(self) -> pl.LazyFrame:
        """Return the rows of all pages. Raises StageError (data) if the pages are not compatible."""
        return self._scan(self._sources) if self._sources else self._spool.finish()

    def _add_json(self, page: Page, label: str) -> tuple[Any, int]:
        (source,) = plain_sources(page.path, label, Format.JSON, self._folder / "unpacked")
        value = parse_file(source.path, label)
        records = self._records(value, label)
        self._spool.append_records(records)
        return value, len(records)

    def _records(self, value: Any, label: str) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON value
        path = self._records_path
        if path is None:
            return records_of(value, label)
        parent, _, last = path.rpartition(".")
        above = _at_path(value, parent) if parent else value
        if _at_path(value, path) is None and not (isinstance(above, dict) and last in above):
            raise data_error(f"{label}: nothing at records_path {path!r}{_available_keys(above)}")
        return records_of(_at_path(value, path) or [], f"{label} at {path}")

    def _scan(self, sources: list[Source]) -> pl.LazyFrame:
        return scan(sources, ReadOptions(), self._folder / "copies")


def _format_of_page(page: Page, given: str) -> Format:
    """The requested format, else the format of the content type, else that of the URL's extension.

    Raises StageError (configuration) if none of them determines the format.
    """
    if given != AUTO:
        return Format(given)
    media_type = page.headers.get("content-type", "").partition(";")[0].strip().lower()
    structured = Format.JSON if media_type.endswith("+json") else None
    found = _MEDIA_TYPES.get(media_type) or structured or format_of_name(page.url.path)
    if found is None:
        content = f"content type {media_type!r}" if media_type else "no content type"
        raise configuration_error(f"{redact_url(page.url)}: cannot tell the format ({content}): set `format`")
    return found


def _available_keys(value: object) -> str:
    return f"; the keys are {', '.join(map(repr, list(value)[:10]))}" if isinstance(value, dict) and value else ""


def _next_link(headers: httpx.Headers) -> str | None:
    links = httpx.Response(200, headers=headers).links
    return next((link["url"] for rel, link in links.items() if "next" in str(rel).lower().split()), None)


def _at_path(value: Any, path: str) -> Any:  # noqa: ANN401 - walks any JSON value
    """The value at a dotted path (`data.items`, `results.0.rows`); None if the path does not exist."""
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
