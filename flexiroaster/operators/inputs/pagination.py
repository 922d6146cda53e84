"""Pagination: how an API refers to its next page."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.base import OperatorConfig

if TYPE_CHECKING:
    import httpx

__all__ = ["CursorPages", "DottedPath", "LinkPages", "NumberedPages", "Pagination", "Received", "at_path"]

DottedPath = Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")]


@dataclass(frozen=True, slots=True)
class Received:
    """The facts about one page that determine the next: its number from 0, its URL, the next link of its header, its
    JSON (None for other formats), and its number of rows.
    """

    number: int
    url: httpx.URL
    next_link: str | None
    value: Any
    rows: int


class _Pages(OperatorConfig):
    def first(self, url: httpx.URL) -> httpx.URL:
        """The URL of the first page."""
        return url

    @abstractmethod
    def following(self, base: httpx.URL, page: Received) -> httpx.URL | None:
        """The URL of the next page, None after the last; `base` is the configured URL with its parameters."""


class LinkPages(_Pages):
    """The response links to its next page: in the header `Link` with `rel="next"`, or at `path` in its JSON."""

    type: Literal["link"]
    path: DottedPath | None = None

    def following(self, base: httpx.URL, page: Received) -> httpx.URL | None:  # noqa: ARG002 - the link is complete
        """The link, resolved against the URL of its page."""
        import httpx

        link = page.next_link if self.path is None else at_path(page.value, self.path)
        try:
            return page.url.join(link) if link else None
        except (httpx.InvalidURL, TypeError) as error:
            raise StageError(f"the next link of page {page.number + 1} is not a valid URL", ErrorClass.DATA) from error


class CursorPages(_Pages):
    """The JSON has at `path` the value of the parameter `param` for the next request; the last page has none."""

    type: Literal["cursor"]
    param: str = Field(min_length=1)
    path: DottedPath

    def following(self, base: httpx.URL, page: Received) -> httpx.URL | None:
        """The configured URL with the cursor. Raises StageError (data) if the cursor does not advance."""
        cursor = at_path(page.value, self.path)
        if cursor is None or cursor == "" or cursor is False:
            return None
        following = base.copy_set_param(self.param, str(cursor))
        if following == page.url:
            raise StageError(f"page {page.number + 1} has the same cursor as the previous page", ErrorClass.DATA)
        return following


class NumberedPages(_Pages):
    """The parameter `param` counts the pages from `start`; a page without rows ends the count."""

    type: Literal["page"]
    param: str = Field(min_length=1)
    start: int = Field(default=1, ge=0)

    def first(self, url: httpx.URL) -> httpx.URL:
        """The URL with the first page number."""
        return url.copy_set_param(self.param, str(self.start))

    def following(self, base: httpx.URL, page: Received) -> httpx.URL | None:
        """The URL with the next page number, None after a page without rows."""
        return base.copy_set_param(self.param, str(self.start + page.number + 1)) if page.rows else None


Pagination = Annotated[LinkPages | CursorPages | NumberedPages, Field(discriminator="type")]


def at_path(value: Any, path: str) -> Any:  # noqa: ANN401 - walks any JSON value
    """The value at a dotted path (`data.items`, `results.0.rows`); None if the path does not exist."""
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
