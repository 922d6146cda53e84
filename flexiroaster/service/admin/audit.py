"""The audit log: every change requested over an API, with its viewer, action, time and outcome."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from flexiroaster.errors import FlexiRoasterError, StoreError
from flexiroaster.model.event import utc_now
from flexiroaster.model.viewer import Viewer
from flexiroaster.operators.access.redaction import redactor
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, from_store
from flexiroaster.store import access
from flexiroaster.store.access import AuditFilter, AuditRow
from flexiroaster.store.sql import clean

__all__ = ["ACTION", "AuditFilter", "AuditRow", "count", "listing", "record", "record_callback", "recorded"]


MAX_NAME = 255
"""Maximum characters of an action, a subject, an outcome or a request id."""

MAX_TEXT, MAX_ITEMS, MAX_LEVELS = 200, 20, 6
"""How much of the arguments is shown: characters of a text, items of a list or mapping, levels of nesting."""

INTERNAL_ERROR = "error.internal"
"""The outcome of an action that ended in an unexpected error."""

ACTION = "airflowCallback"
"""The action of callbacks: reports of another scheduler about its tasks."""

_log = logging.getLogger(__name__)

_SENSITIVE = re.compile(r"secret|passw|token|api_?key|authorization|credential|private_?key|cookie", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
_REFERENCE = {"secret"}
"""`{"secret": "NAME"}` names a secret but does not contain one."""


def record(
    installation: Installation,
    *,
    viewer: Viewer,
    action: str,
    subject: str | None,
    arguments: Mapping[str, Any],
    outcome: str = "ok",
    request_id: str | None = None,
) -> None:
    """Record that the viewer did `action` (to `subject`, an id), with the outcome: `ok` or an error code.

    Secrets of the installation, logins in URLs and values under names like `password` are replaced by `***`; large
    arguments are truncated. One SQL statement. Raises StoreError.
    """
    access.record_audit_entry(
        installation.database,
        at=utc_now(),
        viewer=_name(viewer.name),
        role=viewer.role,
        action=_name(action),
        subject=None if subject is None else _name(subject),
        arguments=_redacted(arguments, redactor(installation.access), MAX_LEVELS),
        outcome=_name(outcome),
        request_id=None if request_id is None else _name(request_id),
    )


@contextmanager
def recorded(
    installation: Installation,
    *,
    viewer: Viewer,
    action: str,
    subject: str | None,
    arguments: Mapping[str, Any],
    request_id: str | None = None,
) -> Iterator[None]:
    """Record the action of the block with its outcome, even if it is refused or fails.

    A failure to write the audit log is logged and not raised, because the action is already done.
    """
    outcome = INTERNAL_ERROR
    try:
        yield
        outcome = "ok"
    except FlexiRoasterError as error:
        outcome = error.code
        raise
    finally:
        try:
            record(
                installation,
                viewer=viewer,
                action=action,
                subject=subject,
                arguments=arguments,
                outcome=outcome,
                request_id=request_id,
            )
        except StoreError as error:
            _log.error("audit log not written: action %s by %s, outcome %s: %s", action, viewer.name, outcome, error)


def record_callback(
    installation: Installation, callback: Mapping[str, Any], *, viewer: Viewer, request_id: str | None = None
) -> str | None:
    """Record a callback: `callback` has at least `dag_id` and `dag_run_id`, and optionally `context.execution_id`.

    Returns the id of the execution that the callback names, if it exists. Otherwise returns None and records the
    callback under the DAG run. Raises StoreError.
    """
    execution_id = _execution(installation, callback.get("context"))
    record(
        installation,
        viewer=viewer,
        action=ACTION,
        subject=execution_id or f"{callback['dag_id']}/{callback['dag_run_id']}",
        arguments=callback,
        request_id=request_id,
    )
    return execution_id


def _execution(installation: Installation, context: object) -> str | None:
    named = context.get("execution_id") if isinstance(context, Mapping) else None
    if not isinstance(named, str) or not named.isprintable():
        return None
    return next(iter(executions.by_ids(installation, [named])), None)


listing = from_store(access.audit_page)
count = from_store(access.audit_count)


def _name(text: str) -> str:
    return clean(text)[:MAX_NAME]


def _redacted(value: Any, redact: Callable[[str], str], levels: int) -> Any:  # noqa: ANN401 - any value in, JSON out
    """Redact secrets in a value and truncate it to the limits."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping | list | tuple):
        if levels == 0:
            return f"... {len(value)} items"
        return _fields(value, redact, levels) if isinstance(value, Mapping) else _items(value, redact, levels)
    text = _LOGIN.sub("***", redact(clean(str(value))))
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... {len(text)} characters"


def _fields(value: Mapping[Any, Any], redact: Callable[[str], str], levels: int) -> dict[str, Any]:
    hide = not (value.keys() == _REFERENCE and isinstance(value["secret"], str))
    shown = {
        _name(str(key)): "***" if hide and _SENSITIVE.search(str(key)) else _redacted(item, redact, levels - 1)
        for key, item in islice(value.items(), MAX_ITEMS)
    }
    return shown if len(value) <= MAX_ITEMS else {**shown, "...": f"{len(value)} items"}


def _items(value: list[Any] | tuple[Any, ...], redact: Callable[[str], str], levels: int) -> list[Any]:
    shown = [_redacted(item, redact, levels - 1) for item in value[:MAX_ITEMS]]
    return shown if len(value) <= MAX_ITEMS else [*shown, f"... {len(value)} items"]
