"""OpenTelemetry traces of executions, for installations with a collector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexiroaster.errors import SettingsError

if TYPE_CHECKING:
    from flexiroaster.config import Settings
    from flexiroaster.service.tracing.execution import Tracing
    from flexiroaster.store.database import Database
    from flexiroaster.threads import Threads

__all__ = ["open_tracing"]


def open_tracing(settings: Settings, owner: str, database: Database, threads: Threads | None = None) -> Tracing:
    """Open tracing of the executions that this process (`owner`) drives, with the collector from the settings.

    Raises SettingsError if OpenTelemetry is not installed.
    """
    try:
        from flexiroaster.service.tracing.execution import Tracing
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "opentelemetry":
            raise
        message = f"{settings.traces_variable}: traces need the otel extra: pip install 'flexiroaster[otel]'"
        raise SettingsError(message) from error
    return Tracing(settings.traces_endpoint, owner, database, threads)
