"""`destination: file`: rows into one file, local or remote, put in place in one step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import ONE, Access, OperatorConfig, OutputOperator, Result, StageContext
from flexiroaster.operators.outputs.effects import already, fill, outcome

if TYPE_CHECKING:
    from flexiroaster.operators.formats import Format
    from flexiroaster.operators.locations import Location
    from flexiroaster.operators.outputs.publication import Publication

__all__ = ["FileOutput", "FileOutputConfig"]

HIDDEN = ".flexiroaster"
"""The folder in which FlexiRoaster keeps what is its own; no output writes below one."""

_TEXT = frozenset({"gzip", "zstd", "uncompressed"})
_COMPRESSIONS: Mapping[str, frozenset[str]] = {
    "csv": _TEXT,
    "tsv": _TEXT,
    "json": _TEXT,
    "ndjson": _TEXT,
    "parquet": frozenset({"zstd", "snappy", "gzip", "lz4", "brotli", "uncompressed"}),
    "arrow": frozenset({"zstd", "lz4", "uncompressed"}),
}
_PLACEHOLDERS = ("{execution_id}", "{stage_id}", "{date}")
_CSV_ONLY = ("separator", "header", "null_value")


class FileOutputConfig(OperatorConfig):
    """Where the rows go, and in which format."""

    path: str = Field(
        min_length=1,
        description="A path or URL under FILE_ROOTS; `{execution_id}`, `{stage_id}` and `{date}` "
        "(of the first attempt, UTC) are filled in.",
    )
    format: Literal["auto", "csv", "tsv", "parquet", "json", "ndjson", "arrow"] = Field(
        default="auto", description="auto: told from the extension."
    )
    compression: Literal["gzip", "zstd", "snappy", "lz4", "brotli", "uncompressed"] | None = Field(
        default=None, description="Default: told from the extension, for parquet zstd."
    )
    separator: str = Field(
        default=",", min_length=1, max_length=1, pattern=r"^[\x01-\x7f]$", description="Between the values of csv."
    )
    header: bool = Field(default=True, description="Whether csv and tsv begin with the names.")
    null_value: str = Field(default="", description="What stands for a missing value in csv and tsv.")
    overwrite: bool = Field(default=True, description="false: a file that exists already is an error.")


class FileOutput(OutputOperator[FileOutputConfig]):
    """Write the rows to a file: csv, tsv, parquet, json, ndjson or arrow.

    The rows go to a temporary file, which then takes the place of the target in one step: readers see the former
    version or the new one, never half of it. A record below `.flexiroaster/outputs` makes a repeated attempt change
    nothing. The former version is kept there too; the undo puts it back, or removes the file, unless it was
    changed since. On remote stores, which have no rename, the upload is the step. Folders that are missing are made.
    """

    stage_type = StageType.OUTPUT
    name = "file"
    config_model = FileOutputConfig
    arity = ONE
    example: ClassVar[Mapping[str, Any]] = {
        "id": "export",
        "type": "output",
        "config": {"destination": "file", "path": "exports/sales-{date}.parquet", "compression": "zstd"},
        "dependencies": ["sales"],
    }

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the contract
        """Paths outside of the roots, names that do not say what format they have, options that do not go together."""
        from flexiroaster.operators.locations import permit

        try:
            _refuse_hidden(permit(self.config.path, access), access)
        except StageError as error:
            yield Problem("path", error.message, "file")
        try:
            form, _ = self._form()
        except StageError as error:
            yield Problem(str(error.details["field"]), error.message, "format")
            return
        for option in _CSV_ONLY:
            given = option in self.config.model_fields_set
            if given and form != "csv" and not (form == "tsv" and option != "separator"):
                yield Problem(option, f"is for csv, not for {form}", "unused")

    def run(self, context: StageContext) -> Result:
        """Write the file, once. Raises StageError: data, configuration, transient."""
        from flexiroaster.operators.locations import writable
        from flexiroaster.operators.outputs.rows import count_rows
        from flexiroaster.operators.outputs.tables import write_table

        form, compression = self._form()
        target = writable(fill(self.config.path, self._names(context)), context.access)
        _refuse_hidden(target, context.access)
        publication = self._publication(context)
        begun = publication.begin(target.uri, overwrite=self.config.overwrite)
        if begun.state == "done":
            return already(begun.effect, begun.at, context)
        try:
            write_table(context.table, publication.temporary(begun), form, compression, self.config)
            rows = count_rows(context.table)
            done = publication.finish(begun, form, rows, overwrite=self.config.overwrite)
        except BaseException:
            publication.abandon(begun)
            raise
        context.logger.info("%s rows into %s", f"{rows:,}", done.target)
        return outcome(done.effect, context)

    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Put the former version back, or remove the file; again: nothing more.

        Without a record nothing was written, and from then on no late attempt can write any more.
        Raises StageError (configuration) when the file was changed since.
        """
        return self._publication(context).undo(effect)

    def forget(self, effect: Mapping[str, Any], context: StageContext) -> None:  # noqa: ARG002 - the contract
        """Remove the former version that is kept, and the record; afterwards there is no undo."""
        self._publication(context).forget()

    def _publication(self, context: StageContext) -> Publication:
        """The record lies below the part of the path that no placeholder changes, so that each attempt finds it."""
        from flexiroaster.operators.locations import permit
        from flexiroaster.operators.outputs.publication import Publication
        from flexiroaster.operators.outputs.storage import LocalStorage, RemoteStorage

        base = permit(_fixed_folder(self.config.path), context.access)
        if base.is_local:
            return Publication(LocalStorage(base.path / HIDDEN / "outputs"), context)
        folder = f"{base.uri.rstrip('/')}/{HIDDEN}/outputs"
        return Publication(RemoteStorage(folder, context.workdir / "output"), context)

    def _form(self) -> tuple[Format, str | None]:
        """Format and compression. Raises StageError (configuration) with the `field` that is wrong in its details."""
        from flexiroaster.operators.formats import detect_compression, detect_format

        path, given = self.config.path, self.config.compression
        try:
            form = detect_format(path, self.config.format)
        except StageError as error:
            raise _refused(error.message, "format") from error
        named = detect_compression(path)
        if named is not None and (form in {"parquet", "arrow"} or named not in _TEXT):
            raise _refused(f"{form} is not written with {named} around it: choose another extension", "path")
        if named is not None and given is not None and given != named:
            raise _refused(f"is {given}, and the extension of {path!r} says {named}", "compression")
        compression = given or (named.value if named else None)
        if compression is not None and compression not in _COMPRESSIONS[form]:
            known = ", ".join(sorted(_COMPRESSIONS[form]))
            raise _refused(f"{form} is not written with {compression}; it takes {known}", "compression")
        return form, None if compression == "uncompressed" and form not in {"parquet", "arrow"} else compression

    def _names(self, context: StageContext) -> dict[str, str]:
        today = datetime.now(UTC).date().isoformat()
        return {"execution_id": context.execution_id, "stage_id": context.stage_id, "date": today}


def _fixed_folder(path: str) -> str:
    """The folder of a path, or of the part of it before the first placeholder: `out/{date}/x.csv` gives `out`."""
    scheme, separator, rest = path.rpartition("://")
    folders = rest.split("/")[:-1]
    fixed = list(itertools.takewhile(lambda name: not any(mark in name for mark in _PLACEHOLDERS), folders))
    local = "/" if rest.startswith("/") else "."
    return f"{scheme}{separator}{'/'.join(fixed)}" if separator else "/".join(fixed) or local


def _refuse_hidden(location: Location, access: Access) -> None:
    """FlexiRoaster's own database and records may lie below a root; outputs do not touch them."""
    roots = [Path(root).resolve() for root in access.file_roots if "://" not in root] if location.is_local else []
    below: list[PurePath] = [location.path.relative_to(root) for root in roots if location.path.is_relative_to(root)]
    candidates = below or [PurePosixPath(location.uri)]
    if all(HIDDEN in path.parts for path in candidates):
        raise _refused(
            f"{location.label!r} lies in {HIDDEN}, which is FlexiRoaster's own; choose another folder", "path"
        )


def _refused(message: str, field: str) -> StageError:
    return StageError(message, ErrorClass.CONFIGURATION, field=field)
