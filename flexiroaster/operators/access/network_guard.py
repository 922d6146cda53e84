"""Network guard: an HTTP client for stages that refuses private addresses unless the host is allowed by name.

The guard works below the HTTP client and checks the same address that it then connects to: one resolution, one check,
one connection. A redirect, a link in a page, or a name that resolves differently the second time cannot bypass it.
The `Host` header and the name that TLS verifies are those of the URL. `call_with_retries` repeats requests that fail
temporarily, within limits; longer waits are left to the retry of the stage.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

import httpcore
import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from flexiroaster.errors import ErrorClass, StageError, configuration_error
from flexiroaster.operators.base import Access

__all__ = [
    "call_with_retries",
    "checked_headers",
    "convert_request_errors",
    "guarded_client",
    "is_public",
    "raise_if_transient",
    "redact_url",
    "require_public_literal",
    "same_origin",
    "seconds_until",
    "web_host",
]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")

_MAX_RETRY_WAIT_SECONDS = 60.0
"""The longest wait for a retry within a stage attempt; a longer wait is left to the next stage attempt."""

_MAX_RETRY_AFTER_SECONDS = 86_400.0
_BACKOFF = wait_random_exponential(multiplier=0.5, max=30)

_RETRYABLE_STATUS_CODES = frozenset({429, 502, 503, 504})
"""Status codes after which the same request is sent again."""

_TRANSIENT_STATUS_CODES = _RETRYABLE_STATUS_CODES | {408, 425}
"""Status codes of temporary failures; an immediate repetition of the request solves only the retryable ones."""

P = ParamSpec("P")
T = TypeVar("T")

_RESERVED_OPTIONS = frozenset({"transport", "mounts", "proxy", "trust_env", "app"})


def guarded_client(access: Access, *, verify: ssl.SSLContext | bool = True, **options: object) -> httpx.Client:
    """Return an `httpx.Client` that connects only to public addresses and to `access.http_hosts`.

    The client ignores the proxies and certificates of the environment, because they would decide where a request goes.
    `options` are those of `httpx.Client`, except the ones that replace the transport. A request to any other address
    raises StageError (configuration).
    """
    if replaced := sorted(_RESERVED_OPTIONS & options.keys()):
        raise TypeError(f"guarded_client() does not accept {', '.join(replaced)}")
    transport = _GuardedTransport(access.http_hosts, verify)
    return httpx.Client(transport=transport, trust_env=False, **options)  # type: ignore[arg-type]  # checked by httpx


def is_public(address: IPAddress) -> bool:
    """Return whether an address is publicly routable; an embedded IPv4 address decides for an IPv6 address."""
    if embedded := _embedded_ipv4(address):
        return is_public(embedded)
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    return address.is_global and not special and not site_local


def _embedded_ipv4(address: IPAddress) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address embedded in an IPv6 address: IPv4-mapped, 6to4, Teredo (the client) or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Return whether credentials for `one` may be sent to `other`.

    Scheme, host and port must be equal, or `other` must be the default HTTPS port of the same host.
    """
    origin, target = _origin(one), _origin(other)
    upgraded = ("http", one.host, 80) == origin and ("https", one.host, 443) == target
    return origin == target or upgraded


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)


def redact_url(url: httpx.URL | str) -> str:
    """Return a URL for messages, without user, password, fragment and query values; query names are kept."""
    parsed = httpx.URL(url)
    names = "&".join(f"{name}=..." for name in dict(parsed.params))
    plain = str(parsed.copy_with(userinfo=b"", query=None, fragment=None))
    return f"{plain}?{names}" if names else plain


def web_host(url: str) -> str:
    """Return the host of a web address. Raises ValueError with the reason if the URL is not one."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if the port is out of range
    except ValueError as error:
        raise ValueError("is not a valid URL") from error
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    return parts.hostname


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with stripped values. Raises StageError that names the header but not its value."""
    stripped = {name: value.strip() for name, value in headers.items()}
    for name, value in stripped.items():
        if not _HEADER_VALUE.fullmatch(value):
            raise configuration_error(f"headers: the value of {name!r} has characters that a header cannot have")
    return stripped


def require_public_literal(host: str, access: Access) -> None:
    """Raise StageError (configuration) if the host is a literal private address.

    The check does not use the network, so it accepts every host name.
    """
    try:
        address = ipaddress.ip_address(_normalize_host(host))
    except ValueError:
        return
    if _normalize_host(host) not in map(_normalize_host, access.http_hosts):
        _refuse_private(host, str(address))


