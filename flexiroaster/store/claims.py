"""Leases: who drives an execution, and until when. All times are the database's own.

A claim is one statement that raises the fencing token, so whoever drove the execution before can write nothing more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import StoreError
from flexiroaster.store.database import Database

__all__ = ["SUSPECT", "Claim", "claim", "claim_one", "release", "renew", "waiting"]


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that was claimed: with this token its state may be written. `claims` counts since it progressed."""

    execution_id: str
    token: int
    claims: int


SUSPECT = 2
"""So many drivers lost in a row may be chance for one execution, and are the work of another one beside it."""

_ANY = 2**31 - 1

_NOW = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', :seconds || ' seconds')",
    "postgresql": "now() + make_interval(secs => :seconds)",
}
_SKIP_LOCKED = {"sqlite": "", "postgresql": "FOR UPDATE SKIP LOCKED"}

_CLAIM = """
WITH claimable AS (
  SELECT id FROM executions
  WHERE claimable_at IS NOT NULL AND claimable_at <= {now} AND claims >= :least AND claims < :below
  ORDER BY claimable_at, id LIMIT :most {skip_locked}
)
UPDATE executions
SET fencing_token = fencing_token + 1, claims = claims + 1, lease_owner = :owner, claimable_at = {then}
WHERE id IN (SELECT id FROM claimable)
RETURNING id, fencing_token, claims
"""
_CLAIM_ONE = """
UPDATE executions
SET fencing_token = fencing_token + 1, claims = claims + 1, lease_owner = :owner, claimable_at = {then}
WHERE id = :id AND claimable_at IS NOT NULL AND claimable_at <= {now}
RETURNING id, fencing_token, claims
"""
_RENEW = """
UPDATE executions SET claimable_at = {then}
WHERE id IN :ids AND claimable_at IS NOT NULL AND lease_owner = :owner AND claimable_at > {now}
RETURNING id
"""
_RELEASE = """
UPDATE executions SET lease_owner = NULL, claimable_at = {now}, claims = CASE WHEN claims > 0 THEN claims - 1 ELSE 0 END
WHERE id = :id AND lease_owner = :owner AND claimable_at IS NOT NULL
"""
_WAITING = "SELECT 1 FROM executions WHERE claimable_at IS NOT NULL AND claimable_at <= {now} LIMIT 1"


def claim(database: Database, owner: str, *, most: int, lease_seconds: float, suspects: bool = False) -> list[Claim]:
    """Claim up to `most` executions that nobody drives, those that wait longest first. Raises StoreError.

    `suspects` are those that lost their driver SUSPECT times or more without any progress between; they are claimed
    by themselves, the others without them.
    """
    least, below = (SUSPECT, _ANY) if suspects else (0, SUSPECT)
    rows = _execute(database, _CLAIM, owner=owner, most=most, then=lease_seconds, least=least, below=below)
    return [Claim(*row) for row in rows]


def claim_one(database: Database, owner: str, execution_id: str, *, lease_seconds: float) -> Claim | None:
    """Claim this execution if nobody drives it and it needs somebody; None otherwise. Raises StoreError."""
    rows = _execute(database, _CLAIM_ONE, owner=owner, id=execution_id, then=lease_seconds)
    return Claim(*rows[0]) if rows else None


def renew(database: Database, owner: str, execution_ids: Collection[str], *, lease_seconds: float) -> set[str]:
    """Renew the leases of `owner` on these executions that have not run out; those that it holds. Raises StoreError.

    Only what is driven is renewed: a claim that got lost on its way to the driver has to run out.
    """
    if not execution_ids:
        return set()
    rows = _execute(database, _RENEW, owner=owner, ids=list(execution_ids), then=lease_seconds)
    return {row[0] for row in rows}


def release(database: Database, owner: str, execution_ids: Collection[str]) -> None:
    """Give executions up, so that anybody may claim them at once; that claim does not count. Raises StoreError."""
    try:
        with database.write() as connection:
            statement = text(_sql(connection, _RELEASE, None))
            for execution_id in execution_ids:
                connection.execute(statement, {"id": execution_id, "owner": owner, "seconds": 0})
    except SQLAlchemyError as error:
        raise StoreError(f"cannot give up leases: {error}") from error


def waiting(database: Database) -> bool:
    """Whether there is anything to claim. Raises StoreError."""
    try:
        with database.read() as connection:
            return connection.execute(text(_sql(connection, _WAITING, None)), {"seconds": 0}).first() is not None
    except SQLAlchemyError as error:
        raise StoreError(f"cannot look for work: {error}") from error


def _execute(database: Database, template: str, *, then: float, **parameters: Any) -> list[Any]:  # noqa: ANN401 - bound
    try:
        with database.write() as connection:
            statement = text(_sql(connection, template, then))
            if "ids" in parameters:
                statement = statement.bindparams(bindparam("ids", expanding=True))
            return list(connection.execute(statement, {**parameters, "seconds": 0, "lease": then}).all())
    except SQLAlchemyError as error:
        raise StoreError(f"cannot claim or renew leases: {error}") from error


def _sql(connection: Connection, template: str, then: float | None) -> str:
    """The statement in the database's dialect; every part is a constant of this file."""
    dialect = connection.dialect.name
    now = _NOW[dialect]
    return template.format(
        now=now, then="" if then is None else now.replace(":seconds", ":lease"), skip_locked=_SKIP_LOCKED[dialect]
    )
