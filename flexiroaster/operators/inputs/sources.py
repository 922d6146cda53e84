"""Sources: plain local files of a known format, found, fetched and decompressed from the paths of a config."""

from __future__ import annotations

import codecs
import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import polars as pl
from pydantic import AfterValidator, ConfigDict, Field

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.pipeline import suggestion_hint
from flexiroaster.operators.access.file_access import fetch, resolve
from flexiroaster.operators.access.network_guard import (
    PASSING,
    PATIENCE,
    RETRYABLE_STATUS_CODES,
    RetryRequest,
    attempts,
    checked_headers,
    redact_url,
    same_origin,
    seconds_until,
)
from flexiroaster.operators.base import Access, OperatorConfig
from flexiroaster.operators.dtypes import conversion, conversion_failed, friendly_name
from flexiroaster.operators.formats import (
    AUTO,
    Format,
    compression_of_file,
    data_error,
    detect_compression,
    detect_format,
    format_of_name,
    unpack,
)

__all__ = [
    "Fetcher",
    "Page",
    "ReadOptions",
    "Source",
    "fetched",
    "gather",
    "plain_sources",
    "require_columns",
    "require_new_column",
    "with_types",
]


@dataclass(frozen=True, slots=True)
class Source:
    """A local file and its label in messages and the file column. `packed`: a gzip csv; other files are plain."""

    path: Path
    label: str
    format: Format
    packed: bool = False


def fetched(paths: Iterable[str], access: Access, folder: Path) -> list[tuple[Path, str]]:
    """Find all files that the paths, globs and URLs name, in that order, each once, with their labels.

    Remote files are fetched into `folder`. Raises StageError.
    """
    found = dict.fromkeys(place for path in paths for place in resolve(path, access))
    return [(fetch(place, folder), place.label) for place in found]


def gather(files: Iterable[tuple[Path, str]], given: str, folder: Path) -> list[Source]:
    """Find plain files of one format; compressed files are decompressed into `folder`. Raises StageError."""
    sources = [source for path, label in files for source in plain_sources(path, label, given, folder)]
    _refuse_mixture(sources)
    return sources


def plain_sources(path: Path, label: str, given: str, folder: Path) -> Iterator[Source]:
    """Yield the file itself, or its contents if its name or its first bytes say that it is compressed."""
    compression = detect_compression(label) or compression_of_file(path)
    inside = unpack(path, compression, folder, label) if compression else [(path, label)]
    for file, name in inside:
        told = format_of_name(name) or format_of_name(label) if given == AUTO else None
        yield Source(file, name, told or detect_format(name, given))


def _refuse_mixture(sources: list[Source]) -> None:
    first = sources[0]
    for source in sources:
        if source.format is not first.format:
            message = f"{source.label} is {source.format}, but {first.label} is {first.format}: read them separately"
            raise StageError(message, ErrorClass.CONFIGURATION)


# Read options: the config fields that all inputs that read files share.
LOSSY = "utf8-lossy"


def _validate_type(name: str) -> str:
    from flexiroaster.operators.dtypes import parse_dtype

    parse_dtype(name)
    return name


def _an_encoding(name: str) -> str:
    if name == LOSSY:
        return name
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise ValueError(f"unknown encoding {name!r}") from error


def _one_byte(character: str) -> str:
    if len(character.encode()) != 1:
        raise ValueError(f"must be one ASCII character, not {character!r}")
    return character


Character = Annotated[str, AfterValidator(_one_byte)]


