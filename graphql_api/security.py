"""Who asks, and whether they may come in: tokens, the open mode of a loopback address, and the origins of web pages."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from flexiroaster.errors import SettingsError, UnauthenticatedError
from flexiroaster.service import tokens
from flexiroaster.service.installation import Installation
from flexiroaster.service.tokens import Role, Viewer

__all__ = ["LOCAL", "authenticate", "check_binding", "credentials_of", "is_loopback", "origin_allowed"]

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers of a proxy: who asks through one is not this machine."""

LOCAL = Viewer("local", Role.ADMIN)
"""Whoever asks while no token exists and the server can be reached from its own machine only."""


def authenticate(installation: Installation, scope: Scope, credentials: str | None) -> Viewer:
    """Who makes a request or opens a socket, by `Bearer <token>`; reads the database now and then, so not on a loop.

    Without a token that is `LOCAL`, as long as no token was ever made and the connection is one of this machine to
    itself under a loopback name: a page of another site whose name leads here does not pass, nor what a proxy forwards.
    Raises UnauthenticatedError, StoreError.
    """
    if credentials is not None:
        return tokens.authenticate(installation, _secret(credentials))
    if not tokens.any_token(installation) and _is_local(scope):
        return LOCAL
    raise UnauthenticatedError("A token is needed: Authorization: Bearer <token>")


def credentials_of(scope: Scope) -> str | None:
    """The `Authorization` header. Raises UnauthenticatedError when there are several."""
    given = Headers(scope=scope).getlist("authorization")
    if len(given) > 1:
        raise UnauthenticatedError("There must be one Authorization header")
    return given[0] if given else None


def origin_allowed(scope: Scope, origins: Collection[str]) -> bool:
    """Whether the page that sends a request, if one does, is of this server or of an origin that the settings name."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is None or "*" in origins or origin in origins:
        return True
    _, separator, address = origin.partition("://")
    return bool(separator) and address == headers.get("host")


def check_binding(installation: Installation, host: str) -> None:
    """Raises SettingsError when other machines could reach that address and no token was ever made."""
    guarded = tokens.any_token(installation)  # first: it also opens the database, so that the first request need not
    if not guarded and not is_loopback(host):
        raise SettingsError(
            f"HOST: {host} can be reached from other machines, and there is no access token: make one with "
            "`flexiroaster token create`, or bind 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or every address of a name, is this machine's own; an empty one is every address."""
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
    """The name that the client used, without its port."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback_name(host: str) -> bool:
    """Without asking a name server: whose answer is what is not trusted here."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(credentials: str) -> str:
    scheme, _, secret = credentials.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise UnauthenticatedError("The Authorization header must be: Bearer <token>")
    return secret.strip()
