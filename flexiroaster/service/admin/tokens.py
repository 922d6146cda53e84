"""Access tokens: create, authenticate, list and revoke them.

A secret is shown once, when it is created. It has 256 random bits, so a plain digest is enough for the lookup: it
cannot be guessed, and a slow hash would add no protection.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from weakref import WeakKeyDictionary

from flexiroaster.errors import InputError, StoreError, UnauthenticatedError
from flexiroaster.model.event import utc_now
from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service.installation import Installation, from_store
from flexiroaster.store import access
from flexiroaster.store.access import TokenRow

__all__ = ["PREFIX", "Role", "TokenRow", "Viewer", "any_token", "authenticate", "create", "listing", "revoke"]

PREFIX = "frt_"
"""The prefix of every secret, so that scanners can find leaked ones."""

CACHE_SECONDS = 5.0
"""How long a verified token is cached. A revocation by another process takes effect within this time."""

LAST_USED_RESOLUTION = timedelta(minutes=1)
"""The resolution of the time of last use: it is written at most once per interval."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Verified:
    token: TokenRow
    until: float


@dataclass(slots=True)
class _TokenCache:
    """The cache of an installation's tokens; it holds only valid ones, so requests cannot fill it."""

    verified: dict[str, _Verified] = field(default_factory=dict)
    exists: bool = False
    checked_until: float = 0.0


_caches: WeakKeyDictionary[Installation, _TokenCache] = WeakKeyDictionary()
_lock = threading.Lock()


def create(installation: Installation, name: str, role: Role, expires: timedelta | None = None) -> str:
    """Create a token and return its secret, which is not stored and cannot be shown again.

    The token expires after `expires`; None means never. Raises InputError (the name is empty or too long, `expires` is
    not positive), ConflictError (the name is taken).
    """
    if not name.strip() or len(name) > 255:
        raise InputError("the name of a token must have 1 to 255 characters", argument="name")
    if expires is not None and expires <= timedelta(0):
        raise InputError("expires: must be longer than 0 seconds", argument="expires")
    now = utc_now()
    secret = f"{PREFIX}{secrets.token_urlsafe(32)}"
    row = TokenRow(
        id=f"token-{secrets.token_hex(6)}",
        name=name,
        role=role,
        created_at=now,
        expires_at=None if expires is None else now + expires,
        revoked_at=None,
        last_used_at=None,
    )
    access.create_token(installation.database, row, _digest(secret))
    _cache_of(installation).exists = True
    return secret


def authenticate(installation: Installation, secret: str) -> Viewer:
    """Return the viewer that a secret belongs to. Most calls need no query: a valid token is cached for some seconds.

    Raises UnauthenticatedError, with the same message for an unknown, expired or revoked token; StoreError.
    """
    digest, now, cache = _digest(secret), utc_now(), _cache_of(installation)
    known = cache.verified.get(digest)
    if known is None or known.until < monotonic():
        known = _verify(installation, digest, now)
        cache.verified[digest] = known
    if not known.token.valid(now):
        cache.verified.pop(digest, None)
        raise _unauthenticated()
    return Viewer(known.token.name, known.token.role)


listing = from_store(access.token_page)


def revoke(installation: Installation, name_or_id: str) -> TokenRow:
    """Revoke a token: in this process at once, in other processes within seconds. Raises NotFoundError."""
    revoked = access.revoke_token(installation.database, name_or_id)
    _cache_of(installation).verified.clear()
    return revoked


def any_token(installation: Installation) -> bool:
    """Whether a token was ever created. Once one was, access requires a token, even if all tokens are revoked."""
    cache = _cache_of(installation)
    if not cache.exists and cache.checked_until < monotonic():
        cache.exists = access.any_token(installation.database)
        cache.checked_until = monotonic() + CACHE_SECONDS
    return cache.exists


def _verify(installation: Installation, digest: str, now: datetime) -> _Verified:
    until = monotonic() + CACHE_SECONDS  # measured before the query, so that no token is cached longer
    token = access.token_by_digest(installation.database, digest)
    if token is None or not token.valid(now):
        raise _unauthenticated()
    if token.last_used_at is None or token.last_used_at < now - LAST_USED_RESOLUTION:
        try:
            access.touch_token(installation.database, token.id, now, LAST_USED_RESOLUTION)
        except StoreError as error:  # this is no reason to refuse the request
            _log.warning("cannot record the last use of token %s: %s", token.id, error.message)
    return _Verified(token, until)


def _cache_of(installation: Installation) -> _TokenCache:
    with _lock:
        return _caches.setdefault(installation, _TokenCache())


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _unauthenticated() -> UnauthenticatedError:
    return UnauthenticatedError("Invalid token: it is unknown, expired or revoked")
