"""How many connections for live results one viewer may have open, over whatever they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from graphql_api.documents import RefusedError
from graphql_api.execution import OVERLOADED

__all__ = ["MOST_EACH", "Places"]

MOST_EACH = 500
"""Connections of one viewer: half of what a server takes, so that one token cannot keep all others out."""


class Places:
    """The open connections of one process, by the name of their viewer. Belongs to one event loop."""

    def __init__(self, most_each: int = MOST_EACH) -> None:
        self._most_each = most_each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken_by(self, name: str) -> Iterator[None]:
        """Hold a place for a viewer until the block ends. Raises RefusedError."""
        if self._taken[name] >= self._most_each:
            raise RefusedError.because(f"You have {self._most_each} connections open already", OVERLOADED, 503)
        self._taken[name] += 1
        try:
            yield
        finally:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]
