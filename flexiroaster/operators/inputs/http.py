"""`source: http`: a table from one response, or from all pages of an API."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import NONE, Access, Operator, OperatorConfig, SecretRef, StageContext, reveal
from flexiroaster.operators.inputs.pagination import DottedPath, Pagination

if TYPE_CHECKING:
    import httpx
    import polars as pl

    from flexiroaster.operators.inputs.fetching import Fetcher
    from flexiroaster.operators.inputs.paging import Collector

__all__ = ["HttpConfig", "HttpInput"]

DEFAULT_PAGES = 1000


def _a_web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if the port is out of range
    except ValueError as error:
        raise ValueError("is not a valid URL") from error
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    return url


class HttpConfig(OperatorConfig):
    """`records_path` says where the records are in the JSON. `body` is sent as JSON; a string is sent as it is.

    `timeout` (s) limits the connection and each wait for data, `max_bytes` all pages together. With more than
    `max_pages` pages the stage fails; if the config sets `max_pages`, the stage stops there with a warning instead.
    """

    url: Annotated[str, AfterValidator(_a_web_address)]
    method: Literal["GET", "POST"] = "GET"
    headers: dict[str, str | SecretRef] = Field(default_factory=dict)
    params: dict[str, str | int | float | bool] = Field(default_factory=dict)
    body: Any | None = None
    format: Literal["auto", "json", "ndjson", "csv", "parquet"] = "auto"
    records_path: DottedPath | None = None
    pagination: Pagination | None = None
    max_pages: int = Field(default=DEFAULT_PAGES, ge=1)
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
        from flexiroaster.operators.access.network_guard import require_public_literal

        try:
            require_public_literal(urlsplit(self.config.url).hostname or "", access)
        except StageError as error:
            yield Problem("url", error.message, "address")

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the table of all pages. Raises StageError; its messages show URLs without their query values."""
        import httpx

        from flexiroaster.operators.access.network_guard import guarded_client
        from flexiroaster.operators.inputs.fetching import Fetcher
        from flexiroaster.operators.inputs.paging import Collector

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
        headers = {name: reveal(value, access) for name, value in self.config.headers.items()}
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
            received = collector.take(page, number, count=pagination is not None)
            following = pagination.following(base, received) if pagination else None
            if following is None:
                return collector.table()
            url = following
        self._stopped_short(context)
        return collector.table()

    def _stopped_short(self, context: StageContext) -> None:
        pages = self.config.max_pages
        if "max_pages" not in self.config.model_fields_set:
            raise StageError(f"there are more than {pages} pages: set `max_pages`", ErrorClass.CONFIGURATION)
        context.logger.warning("stopped after max_pages = %d pages, but there are more", pages)
