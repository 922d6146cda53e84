"""The database's clock as SQL expressions; it is authoritative, because the clocks of processes differ."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Float, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from flexiroaster.store.tables import UtcDateTime

__all__ = ["database_now", "database_then"]


class database_now(FunctionElement[datetime]):  # noqa: N801 - used like an SQL function
    """The current time in the format of `UtcDateTime` columns; on PostgreSQL the start of the transaction."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _postgres(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return "now()"


@compiles(database_now, "sqlite")
def _sqlite(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"


class database_then(FunctionElement[datetime]):  # noqa: N801 - as above
    """The time `seconds` after `database_now`."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float) -> None:
        super().__init__(bindparam(None, seconds, type_=Float()))


@compiles(database_then, "postgresql")
def _postgres_then(element: database_then, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - as above
    return f"now() + make_interval(secs => {compiler.process(element.clauses, **options)})"


@compiles(database_then, "sqlite")
def _sqlite_then(element: database_then, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - as above
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', {seconds} || ' seconds')"
