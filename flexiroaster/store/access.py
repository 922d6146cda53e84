"""The audit log, append-only until retention deletes old rows; and the access tokens.

Only the digest of a token's secret is stored, so a reader of the database cannot use it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.operators import eq, ge, lt

from flexiroaster.errors import ConflictError, NotFoundError
from flexiroaster.model.event import utc_now
from flexiroaster.model.paging import Page, Window
from flexiroaster.model.viewer import Role
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Condition, Sort, TableReader, conditions
from flexiroaster.store.tables import audit_log, tokens

__all__ = [
    "AuditFilter",
    "AuditRow",
    "TokenRow",
    "any_token",
    "audit_count",
    "audit_page",
    "create_token",
    "record_audit_entry",
    "revoke_token",
    "token_by_digest",
    "token_page",
    "touch_token",
]

# --- the audit log ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One entry: `viewer`, with `role`, did `action` on `subject`; `outcome` is `ok` or the code of an error."""

    id: int
    at: datetime
    viewer: str
    role: Role
    action: str
    subject: str | None
    arguments: dict[str, Any]
    outcome: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """A filter for entries; a field that is None matches all. `before` is exclusive."""

    viewer: str | None = None
    action: str | None = None
    subject: str | None = None
    after: datetime | None = None
    before: datetime | None = None


def record_audit_entry(database: Database, **entry: Any) -> None:  # noqa: ANN401 - the columns of the table except the id
    """Add an entry, with one statement."""
    with database.write() as connection:
        connection.execute(insert(audit_log).values(**entry))


_entries = TableReader(audit_log, AuditRow, role=Role)
_NEWEST_ENTRIES = Sort("audit", audit_log.c.id, descending=True)


def audit_page(database: Database, wanted: AuditFilter = AuditFilter(), window: Window = Window()) -> Page[AuditRow]:
    """Return a page of the matching entries, newest first. Raises InputError (cursor)."""
    with database.read() as connection:
        return _entries.page(connection, _conditions(wanted), _NEWEST_ENTRIES, window)


def audit_count(database: Database, wanted: AuditFilter = AuditFilter()) -> int:
    """Count the matching entries; scans all of them."""
    with database.read() as connection:
        return _entries.count(connection, _conditions(wanted))


def _conditions(wanted: AuditFilter) -> list[Condition]:
    return conditions(
        (audit_log.c.viewer, eq, wanted.viewer),
        (audit_log.c.action, eq, wanted.action),
        (audit_log.c.subject, eq, wanted.subject),
        (audit_log.c.at, ge, wanted.after),
        (audit_log.c.at, lt, wanted.before),
    )


# --- access tokens ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token without its secret. If `expires_at` is None, it never expires. `last_used_at` is exact to a minute."""

    id: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def valid(self, now: datetime) -> bool:
        """Return whether the token is in force at that time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


_tokens = TableReader(tokens, TokenRow, role=Role)
_NEWEST_TOKENS = Sort("tokens", tokens.c.id, tokens.c.created_at, descending=True)


def create_token(database: Database, token: TokenRow, digest: str) -> None:
    """Store a token. Raises ConflictError if an unrevoked token has the same name; a revoked one frees its name."""
    with database.write() as connection:
        try:
            connection.execute(insert(tokens).values(**asdict(token), digest=digest))
        except IntegrityError as error:
            raise ConflictError(f"Token already exists: {token.name}", name=token.name) from error


def token_by_digest(database: Database, digest: str) -> TokenRow | None:
    """Return the token whose secret has this digest, if any, whether or not it is in force."""
    with database.read() as connection:
        return _tokens.first(connection, tokens.c.digest == digest)


def touch_token(database: Database, token_id: str, now: datetime, every: timedelta) -> None:
    """Record that the token was used; writes only if the last record is older than `every`."""
    stale = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < now - every)
    with database.write() as connection:
        connection.execute(update(tokens).where(tokens.c.id == token_id, stale).values(last_used_at=now))


def revoke_token(database: Database, name_or_id: str) -> TokenRow:
    """Revoke a token by its id or name and return it. Raises NotFoundError."""
    named = or_(tokens.c.id == name_or_id, tokens.c.name == name_or_id)
    change = update(tokens).where(named, tokens.c.revoked_at.is_(None)).values(revoked_at=utc_now())
    with database.write() as connection:
        row = connection.execute(change.returning(*_tokens.columns)).first()
    if row is None:
        raise NotFoundError(f"No token in force has the name or id: {name_or_id}", token=name_or_id)
    return _tokens.convert(row)


def any_token(database: Database) -> bool:
    """Return whether any token exists, in force or not."""
    with database.read() as connection:
        return connection.execute(select(tokens.c.id).limit(1)).first() is not None


def token_page(database: Database, window: Window = Window()) -> Page[TokenRow]:
    """Return a page of all tokens, in force or not, newest first. Raises InputError (cursor)."""
    with database.read() as connection:
        return _tokens.page(connection, [], _NEWEST_TOKENS, window)
