"""Redaction: replaces the installation's secrets in logs and errors with `***`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from flexiroaster.operators.base import Access

__all__ = ["redact_json", "redactor"]

_MIN_LENGTH = 6
"""Minimum length; shorter secrets would hide ordinary words."""


def redactor(access: Access) -> Callable[[str], str]:
    """Create a function that hides every secret, and every password of a connection URL, in a text."""
    hidden = sorted(set(_sensitive(access)), key=len, reverse=True)
    if not hidden:
        return lambda text: text
    pattern = re.compile("|".join(hidden))
    return lambda text: pattern.sub("***", text)


def redact_json(value: Any, redact: Callable[[str], str]) -> Any:  # noqa: ANN401 - any JSON value in, the same out
    """Redact all strings in a JSON value, except keys."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_json(item, redact) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_json(item, redact) for item in value]
    return value


def _sensitive(access: Access) -> Iterator[str]:
    """Yield patterns of the texts to hide."""
    yield from (re.escape(value) for value in access.secrets.values() if len(value) >= _MIN_LENGTH)
    for url in (access.output_url, *access.connections.values()):
        login = urlsplit(url).netloc.rpartition("@")[0]
        if ":" in login:
            yield f"{re.escape(login)}(?=@)"
