"""The log of the process: one line per event, as JSON or text, with the worker on every line and secrets redacted.

The history of executions is in the database; this log serves operators who watch the processes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import structlog

from flexiroaster.config import LogFormat, Settings
from flexiroaster.model.event import Event, EventType
from flexiroaster.operators.access.redaction import redact_json, redactor
from flexiroaster.operators.base import Access

__all__ = ["configure", "log_events"]

_LEVELS = logging.getLevelNamesMapping()

_WORDY = ("alembic", "httpx", "httpcore", "sqlalchemy", "botocore", "s3fs", "fsspec", "asyncio", "urllib3")
"""Verbose libraries: only their warnings and errors are logged."""

_QUIET = {EventType.STAGE_PROGRESS}
"""Events too frequent for the log."""


def configure(settings: Settings, access: Access, worker: str) -> None:
    """Send all logs of this process to stderr, in the format `LOG_FORMAT` and from the level `LOG_LEVEL`.

    Every line names the `worker`; secrets and the passwords of connections are replaced by `***`.
    """
    redact = redactor(access)

    def add_worker(_logger: object, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line.setdefault("worker", worker)
        return line

    def hide_secrets(_logger: object, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        hidden: dict[str, Any] = redact_json(dict(line), redact)
        return hidden

    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        add_worker,
    ]
    as_json = settings.log_format is LogFormat.JSON
    last: list[structlog.types.Processor] = (
        [structlog.processors.dict_tracebacks, hide_secrets, structlog.processors.JSONRenderer(default=str)]
        if as_json
        else [structlog.processors.format_exc_info, hide_secrets, structlog.dev.ConsoleRenderer(colors=False)]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=settings.log_level.value, force=True)
    for name in _WORDY:
        logging.getLogger(name).setLevel(max(logging.WARNING, _LEVELS[settings.log_level.value]))


def log_events(logger: logging.Logger | None = None) -> Callable[[Sequence[Event]], None]:
    """Return a listener for the driver that logs each event with its execution, stage and attempt."""
    log = logger or logging.getLogger("flexiroaster.events")

    def listen(events: Sequence[Event]) -> None:
        for event in events:
            if event.type in _QUIET:
                continue
            fields = {
                "event_type": event.type.value,
                "execution": event.execution_id,
                "seq": event.seq,
                "stage": event.stage_id,
                "attempt": event.attempt,
            }
            log.log(_LEVELS[event.level.upper()], event.message, extra=fields)

    return listen
