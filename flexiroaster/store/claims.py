"""Leases: who drives an execution, and until when. All times are the database's own.

A claim is one statement that raises the fencing token, so whoever drove the execution before can write nothing more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, String, bindparam, case, literal, text, tuple_, update
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import StoreError
from flexiroaster.store.clock import database_now
from flexiroaster.store.database import Database
from flexiroaster.store.tables import executions

__all__ = ["SUSPECT", "Claim", "claim", "claim_one", "give_back", "release", "renew", "waiting"]


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that was claimed: with this token its state may be written. `claims` counts since it progressed,
    `lost_by` is who drove it until its lease ran out; None where nobody did.
    """

    execution_id: str
    token: int
    claims: int
    lost_by: str | None = None


SUSPECT = 2
"""So many drivers lost in a row may be chance for one execution, and are the work of another one beside it."""

_ANY = 2**31 - 1

_NOW = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', :seconds || ' seconds')",
    "postgresql": "now() + make_interval(secs => :seconds)",
}
_CLAIMABLE = """
SELECT id, lease_owner FROM executions
WHERE claimable_at IS NOT NULL AND claimable_at <= {now} AND claims >= :least AND claims < :below
ORDER BY claimable_at, id LIMIT :most
"""
_CLAIMABLE_ONE = """
SELECT id, lease_owner FROM executions WHERE id = :id AND claimable_at IS NOT NULL AND claimable_at <= {now}
"""
_TAKE = """
UPDATE executions AS x
SET fencing_token = fencing_token + 1, claims = claims + 1, lease_owner = :owner, claimable_at = {then}
"""
_TAKE_FOUND = f"""
WITH found AS ({{claimable}}) {_TAKE}
FROM found WHERE x.id = found.id RETURNING x.id, x.fencing_token, x.claims, found.lease_owner
"""
_TAKE_THESE = f"{_TAKE} WHERE id IN :ids RETURNING id, fencing_token, claims"
"""SQLite cannot return what was there before, so it reads that first: a writer is alone there."""

_RENEW = """
WITH held (held_id) AS (
  SELECT id FROM executions
  WHERE id IN :ids AND claimable_at IS NOT NULL AND lease_owner = :owner AND claimable_at > {now} ORDER BY id {hold}
)
UPDATE executions SET claimable_at = {then} FROM held WHERE id = held_id RETURNING id
"""
_RELEASE = """
WITH held (held_id) AS (
  SELECT id FROM executions WHERE id IN :ids AND lease_owner = :owner AND claimable_at IS NOT NULL ORDER BY id {hold}
)
UPDATE executions
SET lease_owner = NULL, claimable_at = {now}, claims = CASE WHEN claims > 0 THEN claims - 1 ELSE 0 END
FROM held WHERE id = held_id RETURNING id
"""
"""Both lock the rows in the order of their ids, as the journal does: each would wait for the other otherwise."""

_HOLD = {"sqlite": "", "postgresql": "FOR NO KEY UPDATE"}
_WAITING = "SELECT 1 FROM executions WHERE claimable_at IS NOT NULL AND claimable_at <= {now} LIMIT 1"


def claim(database: Database, owner: str, *, most: int, lease_seconds: float, suspects: bool = False) -> list[Claim]:
    """Claim up to `most` executions that nobody drives, those that wait longest first. Raises StoreError.

    `suspects` are those that lost their driver SUSPECT times or more without any progress between; they are claimed
    by themselves, the others without them.
    """
    least, below = (SUSPECT, _ANY) if suspects else (0, SUSPECT)
    found = {"least": least, "below": below, "most": most}
    return _claim(database, owner, lease_seconds, _CLAIMABLE, "FOR UPDATE SKIP LOCKED", found)


def claim_one(database: Database, owner: str, execution_id: str, *, lease_seconds: float) -> Claim | None:
    """Claim this execution if nobody drives it and it needs somebody; None otherwise. Raises StoreError."""
    claims = _claim(database, owner, lease_seconds, _CLAIMABLE_ONE, "FOR UPDATE", {"id": execution_id})
    return claims[0] if claims else None


