"""Encoding of values for the database: JSON text, and text that both databases accept.

PostgreSQL rejects NUL in text and jsonb, and neither database accepts lone surrogates. A stage may print either.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

__all__ = ["clean", "to_json"]

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z


def clean(text: str) -> str:
    """Return the text with NUL and lone surrogates replaced by U+FFFD."""
    return text if text.isascii() and "\x00" not in text else _UNSTORABLE.sub("\ufffd", text)


def to_json(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """Return a value as JSON text, None for None. NaN and infinities become null; unknown objects become text."""
    if value is None:
        return None
    try:
        text = orjson.dumps(value, default=str, option=_OPTIONS)
    except orjson.JSONEncodeError:  # lone surrogates, or integers beyond 64 bits
        text = _cleaned_json(value)
    if b"\\u0000" in text:
        text = _cleaned_json(value)
    return text.decode()


def _cleaned_json(value: Any) -> bytes:  # noqa: ANN401 - as above
    return orjson.dumps(_cleaned(value), default=lambda unknown: clean(str(unknown)), option=_OPTIONS)


def _cleaned(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value
