"""Types that PostgreSQL declares for the columns of a result, for columns that hold no value at all."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import Column, postgres

from flexiroaster.operators.inputs.type_inference import Kind, Shape

__all__ = ["shape_of"]

_KINDS: Mapping[str, Kind] = {
    "bool": Kind.BOOLEAN,
    "int2": Kind.INTEGER,
    "int4": Kind.INTEGER,
    "int8": Kind.INTEGER,
    "float4": Kind.FLOAT,
    "float8": Kind.FLOAT,
    "numeric": Kind.DECIMAL,
    "text": Kind.TEXT,
    "varchar": Kind.TEXT,
    "bpchar": Kind.TEXT,
    "name": Kind.TEXT,
    "bytea": Kind.BINARY,
    "date": Kind.DATE,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.INSTANT,
    "time": Kind.TIME,
    "interval": Kind.DURATION,
    "uuid": Kind.OTHER,
}


def shape_of(column: Column) -> Shape:
    """The shape of a column without values; left open for types that cover many kinds (json, arrays)."""
    info = postgres.types.get(column.type_code)
    kind = _KINDS.get(info.name) if info is not None and info.oid == column.type_code else None
    return Shape() if kind is None else Shape({kind}, scale=max(column.scale or 0, 0))
