"""The audit log: every change that somebody asked for over an API, with who, what, when and what came of it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from flexiroaster.engine.redaction import redactor
from flexiroaster.errors import FlexiRoasterError, StoreError
from flexiroaster.model.event import utc_now
from flexiroaster.model.viewer import Viewer
from flexiroaster.service.installation import Installation
from flexiroaster.store import audit
from flexiroaster.store.audit import AuditFilter, AuditRow
from flexiroaster.store.encoding import clean
from flexiroaster.store.keyset import Page, Window

__all__ = ["AuditFilter", "AuditRow", "count", "listing", "record", "recorded"]

LONGEST_NAME = 255
"""Of an action, a subject, an outcome, a request's id."""

LONGEST_TEXT, MOST_ITEMS, MOST_LEVELS = 200, 20, 6
"""What of the arguments is kept: characters of a text, items of a list or mapping, levels of nesting."""

FAILED = "error.internal"
"""The outcome of what ended in an error that nobody expected."""

_log = logging.getLogger(__name__)

_SENSITIVE = re.compile(r"secret|passw|token|api_?key|authorization|credential|private_?key|cookie", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
_REFERENCE = {"secret"}
"""`{"secret": "NAME"}` names a secret and holds none."""


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
    """Write down that the viewer did `action` (to `subject`, an id), and the outcome: `ok` or the code of an error.

    Secrets of the installation, logins in URLs and whatever stands under a name like `password` show as `***`; what
    is large is cut. One statement. Raises StoreError.
    """
    audit.record(
        installation.database,
        at=utc_now(),
        viewer=_name(viewer.name),
        role=viewer.role,
        action=_name(action),
        subject=None if subject is None else _name(subject),
        arguments=_shown(arguments, redactor(installation.access), MOST_LEVELS),
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
    """Record what the block does with its outcome, also where it is refused or fails.

    That the log cannot be written is logged and not raised: what was asked for is done by then.
    """
    outcome = FAILED
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
            _log.error("audit log not written: %s of %s, %s: %s", action, viewer.name, outcome, error)


def listing(
    installation: Installation, wanted: AuditFilter | None = None, window: Window | None = None
) -> Page[AuditRow]:
    """A page of the log, newest first. Raises InputError (cursor)."""
    return audit.page(installation.database, wanted or AuditFilter(), window or Window())


def count(installation: Installation, wanted: AuditFilter | None = None) -> int:
    """How many entries of the log match."""
    return audit.count(installation.database, wanted or AuditFilter())


def _name(text: str) -> str:
    return clean(text)[:LONGEST_NAME]


def _shown(value: Any, redact: Callable[[str], str], levels: int) -> Any:  # noqa: ANN401 - any value in, JSON out
    """The value without secrets, and without what is too much to keep."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping | list | tuple):
        if levels == 0:
            return f"... {len(value)} items"
        return _fields(value, redact, levels) if isinstance(value, Mapping) else _items(value, redact, levels)
    text = _LOGIN.sub("***", redact(clean(str(value))))
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}... {len(text)} characters"


def _fields(value: Mapping[Any, Any], redact: Callable[[str], str], levels: int) -> dict[str, Any]:
    hide = not (value.keys() == _REFERENCE and isinstance(value["secret"], str))
    kept = {
        _name(str(key)): "***" if hide and _SENSITIVE.search(str(key)) else _shown(item, redact, levels - 1)
        for key, item in islice(value.items(), MOST_ITEMS)
    }
    return kept if len(value) <= MOST_ITEMS else {**kept, "...": f"{len(value)} items"}


def _items(value: list[Any] | tuple[Any, ...], redact: Callable[[str], str], levels: int) -> list[Any]:
    kept = [_shown(item, redact, levels - 1) for item in value[:MOST_ITEMS]]
    return kept if len(value) <= MOST_ITEMS else [*kept, f"... {len(value)} items"]
