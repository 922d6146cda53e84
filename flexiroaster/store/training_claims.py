"""The training lease: one process of an installation trains at a time, by the database's clock."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, or_, select, update

from flexiroaster.store.clock import database_now, database_then
from flexiroaster.store.database import Database
from flexiroaster.store.safety_tables import risk_models, risk_progress

__all__ = ["claim", "claim_at_once", "release", "renew"]


def claim(database: Database, owner: str, *, model_id: int | None, lease_seconds: float) -> bool:
    """Claim the next automatic training; return whether the claim succeeded. Raises StoreError.

    The claim fails while another process trains, before the training may begin, and if a model newer than `model_id`
    exists: then another process has trained since this training became due.
    """
    newest = select(func.coalesce(func.max(risk_models.c.id), 0)).scalar_subquery()
    may_begin = or_(risk_progress.c.training_until.is_(None), risk_progress.c.training_until <= database_now())
    return _claim(database, owner, lease_seconds, may_begin, newest == (model_id or 0))


def claim_at_once(database: Database, owner: str, *, lease_seconds: float) -> bool:
    """Claim a training that a user requested; return False while another training runs. Raises StoreError."""
    nobody = or_(risk_progress.c.training_owner.is_(None), risk_progress.c.training_until <= database_now())
    return _claim(database, owner, lease_seconds, nobody)


def renew(database: Database, owner: str, *, lease_seconds: float) -> bool:
    """Renew the lease; return False if another process has claimed the training. Raises StoreError."""
    return _claim(database, owner, lease_seconds, risk_progress.c.training_owner == owner)


def release(database: Database, owner: str, *, pause_seconds: float) -> None:
    """Release the lease after a training, whatever its result. Raises StoreError.

    The next automatic training may begin after `pause_seconds`.
    """
    values = {"training_owner": None, "training_until": database_then(pause_seconds)}
    with database.write() as connection:
        connection.execute(update(risk_progress).where(risk_progress.c.training_owner == owner).values(values))


def _claim(database: Database, owner: str, lease_seconds: float, *conditions: ColumnElement[bool]) -> bool:
    values = {"training_owner": owner, "training_until": database_then(lease_seconds)}
    with database.write() as connection:
        return connection.execute(update(risk_progress).where(*conditions).values(values)).rowcount == 1