class _UrlsWithoutSecrets(logging.Filter):
    """Redacts URLs in the log of httpx, because it logs whole URLs and queries and user names may be secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(redact_url(arg) if isinstance(arg, httpx.URL) else arg for arg in record.args)
        return True


logging.getLogger("httpx").addFilter(_UrlsWithoutSecrets())


class _GuardedBackend(httpcore.SyncBackend):
    """A network backend that resolves a name once, refuses private addresses, and connects to a checked address."""

    def __init__(self, allowed_hosts: Iterable[str]) -> None:
        self._allowed = frozenset(map(_normalize_host, allowed_hosts))

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that accepts. Raises StageError, httpcore.ConnectError or ConnectTimeout."""
        failure: Exception | None = None
        for address in self._checked_addresses(host, port):
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options or ())
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002 - httpcore's signature
    ) -> httpcore.NetworkStream:
        """Raise StageError: a local socket is not a public address."""
        raise configuration_error(f"stages may not connect to unix socket {path}")

    def _checked_addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"cannot resolve host name {host!r}: {error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if _normalize_host(host) not in self._allowed:
            for address in addresses:
                _refuse_private(host, address)
        return addresses


def _refuse_private(host: str, address: str) -> None:
    if is_public(ipaddress.ip_address(address)):
        return
    subject = f"{host} is" if _normalize_host(host) == _normalize_host(address) else f"{host} resolves to {address},"
    raise configuration_error(
        f"{subject} a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it"
    )


def _normalize_host(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


class _GuardedTransport(httpx.BaseTransport):
    """An httpx transport over an httpcore pool that uses the guarded network backend."""

    def __init__(self, allowed_hosts: Iterable[str], verify: ssl.SSLContext | bool) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, trust_env=False),
            max_connections=10,
            keepalive_expiry=5.0,
            network_backend=_GuardedBackend(allowed_hosts),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises StageError for a refused address and httpx errors otherwise."""
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        with _as_httpx_errors(request):
            response = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    target,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        stream = _Body(response, request)
        return httpx.Response(response.status, headers=response.headers, stream=stream, extensions=response.extensions)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors(self._request):
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


_HTTPCORE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


@contextmanager
def _as_httpx_errors(request: httpx.Request) -> Iterator[None]:
    """Convert httpcore exceptions to the httpx exceptions of the same names."""
    try:
        yield
    except _HTTPCORE_ERRORS as error:
        raise getattr(httpx, type(error).__name__)(str(error), request=request) from error


# --- retries ---


class _RetryRequest(Exception):  # noqa: N818 - a retry request, not an error; it never leaves an operator
    """Requests a retry, after `retry_after` seconds if the server sent `Retry-After`."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def call_with_retries(
    max_retries: int, logger: logging.Logger, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function that sends a request; repeat it after a temporary failure and log each wait.

    Raises StageError (transient) with the last failure after `max_retries` retries.
    """

    def log_wait(state: RetryCallState) -> None:
        outcome, action = state.outcome, state.next_action
        reason = outcome.exception() if outcome else None
        logger.warning("%s; next attempt in %.1f s", reason, action.sleep if action else 0.0)

    retrying = Retrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=_retry_wait,
        retry=retry_if_exception_type(_RetryRequest),
        before_sleep=log_wait,
        reraise=True,
    )
    try:
        return retrying(function, *args, **kwargs)
    except _RetryRequest as error:
        raise StageError(str(error), ErrorClass.TRANSIENT, retry_after=error.retry_after) from error


def _retry_wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    wanted = error.retry_after if isinstance(error, _RetryRequest) else None
    return _BACKOFF(state) if wanted is None else wanted


@contextmanager
def convert_request_errors(request: str) -> Iterator[None]:
    """Request a retry for a failed transfer; raise StageError (configuration) if the request itself is wrong."""
    try:
        yield
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
        raise configuration_error(f"{request}: cannot build a valid request; check the URL and the headers") from error
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise configuration_error(f"{request}: the server's certificate is not valid: {error}") from error
        raise _RetryRequest(f"{request}: {str(error) or type(error).__name__}") from error


def raise_if_transient(response: httpx.Response, message: str) -> None:
    """Request a retry, or raise StageError (transient), if the status means a temporary failure."""
    status = response.status_code
    wait = seconds_until(response.headers.get("retry-after"))
    if status in _RETRYABLE_STATUS_CODES:
        if wait is None or wait <= _MAX_RETRY_WAIT_SECONDS:
            raise _RetryRequest(message, wait)
        message = f"{message}; the server asks for a retry in {wait:.0f} s"
    if response.is_server_error or status in _TRANSIENT_STATUS_CODES:
        raise StageError(message, ErrorClass.TRANSIENT, retry_after=wait)


def seconds_until(retry_after: str | None) -> float | None:
    """Return `Retry-After` in seconds from now, at most one day, or None if it is absent or malformed."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return min(float(retry_after), _MAX_RETRY_AFTER_SECONDS)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (aware - datetime.now(UTC)).total_seconds()), _MAX_RETRY_AFTER_SECONDS)
