"""HTTP downloads of pages into local files, with redirects, retries and limits.

Redirects are followed here. Credentials go only to the origin of the configured URL: a redirect or a page link that
leads elsewhere is followed without them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.network_guard import same_origin, shown_url
from flexiroaster.operators.patience import (
    PASSING,
    PATIENCE,
    WORTH_ANOTHER,
    AnotherAttempt,
    attempts,
    checked_headers,
    seconds_until,
)

__all__ = ["Fetcher", "Page"]

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
        shown = f"{method} {shown_url(url)}"
        try:
            page = attempts(self._max_retries, self._logger)(self._attempt, method, url, body)
        except AnotherAttempt as error:
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
                    _judge(response)
                    return self._downloaded(response)
                request = self._redirected(request, response.next_request)
        raise _refused(f"{shown_url(url)}: more than {_MOST_REDIRECTS} redirects")

    def _request(self, method: str, url: httpx.URL, body: Any) -> httpx.Request:  # noqa: ANN401 - any JSON value
        _require_web(url)
        content = {"content": body} if isinstance(body, str) else ({} if body is None else {"json": body})
        headers = self._headers if same_origin(self._origin, url) else _harmless(self._headers)
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
                raise _refused(f"{shown_url(request.url)}: the server's certificate is not valid: {error}") from error
            what = str(error) or type(error).__name__
            raise AnotherAttempt(f"{shown_url(request.url)}: {what}") from error

    def _redirected(self, request: httpx.Request, following: httpx.Request) -> httpx.Request:
        """The request that a redirect leads to, without credentials if it leaves the origin."""
        _require_web(following.url)
        following.url = following.url.copy_with(userinfo=b"")
        if same_origin(self._origin, following.url):
            return following
        if following.method not in {"GET", "HEAD"}:
            message = f"redirects the {following.method} to another origin, {shown_url(following.url)}"
            raise _refused(f"{shown_url(request.url)} {message}")
        for name in self._headers.keys() - _harmless(self._headers).keys():
            following.headers.pop(name, None)
        return following

    def _downloaded(self, response: httpx.Response) -> Page:
        path = self._folder / f"page-{self._pages:05d}"
        left = self._max_bytes - self._received
        with path.open("wb") as file:
            for block in response.iter_bytes():
                left -= len(block)
                if left < 0:
                    message = f"{shown_url(response.url)}: more than max_bytes = {self._max_bytes} bytes"
                    raise _refused(message)
                file.write(block)
        return Page(path, response.url, response.headers, response.status_code)


def _harmless(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() in _HARMLESS_HEADERS}


def _require_web(url: httpx.URL) -> None:
    if url.scheme not in {"http", "https"} or not url.host:
        raise _refused(f"{shown_url(url)}: only http:// and https:// URLs may be fetched")


def _judge(response: httpx.Response) -> None:
    """Accept a successful response; raise the error that any other response means."""
    if response.is_success:
        return
    status = f"{response.status_code} {response.reason_phrase}".strip()
    shown = f"{shown_url(response.url)}: {status}"
    wait = seconds_until(response.headers.get("retry-after"))
    if response.status_code in WORTH_ANOTHER:
        if wait is not None and wait > PATIENCE:
            raise StageError(
                f"{shown}; the server asks for a retry in {wait:.0f} s", ErrorClass.TRANSIENT, retry_after=wait
            )
        raise AnotherAttempt(shown, wait)
    if response.is_server_error or response.status_code in PASSING:
        raise StageError(shown, ErrorClass.TRANSIENT, retry_after=wait)
    raise _refused(shown)


def _refused(message: str) -> StageError:
    return StageError(message, ErrorClass.CONFIGURATION)
