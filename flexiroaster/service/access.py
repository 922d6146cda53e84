"""What the settings of an installation let its stages reach."""

from __future__ import annotations

from pathlib import Path

from flexiroaster.config import HOME, Settings, psycopg_url, secrets_from
from flexiroaster.operators.base import Access

__all__ = ["access_of"]


def access_of(settings: Settings) -> Access:
    """What the settings let stages reach."""
    return Access(
        file_roots=settings.file_roots,
        connections={name: psycopg_url(url) for name, url in settings.connections.items()},
        output_url=_output_url(settings),
        python_modules=settings.python_modules,
        http_hosts=settings.http_allowed_hosts,
        secrets=secrets_from(),
    )


def _output_url(settings: Settings) -> str:
    """Where database outputs write that name no connection.

    PostgreSQL: the installation's own database. SQLite has one writer, and a long output would hold up every change
    of state: there the outputs have a file of their own beside it.
    """
    if settings.output_database_url:
        return psycopg_url(settings.output_database_url)
    url = psycopg_url(settings.database_url)
    if url.startswith("postgresql"):
        return url
    path = Path(url.removeprefix("sqlite:///")) if url else HOME / "flexiroaster.db"
    return f"sqlite:///{path.with_name(f'{path.stem}-output.db').resolve()}"
