"""Authentication by bearer token, token-free access over loopback, and the origin check for web pages."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from flexiroaster.errors import SettingsError, UnauthenticatedError
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role, Viewer
from flexiroaster.service.installation import Installation

__all__ = ["LOCAL", "authenticate", "check_binding", "credentials_of", "is_loopback", "origin_allowed"]

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers that a proxy adds: a forwarded request may come from another machine."""

LOCAL = Viewer("local", Role.ADMIN)
"""The viewer of local requests while no token exists."""


def authenticate(installation: Installation, scope: Scope, credentials: str | None) -> Viewer:
    """Return the viewer of a request or a WebSocket by its `Bearer <token>`. Raises UnauthenticatedError, StoreError.

    It may read the database, so call it off the event loop. A request without a token is `LOCAL` if no token was ever
    created and this machine connects to itself under a loopback name. This excludes pages of other sites whose names
    resolve to this machine (DNS rebinding), and requests that a proxy forwards.
    """
    if credentials is not None:
        return tokens.authenticate(installation, _secret(credentials))
    if not tokens.any_token(installation) and _is_local(scope):
        return LOCAL
    raise UnauthenticatedError("Authentication required: send the header Authorization: Bearer <token>")


def credentials_of(scope: Scope) -> str | None:
    """Return the `Authorization` header. Raises UnauthenticatedError if the request has several."""
    given = Headers(scope=scope).getlist("authorization")
    if len(given) > 1:
        raise UnauthenticatedError("The request must have only one Authorization header")
    return given[0] if given else None


def origin_allowed(scope: Scope, origins: Collection[str]) -> bool:
    """Whether a request comes from no web page, from a page of this server, or from an origin in the settings."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is None or "*" in origins or origin in origins:
        return True
    _, separator, address = origin.partition("://")
    return bool(separator) and address == headers.get("host")


def check_binding(installation: Installation, host: str) -> None:
    """Raise SettingsError if other machines can reach the address and no token was ever created."""
    guarded = tokens.any_token(installation)  # first, because it opens the database before the first request needs it
    if not guarded and not is_loopback(host):
        raise SettingsError(
            f"HOST: {host} is reachable from other machines, but no access token exists: create one with "
            "`flexiroaster token create`, or bind to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or every address of a name, is a loopback address; an empty host binds all addresses."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or (bool(host) and _resolves_to_loopback(host))


def _resolves_to_loopback(name: str) -> bool:
    try:
        found = socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def _is_local(scope: Scope) -> bool:
    server, headers = scope.get("server"), Headers(scope=scope)
    if server is None or any(name in headers for name in _FORWARDED):
        return False
    return _is_loopback_name(str(server[0])) and _is_loopback_name(_host(headers))


def _host(headers: Headers) -> str:
    """The host name that the client used, without the port."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback_name(host: str) -> bool:
    """Whether a name is loopback by itself; it is not resolved, because DNS answers are not trusted here."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(credentials: str) -> str:
    scheme, _, secret = credentials.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise UnauthenticatedError("The Authorization header must have the form: Bearer <token>")
    return secret.strip()