class ReadOptions(OperatorConfig):
    """`schema` sets the types of columns by name; the other types are inferred.

    For csv and tsv, types are inferred from the first `infer_rows` rows (null: from all rows). For ndjson, they are
    inferred from all rows unless `infer_rows` is set. `rows` limits the number of rows read from all files together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    columns: list[str] | None = Field(default=None, min_length=1, description="Columns to read, in this order.")
    schema_: dict[str, Annotated[str, AfterValidator(_validate_type)]] | None = Field(default=None, alias="schema")
    separator: Character | None = Field(default=None, description="Default: a comma; for tsv, a tab.")
    has_header: bool = True
    encoding: Annotated[str, AfterValidator(_an_encoding)] = "utf-8"
    quote: Character | None = '"'
    null_values: list[str] = Field(default_factory=list, description="Texts that mean null, besides the empty text.")
    skip_rows: int = Field(default=0, ge=0, description="Lines to skip before the header.")
    infer_rows: int | None = Field(default=10_000, ge=1)
    try_parse_dates: bool = False
    file_column: str | None = Field(default=None, min_length=1, description="Adds a column with the file's name.")
    rows: int | None = Field(default=None, ge=0)


# Column types set by the config: every value must fit, or the error says which values do not.
def with_types(frame: pl.LazyFrame, types: Mapping[str, pl.DataType], label: str) -> pl.LazyFrame:
    """Convert columns of the frame to these types.

    The columns are read once for this, so that values that do not fit are found now. Raises StageError: configuration
    for a column that does not exist or cannot be converted to its type, data for values that do not fit.
    """
    if not types:
        return frame
    schema = frame.collect_schema()
    require_columns(list(types), schema.names(), "schema", label)
    converted = {name: _converted(name, schema[name], dtype, label) for name, dtype in types.items()}
    misfits = frame.select(
        pl.struct(
            pl.col(name).filter(conversion_failed(pl.col(name), after)).len().alias("count"),
            pl.col(name)
            .filter(conversion_failed(pl.col(name), after))
            .first()
            .cast(pl.String, strict=False)
            .alias("first"),
        ).alias(name)
        for name, after in converted.items()
    ).collect(engine="streaming")
    for name, found in misfits.row(0, named=True).items():
        if found["count"]:
            values = "1 value does" if found["count"] == 1 else f"{found['count']} values do"
            what = f"{values} not fit {friendly_name(types[name])}, such as {found['first']!r}"
            raise data_error(label, f"column {name!r}: {what}")
    return frame.with_columns(after.alias(name) for name, after in converted.items())


def _converted(name: str, source: pl.DataType, target: pl.DataType, label: str) -> pl.Expr:
    after = conversion(pl.col(name), source, target)
    if after is None:
        kinds = f"{friendly_name(source)}, which cannot become {friendly_name(target)}"
        message = f"schema: column {name!r} of {label} is {kinds}"
        raise StageError(message, ErrorClass.CONFIGURATION)
    return after


def require_columns(wanted: Sequence[str], there: Sequence[str], field: str, label: str) -> None:
    """Raise StageError (configuration), with the nearest names, for the first column that does not exist."""
    for name in wanted:
        if name not in there:
            message = f"{field}: {label} has no column {name!r}{suggestion_hint(name, there)}"
            raise StageError(message, ErrorClass.CONFIGURATION)


def require_new_column(name: str, taken: Sequence[str], label: str) -> None:
    """Raise StageError (configuration) if the column to be added already exists."""
    if name in taken:
        raise StageError(f"file_column: {label} already has a column {name!r}", ErrorClass.CONFIGURATION)


# HTTP downloads of pages into local files, with redirects, retries and limits.
_MOST_REDIRECTS = 10
_HARMLESS_HEADERS = frozenset({"accept", "accept-language", "content-type", "user-agent"})


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
        shown = f"{method} {redact_url(url)}"
        try:
            page = attempts(self._max_retries, self._logger)(self._attempt, method, url, body)
        except RetryRequest as error:
            raise StageError(f"{method} {error}", ErrorClass.TRANSIENT, retry_after=error.retry_after) from error
        except httpx.DecodingError as error:
            raise StageError(
                f"{shown}: the response body does not match its content encoding", ErrorClass.DATA
            ) from error
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
            raise StageError(
                f"{shown}: cannot build a valid request; check the URL and the headers", ErrorClass.CONFIGURATION
            ) from error
        self._received += page.path.stat().st_size
        self._pages += 1
        return page

    def _attempt(self, method: str, url: httpx.URL, body: Any) -> Page:  # noqa: ANN401 - any JSON value
        request = self._request(method, url, body)
        for _ in range(_MOST_REDIRECTS + 1):
            with self._sent(request) as response:
                if response.next_request is None:
                    _raise_for_status(response)
                    return self._downloaded(response)
                request = self._redirected(request, response.next_request)
        raise _refused(f"{redact_url(url)}: more than {_MOST_REDIRECTS} redirects")

    def _request(self, method: str, url: httpx.URL, body: Any) -> httpx.Request:  # noqa: ANN401 - any JSON value
        _require_web(url)
        content = {"content": body} if isinstance(body, str) else ({} if body is None else {"json": body})
        headers = self._headers if same_origin(self._origin, url) else _safe_headers(self._headers)
        return self._client.build_request(method, url.copy_with(userinfo=b""), headers=headers, **content)

    @contextlib.contextmanager
    def _sent(self, request: httpx.Request) -> Iterator[httpx.Response]:
        """The response with its body unread. Temporary failures, also while the body is read, raise AnotherAttempt."""
        try:
            response = self._client.send(request, stream=True)
            with contextlib.closing(response):
                yield response
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            raise
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise _refused(f"{redact_url(request.url)}: the server's certificate is not valid: {error}") from error
            what = str(error) or type(error).__name__
            raise RetryRequest(f"{redact_url(request.url)}: {what}") from error

    def _redirected(self, request: httpx.Request, following: httpx.Request) -> httpx.Request:
        """The request that a redirect leads to, without credentials if it leaves the origin."""
        _require_web(following.url)
        following.url = following.url.copy_with(userinfo=b"")
        if same_origin(self._origin, following.url):
            return following
        if following.method not in {"GET", "HEAD"}:
            message = f"redirects the {following.method} to another origin, {redact_url(following.url)}"
            raise _refused(f"{redact_url(request.url)} {message}")
        for name in self._headers.keys() - _safe_headers(self._headers).keys():
            following.headers.pop(name, None)
        return following

    def _downloaded(self, response: httpx.Response) -> Page:
        path = self._folder / f"page-{self._pages:05d}"
        left = self._max_bytes - self._received
        with path.open("wb") as file:
            for block in response.iter_bytes():
                left -= len(block)
                if left < 0:
                    message = f"{redact_url(response.url)}: more than max_bytes = {self._max_bytes} bytes"
                    raise _refused(message)
                file.write(block)
        return Page(path, response.url, response.headers, response.status_code)


def _safe_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() in _HARMLESS_HEADERS}


def _require_web(url: httpx.URL) -> None:
    if url.scheme not in {"http", "https"} or not url.host:
        raise _refused(f"{redact_url(url)}: only http:// and https:// URLs may be fetched")


def _raise_for_status(response: httpx.Response) -> None:
    """Accept a successful response; raise the error that any other response means."""
    if response.is_success:
        return
    status = f"{response.status_code} {response.reason_phrase}".strip()
    shown = f"{redact_url(response.url)}: {status}"
    wait = seconds_until(response.headers.get("retry-after"))
    if response.status_code in RETRYABLE_STATUS_CODES:
        if wait is not None and wait > PATIENCE:
            raise StageError(
                f"{shown}; the server asks for a retry in {wait:.0f} s", ErrorClass.TRANSIENT, retry_after=wait
            )
        raise RetryRequest(shown, wait)
    if response.is_server_error or response.status_code in PASSING:
        raise StageError(shown, ErrorClass.TRANSIENT, retry_after=wait)
    raise _refused(shown)


def _refused(message: str) -> StageError:
    return StageError(message, ErrorClass.CONFIGURATION)