def renew(database: Database, owner: str, execution_ids: Collection[str], *, lease_seconds: float) -> set[str]:
    """Renew the leases of `owner` on these executions that have not run out; those that it holds. Raises StoreError.

    Only what is driven is renewed: a claim that got lost on its way to the driver has to run out.
    """
    if not execution_ids:
        return set()
    try:
        with database.write() as connection:
            rows = _rows(connection, _RENEW, lease_seconds, owner=owner, ids=list(execution_ids))
    except SQLAlchemyError as error:
        raise StoreError(f"cannot renew leases: {error}") from error
    return {row.id for row in rows}


def release(database: Database, owner: str, execution_ids: Collection[str]) -> None:
    """Give executions up, so that anybody may claim them at once; that claim does not count. Raises StoreError."""
    if not execution_ids:
        return
    try:
        with database.write() as connection:
            _rows(connection, _RELEASE, None, owner=owner, ids=list(execution_ids))
    except SQLAlchemyError as error:
        raise StoreError(f"cannot give up leases: {error}") from error


def give_back(database: Database, owner: str, given: Collection[Claim], failed: str | None = None) -> None:
    """Undo claims that came to nothing, in one statement: they do not count, and who had lost the lease before is known
    to the next one. `failed` is the execution that could not be read just now: it is claimable only when the lease
    would have run out, so that it never keeps the others waiting. A claim that has run out and been taken by another
    is left alone. Raises StoreError.
    """
    if not given:
        return
    columns = executions.c
    held = tuple_(columns.id, columns.fencing_token).in_([(each.execution_id, each.token) for each in given])
    before = {each.execution_id: literal(each.lost_by, String) for each in given}
    values = {
        "lease_owner": case(before, value=columns.id),
        "claimable_at": case((columns.id == (failed or ""), columns.claimable_at), else_=database_now()),
        "claims": case((columns.claims > 0, columns.claims - 1), else_=0),
    }
    statement = update(executions).where(held, columns.lease_owner == owner, columns.claimable_at.is_not(None))
    try:
        with database.write() as connection:
            connection.execute(statement.values(values))
    except SQLAlchemyError as error:
        raise StoreError(f"cannot give claims back: {error}") from error


def waiting(database: Database) -> bool:
    """Whether there is anything to claim. Raises StoreError."""
    try:
        with database.read() as connection:
            return connection.execute(text(_sql(connection, _WAITING, None)), {"seconds": 0}).first() is not None
    except SQLAlchemyError as error:
        raise StoreError(f"cannot look for work: {error}") from error


def _claim(
    database: Database, owner: str, lease_seconds: float, claimable: str, lock: str, found: Mapping[str, object]
) -> list[Claim]:
    """Claim what the statement `claimable` finds. Whoever gives an execution up is not its owner any more, so who still
    is has lost its lease.
    """
    try:
        with database.write() as connection:
            if not database.is_sqlite:
                statement = _TAKE_FOUND.replace("{claimable}", f"{claimable} {lock}")
                return [Claim(*row) for row in _rows(connection, statement, lease_seconds, owner=owner, **found)]
            owners: dict[str, str | None] = dict(_rows(connection, claimable, None, **found))
            if not owners:
                return []
            taken = _rows(connection, _TAKE_THESE, lease_seconds, owner=owner, ids=list(owners))
            return [Claim(row.id, row.fencing_token, row.claims, owners[row.id]) for row in taken]
    except SQLAlchemyError as error:
        raise StoreError(f"cannot claim executions: {error}") from error


def _rows(connection: Connection, template: str, then: float | None, **parameters: object) -> list[Any]:
    statement = text(_sql(connection, template, then))
    if "ids" in parameters:
        statement = statement.bindparams(bindparam("ids", expanding=True))
    times = {"seconds": 0} if then is None else {"seconds": 0, "lease": then}
    return list(connection.execute(statement, {**parameters, **times}).all())


def _sql(connection: Connection, template: str, then: float | None) -> str:
    """The statement in the database's dialect; every part is a constant of this file."""
    dialect = connection.dialect.name
    now = _NOW[dialect]
    then_sql = "" if then is None else now.replace(":seconds", ":lease")
    return template.format(now=now, then=then_sql, hold=_HOLD[dialect])
