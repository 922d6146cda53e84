"""Pagination: the window of a list that a caller requests, and the page that it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from flexiroaster.errors import InputError

__all__ = ["MAX_PAGE_SIZE", "Page", "Window"]

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Window:
    """The requested part of a list: the `first` rows `after` a cursor, or the `last` rows `before` one.

    Raises InputError when the two are mixed, or when a number is not from 0 to MAX_PAGE_SIZE.
    """

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    def __post_init__(self) -> None:
        forward = self.first is not None or self.after is not None
        if forward and self.backward:
            raise InputError("use `first` with `after`, or `last` with `before`, but not both")
        if not 0 <= self.size <= MAX_PAGE_SIZE:
            name = "last" if self.backward else "first"
            raise InputError(f"{name}: must be from 0 to {MAX_PAGE_SIZE}, not {self.size}", argument=name)

    @property
    def backward(self) -> bool:
        """Whether rows are counted from the end."""
        return self.last is not None or self.before is not None

    @property
    def size(self) -> int:
        """The maximum number of rows."""
        requested = self.last if self.backward else self.first
        return DEFAULT_PAGE_SIZE if requested is None else requested

    @property
    def cursor(self) -> str | None:
        """The cursor after which the page begins (backward: before which it ends); None at that end of the list."""
        return self.before if self.backward else self.after


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows of a list, in its order, each with its cursor.

    Of `has_next` and `has_previous`, the one in the direction of the page is looked up; the other one is true if the
    window has a cursor.
    """

    items: tuple[T, ...]
    cursors: tuple[str, ...]
    has_next: bool
    has_previous: bool
