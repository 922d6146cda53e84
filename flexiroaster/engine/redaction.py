"""Keeps the installation's secrets out of logs and errors: values that must not be read are shown as `***`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from flexiroaster.operators.base import Access

__all__ = ["redact_json", "redactor"]

_SHORTEST = 6
"""Shorter secrets would hide ordinary words."""


def redactor(access: Access) -> Callable[[str], str]:
    """A function that hides, in a text, every secret and every password of a connection's URL."""
    hidden = sorted(set(_sensitive(access)), key=len, reverse=True)
    if not hidden:
        return lambda text: text
    pattern = re.compile("|".join(hidden))
    return lambda text: pattern.sub("***", text)


def redact_json(value: Any, redact: Callable[[str], str]) -> Any:  # noqa: ANN401 - any JSON value in, the same out
    """A JSON value with all its strings redacted, keys excepted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_json(item, redact) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_json(item, redact) for item in value]
    return value


def _sensitive(access: Access) -> Iterator[str]:
    """Patterns of what is to be hidden."""
    yield from (re.escape(value) for value in access.secrets.values() if len(value) >= _SHORTEST)
    for url in (access.output_url, *access.connections.values()):
        login = urlsplit(url).netloc.rpartition("@")[0]
        if ":" in login:
            yield f"{re.escape(login)}(?=@)"
