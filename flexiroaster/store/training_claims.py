"""Who trains: one process of an installation at a time, judged by the database's clock."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, or_, select, update

from flexiroaster.store.clock import database_now, database_then
from flexiroaster.store.database import Database
from flexiroaster.store.safety_tables import risk_models, risk_progress

__all__ = ["claim", "claim_at_once", "release", "renew"]


def claim(database: Database, owner: str, *, model_id: int | None, lease_seconds: float) -> bool:
    """Claim the next training, which nobody asked for; whether it was got. Raises StoreError.

    It is not got while somebody trains, before it may begin, and when there is a newer model than `model_id`: then
    somebody has trained since it was found to be due.
    """
    newest = select(func.coalesce(func.max(risk_models.c.id), 0)).scalar_subquery()
    may_begin = or_(risk_progress.c.training_until.is_(None), risk_progress.c.training_until <= database_now())
    return _claim(database, owner, lease_seconds, may_begin, newest == (model_id or 0))


def claim_at_once(database: Database, owner: str, *, lease_seconds: float) -> bool:
    """Claim a training that somebody asked for; False while another one is under way. Raises StoreError."""
    nobody = or_(risk_progress.c.training_owner.is_(None), risk_progress.c.training_until <= database_now())
    return _claim(database, owner, lease_seconds, nobody)


def renew(database: Database, owner: str, *, lease_seconds: float) -> bool:
    """Go on; False when another one trains meanwhile. Raises StoreError."""
    return _claim(database, owner, lease_seconds, risk_progress.c.training_owner == owner)


def release(database: Database, owner: str, *, pause_seconds: float) -> None:
    """The training is over, however it ended; the next one that nobody asks for begins after a pause. StoreError."""
    values = {"training_owner": None, "training_until": database_then(pause_seconds)}
    with database.write() as connection:
        connection.execute(update(risk_progress).where(risk_progress.c.training_owner == owner).values(values))


def _claim(database: Database, owner: str, lease_seconds: float, *conditions: ColumnElement[bool]) -> bool:
    values = {"training_owner": owner, "training_until": database_then(lease_seconds)}
    with database.write() as connection:
        return connection.execute(update(risk_progress).where(*conditions).values(values)).rowcount == 1
