"""The trainings of the safety engine's risk model; the newest model is in use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from flexiroaster.store.database import Database
from flexiroaster.store.safety_tables import risk_models

__all__ = ["ModelRow", "NewModel", "add", "get", "listing"]


@dataclass(frozen=True, slots=True)
class NewModel:
    """A training to store: `model` has its parameters, `metrics` compare the challenger with the champion."""

    created_at: datetime
    version: str
    rung: str
    reason: str
    promoted: bool
    examples: int
    seed: int
    data_hash: str
    metrics: dict[str, Any] | None
    model: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A stored training, without the parameters of the model."""

    id: int
    created_at: datetime
    version: str
    rung: str
    reason: str
    promoted: bool
    examples: int
    seed: int
    data_hash: str
    metrics: dict[str, Any] | None


def add(connection: Connection, new: NewModel) -> None:
    """Store a training."""
    connection.execute(insert(risk_models).values(**asdict(new)))


def get(database: Database, number: int) -> dict[str, Any]:
    """Return the parameters of a model."""
    with database.read() as connection:
        model: dict[str, Any] = connection.execute(
            select(risk_models.c.model).where(risk_models.c.id == number)
        ).scalar_one()
    return model


def listing(database: Database, limit: int) -> list[ModelRow]:
    """Return the newest trainings, newest first."""
    columns = [risk_models.c[name] for name in ModelRow.__slots__]
    with database.read() as connection:
        rows = connection.execute(select(*columns).order_by(risk_models.c.id.desc()).limit(limit)).all()
    return [ModelRow(**row._mapping) for row in rows]
