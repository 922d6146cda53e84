"""Network guard: an HTTP client for stages that refuses private addresses unless the host is allowed by name.

The guard works below the HTTP client and checks the same address that it then connects to: one resolution, one check,
one connection. A redirect, a link in a page, or a name that resolves differently the second time cannot bypass it.
The `Host` header and the name that TLS verifies are those of the URL.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore
import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.base import Access

__all__ = [
    "PASSING",
    "PATIENCE",
    "RETRYABLE_STATUS_CODES",
    "RetryRequest",
    "attempts",
    "checked_headers",
    "guarded_client",
    "is_public",
    "redact_url",
    "require_public_literal",
    "same_origin",
    "seconds_until",
]


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OURS = frozenset({"transport", "mounts", "proxy", "trust_env", "app"})


def guarded_client(access: Access, *, verify: ssl.SSLContext | bool = True, **options: object) -> httpx.Client:
    """Return an `httpx.Client` that connects only to public addresses and to `access.http_hosts`.

    The client ignores the proxies and certificates of the environment, because they would decide where a request goes.
    `options` are those of `httpx.Client`, except the ones that replace the transport. A request to any other address
    raises StageError (configuration).
    """
    if replaced := sorted(_OURS & options.keys()):
        raise TypeError(f"guarded_client() does not accept {', '.join(replaced)}")
    transport = _GuardedTransport(access.http_hosts, verify)
    return httpx.Client(transport=transport, trust_env=False, **options)  # type: ignore[arg-type]  # checked by httpx


def is_public(address: IPAddress) -> bool:
    """Return whether an address is publicly routable; an embedded IPv4 address decides for an IPv6 address."""
    inner = _embedded(address)
    if inner is not None:
        return is_public(inner)
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    return address.is_global and not special and not site_local


def _embedded(address: IPAddress) -> ipaddress.IPv4Address | None:
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
    here, there = _origin(one), _origin(other)
    upgraded = ("http", one.host, 80) == here and ("https", one.host, 443) == there
    return here == there or upgraded


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)


def redact_url(url: httpx.URL | str) -> str:
    """Return a URL for messages, without user, password, fragment and query values; query names are kept."""
    parsed = httpx.URL(url)
    names = "&".join(f"{name}=..." for name in dict(parsed.params))
    plain = str(parsed.copy_with(userinfo=b"", query=None, fragment=None))
    return f"{plain}?{names}" if names else plain


def require_public_literal(host: str, access: Access) -> None:
    """Raise StageError (configuration) if the host is a literal private address.

    The check does not use the network, so it accepts every host name.
    """
    try:
        address = ipaddress.ip_address(_normal(host))
    except ValueError:
        return
    if _normal(host) not in map(_normal, access.http_hosts):
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
        self._allowed = frozenset(map(_normal, allowed_hosts))

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
        raise StageError(f"stages may not connect to unix socket {path}", ErrorClass.CONFIGURATION)

    def _checked_addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"cannot resolve host name {host!r}: {error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if _normal(host) not in self._allowed:
            for address in addresses:
                _refuse_private(host, address)
        return addresses


def _refuse_private(host: str, address: str) -> None:
    if is_public(ipaddress.ip_address(address)):
        return
    subject = f"{host} is" if _normal(host) == _normal(address) else f"{host} resolves to {address},"
    message = f"{subject} a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it"
    raise StageError(message, ErrorClass.CONFIGURATION)


def _normal(host: str) -> str:
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


# HTTP retry: which status codes are retried, how long to wait, and when to leave the retry to the stage.
PATIENCE = 60.0
"""The longest wait (s) for a retry within a stage attempt; a longer wait is left to the next stage attempt."""

RETRYABLE_STATUS_CODES = frozenset({429, 502, 503, 504})
"""Status codes after which the same request is sent again."""

PASSING = frozenset({408, 425})
"""Status codes of transient failures that an immediate repetition of the request does not solve."""

_LONGEST = 86_400.0
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_BACKOFF = wait_random_exponential(multiplier=0.5, max=30)


class RetryRequest(Exception):  # noqa: N818 - a retry request, not an error; it never leaves an operator
    """Requests a retry, after `retry_after` seconds if the server sent `Retry-After`."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def attempts(max_retries: int, logger: logging.Logger) -> Retrying:
    """Return a retrier that calls a function until it does not raise `RetryRequest`; it logs each wait.

    After `max_retries` retries it raises the last `RetryRequest`.
    """

    def log_pause(state: RetryCallState) -> None:
        outcome, action = state.outcome, state.next_action
        reason = outcome.exception() if outcome else None
        logger.warning("%s; next attempt in %.1f s", reason, action.sleep if action else 0.0)

    return Retrying(
        stop=stop_after_attempt(max_retries + 1),
        wait=_pause,
        retry=retry_if_exception_type(RetryRequest),
        before_sleep=log_pause,
        reraise=True,
    )


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with stripped values. Raises StageError that names the header but not its value."""
    stripped = {name: value.strip() for name, value in headers.items()}
    for name, value in stripped.items():
        if not _HEADER_VALUE.fullmatch(value):
            message = f"headers: the value of {name!r} has characters that a header cannot have"
            raise StageError(message, ErrorClass.CONFIGURATION)
    return stripped


def seconds_until(retry_after: str | None) -> float | None:
    """Return `Retry-After` in seconds from now, at most one day, or None if it is absent or malformed."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return min(float(retry_after), _LONGEST)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (aware - datetime.now(UTC)).total_seconds()), _LONGEST)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, RetryRequest) else None
    return _BACKOFF(state) if asked is None else asked
