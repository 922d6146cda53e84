"""Connection limits: how many live connections one viewer may have open, over all transports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from graphql_api.documents import RefusedError
from graphql_api.execution import OVERLOADED

__all__ = ["MOST_EACH", "Places"]

MOST_EACH = 500
"""Maximum connections of one viewer: half of the server's limit, so that one token cannot lock out all others."""


class Places:
    """The open connections of one process, counted by viewer name. The object belongs to one event loop."""

    def __init__(self, most_each: int = MOST_EACH) -> None:
        self._most_each = most_each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken_by(self, name: str) -> Iterator[None]:
        """Reserve a connection for a viewer until the block ends. Raises RefusedError at the limit."""
        if self._taken[name] >= self._most_each:
            raise RefusedError.because(f"You already have {self._most_each} open connections", OVERLOADED, 503)
        self._taken[name] += 1
        try:
            yield
        finally:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]
