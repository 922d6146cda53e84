"""Collection of pages into one table: JSON pages by their records, other formats by their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import polars as pl

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.network_guard import shown_url
from flexiroaster.operators.formats import AUTO, Format, format_of_name
from flexiroaster.operators.inputs.failures import damaged
from flexiroaster.operators.inputs.fetching import Page
from flexiroaster.operators.inputs.json import parse_file, records_of
from flexiroaster.operators.inputs.options import ReadOptions
from flexiroaster.operators.inputs.pagination import Received, at_path
from flexiroaster.operators.inputs.scanning import scan
from flexiroaster.operators.inputs.sources import Source, plain_sources
from flexiroaster.operators.inputs.spool import Spool

__all__ = ["Collector", "format_of_page"]

_MEDIA_TYPES = {
    "application/json": Format.JSON,
    "text/json": Format.JSON,
    "application/x-ndjson": Format.NDJSON,
    "application/ndjson": Format.NDJSON,
    "application/jsonl": Format.NDJSON,
    "application/jsonlines": Format.NDJSON,
    "application/x-jsonlines": Format.NDJSON,
    "text/csv": Format.CSV,
    "application/csv": Format.CSV,
    "text/tab-separated-values": Format.TSV,
    "application/vnd.apache.parquet": Format.PARQUET,
    "application/x-parquet": Format.PARQUET,
    "application/vnd.apache.arrow.file": Format.ARROW,
    "application/vnd.apache.arrow.stream": Format.ARROW,
}


def format_of_page(page: Page, given: str) -> Format:
    """The requested format, else the format of the content type, else that of the URL's extension.

    Raises StageError (configuration) if none of them determines the format.
    """
    if given != AUTO:
        return Format(given)
    media_type = page.headers.get("content-type", "").partition(";")[0].strip().lower()
    structured = Format.JSON if media_type.endswith("+json") else None
    found = _MEDIA_TYPES.get(media_type) or structured or format_of_name(page.url.path)
    if found is None:
        content = f"content type {media_type!r}" if media_type else "no content type"
        message = f"{shown_url(page.url)}: cannot tell the format ({content}): set `format`"
        raise StageError(message, ErrorClass.CONFIGURATION)
    return found


class Collector:
    """Collects pages one after the other; memory holds at most one of them."""

    def __init__(self, given: str, records_path: str | None, folder: Path) -> None:
        self._given, self._records_path, self._folder = given, records_path, folder
        self._spool = Spool(folder / "records")
        self._sources: list[Source] = []
        self._format: Format | None = None

    def take(self, page: Page, number: int, *, count: bool) -> Received:
        """Keep a page and return the facts that determine the next. Rows of files are counted only if `count`."""
        label = shown_url(page.url)
        link = _next_link(page.headers)
        if page.status == httpx.codes.NO_CONTENT:
            return Received(number, page.url, link, None, 0)
        kind = format_of_page(page, self._given)
        self._format = self._format or kind
        if kind is not self._format:
            raise damaged(label, f"page {number + 1} is {kind}, but the previous pages are {self._format}")
        if kind is Format.JSON:
            value, rows = self._take_json(page, label)
            return Received(number, page.url, link, value, rows)
        if self._records_path is not None:
            raise StageError(f"records_path: {label} is {kind}, not json", ErrorClass.CONFIGURATION)
        sources = list(plain_sources(page.path, label, kind, self._folder / "unpacked"))
        if number and not page.path.stat().st_size:
            return Received(number, page.url, link, None, 0)
        rows = self._scan(sources).select(pl.len()).collect().item() if count else 0
        if rows or not number:
            self._sources += sources
        return Received(number, page.url, link, None, rows)

    def _take_json(self, page: Page, label: str) -> tuple[Any, int]:
        (source,) = plain_sources(page.path, label, Format.JSON, self._folder / "unpacked")
        value = parse_file(source.path, label)
        records = self._records(value, label)
        self._spool.append_records(records)
        return value, len(records)

    def _records(self, value: Any, label: str) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON value
        path = self._records_path
        if path is None:
            return records_of(value, label)
        parent, _, last = path.rpartition(".")
        above = at_path(value, parent) if parent else value
        if at_path(value, path) is None and not (isinstance(above, dict) and last in above):
            raise damaged(label, f"nothing at records_path {path!r}{_there(above)}")
        return records_of(at_path(value, path) or [], f"{label} at {path}")

    def _scan(self, sources: list[Source]) -> pl.LazyFrame:
        return scan(sources, ReadOptions(), self._folder / "copies")

    def table(self) -> pl.LazyFrame:
        """Return the rows of all pages. Raises StageError (data) if the pages are not compatible."""
        return self._scan(self._sources) if self._sources else self._spool.finish()


def _there(value: object) -> str:
    return f"; the keys are {', '.join(map(repr, list(value)[:10]))}" if isinstance(value, dict) and value else ""


def _next_link(headers: httpx.Headers) -> str | None:
    links = httpx.Response(200, headers=headers).links
    return next((link["url"] for rel, link in links.items() if "next" in str(rel).lower().split()), None)
