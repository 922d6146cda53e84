"""The W3C header `traceparent`: the trace and the parent span of a request."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["valid_traceparent"]

_PARTS: Final = r"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_VERSION_0 = re.compile(rf"00-{_PARTS}")
_LATER_VERSION = re.compile(rf"((?!ff|00)[0-9a-f]{{2}}-{_PARTS})(-.*)?")


def valid_traceparent(header: str | None) -> str | None:
    """Validate the header and drop the fields of later versions; None for a header that the standard says to ignore."""
    text = (header or "").strip(" \t")
    if _VERSION_0.fullmatch(text):
        return text
    later = _LATER_VERSION.fullmatch(text)
    return later[1] if later else None
