"""`source: file`: csv, tsv, parquet, json, ndjson and arrow files, plain or compressed, local or remote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from flexiroaster.errors import Problem, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import NONE, Access, Operator, Result, StageContext
from flexiroaster.operators.inputs.options import ReadOptions

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FileConfig", "FileInput"]

FormatName = Literal["auto", "csv", "tsv", "parquet", "json", "ndjson", "arrow"]
Paths = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class FileConfig(ReadOptions):
    """`path` is a path, a glob, a URL that fsspec understands, or a list of these; see `ReadOptions` for the rest."""

    path: Annotated[str, Field(min_length=1)] | Paths
    format: FormatName = "auto"

    @property
    def paths(self) -> list[str]:
        """The configured paths as a list, also for a single path."""
        return [self.path] if isinstance(self.path, str) else self.path


class FileInput(Operator[FileConfig]):
    """Read one or more files as one table, streaming.

    The format is inferred from the extension, also in names that end in `.gz`, `.zst`, `.bz2`, `.xz` or `.zip`. All
    files must have the same columns, except ndjson files, in which missing keys are null. Files must be under
    FILE_ROOTS.
    """

    stage_type = StageType.INPUT
    name = "file"
    config_model = FileConfig
    arity = NONE

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - not needed
        """Report paths outside the roots, and names whose format cannot be inferred."""
        from flexiroaster.operators.access.file_access import permit
        from flexiroaster.operators.formats import detect_compression, detect_format

        for index, path in enumerate(self.config.paths):
            where = "path" if isinstance(self.config.path, str) else f"path[{index}]"
            try:
                permit(path, access)
            except StageError as error:
                yield Problem(where, error.message, "file")
                continue
            try:
                if detect_compression(path) is None:
                    detect_format(path, self.config.format)
            except StageError as error:
                yield Problem("format", error.message, "format")

    def run(self, context: StageContext) -> pl.LazyFrame | Result:
        """Return the table: lazy, or written to a file for a compressed csv. Raises StageError (configuration, data,
        transient) that names the file.
        """
        from flexiroaster.operators.inputs.packed import read_packed
        from flexiroaster.operators.inputs.scanning import scan
        from flexiroaster.operators.inputs.sources import fetched, gather

        folder = context.workdir / "input"
        files = fetched(self.config.paths, context.access, folder / "fetched")
        if (file := read_packed(files, self.config, self.config.format, folder)) is not None:
            return Result(file=file)
        return scan(gather(files, self.config.format, folder / "unpacked"), self.config, folder / "copies")
