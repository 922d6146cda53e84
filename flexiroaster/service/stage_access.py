"""Stage access: the files, hosts, connections, modules and secrets that the settings let stages reach.

Nothing here imports the database, so checking a file starts fast.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

from flexiroaster.config import HOME, Settings, psycopg_url, secrets_from
from flexiroaster.operators.base import Access

__all__ = ["access_of"]


def access_of(settings: Settings) -> Access:
    """Build the access rules of stages from the settings."""
    file = _database_file(settings)
    return Access(
        file_roots=settings.file_roots,
        connections={name: psycopg_url(url) for name, url in settings.connections.items()},
        output_url=_output_url(settings, file),
        python_modules=settings.python_modules,
        http_hosts=settings.http_allowed_hosts,
        secrets=secrets_from(),
        own_tables=_OwnTables(),
        own_file=str(file) if file else "",
    )


class _OwnTables(Collection[str]):
    """The names of FlexiRoaster's own tables, loaded on first use because most checks do not need SQLAlchemy."""

    @cached_property
    def _names(self) -> tuple[str, ...]:
        from flexiroaster.store.tables import OWN_TABLES

        return OWN_TABLES

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _database_file(settings: Settings) -> Path | None:
    """The path of the installation's SQLite file, which may not exist yet; None on PostgreSQL."""
    url = psycopg_url(settings.database_url)
    if url.startswith("postgresql"):
        return None
    return (Path(url.removeprefix("sqlite:///")) if url else HOME / "flexiroaster.db").resolve()


def _output_url(settings: Settings, file: Path | None) -> str:
    """The URL that database outputs write to when they name no connection.

    On PostgreSQL this is the installation's own database. SQLite has a single writer, and a long output would block
    every state change, so there outputs go to a separate file next to the database.
    """
    if settings.output_database_url:
        return psycopg_url(settings.output_database_url)
    if file is None:
        return psycopg_url(settings.database_url)
    return f"sqlite:///{file.with_name(f'{file.stem}-output.db')}"
