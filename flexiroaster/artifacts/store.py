"""Artifacts: the tables between stages, stored as Arrow IPC files under one folder or fsspec URL.

A table is `{root}/{execution_id}/{stage_id}.{attempt}.arrow`, a side table `{stage_id}.{attempt}.{name}.arrow`. Files
are uncompressed, so readers can map them. `attempt` is the driver's fencing token and the attempt number (`7.1`). A
file gets its final name when it is complete. If a large table differs from its input in some columns only, just these
columns are written, and the table refers to the files of the input (`artifacts.composite`). Local files never import
fsspec.
"""

from __future__ import annotations

import mmap
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import xxhash

from flexiroaster.artifacts.composite import (
    Part,
    can_map,
    combine_columns,
    is_worth_selecting,
    is_worth_sharing,
    map_file,
    parts_of,
    select_rows,
)
from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model import failpoints
from flexiroaster.model.checksum import checksum_of, same_checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

__all__ = ["SCRATCH", "Artifacts", "summary_of"]

SCRATCH = ".work-"
"""Name prefix of the workers' scratch folders, which are next to the artifacts."""

SUMMARY_FIELDS = ("url", "rows", "columns", "bytes", "schema", "checksum", "order", "beside", "where")

_SIDE_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MASK = "__flexiroaster_kept"
_BLOCK = 1 << 24  # a stop takes effect between two blocks
_EXECUTION_ID = re.compile(r"exec-[0-9a-f]{20}")
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}")
_MAX_STEM_LENGTH = 100  # file names have at most 255 bytes, and a temporary name is longer than the final one


def summary_of(output: Mapping[str, Any]) -> dict[str, Any]:
    """Extract the artifact's summary from a stage's output; empty if the stage has no table."""
    return {field: output[field] for field in SUMMARY_FIELDS if field in output} if "url" in output else {}


class Artifacts:
    """The artifact store. `url` is a folder or an fsspec URL; `cache` has local copies of remote artifacts.

    A summary is JSON: `url`, `rows`, `columns`, `bytes`, `schema` (column -> type) and `checksum`. If columns are in
    other files, or rows are left out, it also has `order`, `beside` and `where` (see `artifacts.composite`); then
    `bytes` and `checksum` refer to the file at `url`.
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self._remote = "://" in url and not url.startswith("file://")
        self._root = url.rstrip("/") if self._remote else str(Path(url.removeprefix("file://")).absolute())
        self.cache = (cache or _default_cache()).absolute()
        self._verified: set[tuple[str, str]] = set()  # URL and checksum

    @property
    def folder(self) -> Path:
        """Folder where files are written first: the root, or the cache of a remote root."""
        return self.cache if self._remote else Path(self._root)

    def write(
        self,
        table: pl.LazyFrame | pl.DataFrame,
        execution_id: str,
        stage_id: str,
        attempt: int | str,
        name: str | None = None,
    ) -> dict[str, Any]:
        """Write a table (with `name`: a side table) and return its summary. A lazy frame is computed here, streaming.

        Exceptions of the computation are passed on.
        """
        with self._new_file(execution_id, _file_name(stage_id, attempt, name)) as (local, partial):
            _write_ipc(table, partial)
            summary = _describe(partial, table)
        return self._publish(local, execution_id, summary)

    def store_file(self, file: Path, execution_id: str, stage_id: str, attempt: int | str) -> dict[str, Any]:
        """Move an uncompressed Arrow IPC file into the store as an artifact, and return its summary."""
        with self._new_file(execution_id, _file_name(stage_id, attempt, None)) as (local, partial):
            shutil.move(file, partial)  # a rename, unless the scratch folders are on another disk
            summary = _describe(partial)
        return self._publish(local, execution_id, summary)

    def write_columns(
        self,
        table: pl.LazyFrame | pl.DataFrame,
        fresh: Collection[str],
        base: Mapping[str, Any],
        execution_id: str,
        stage_id: str,
        attempt: int | str,
        *,
        in_memory: bool = False,
    ) -> dict[str, Any]:
        """Write a table that has the rows and columns of the artifact `base`, except for the `fresh` columns.

        Only the fresh columns are written if that saves enough. `in_memory` allows computing them in memory at once.
        Raises StageError (code) if the row counts differ; exceptions of the computation are passed on.
        """
        schema = {name: str(dtype) for name, dtype in table.collect_schema().items()}
        if not is_worth_sharing(base, [name for name in schema if name not in fresh]):
            return self.write(table, execution_id, stage_id, attempt)
        if not (new := [name for name in schema if name in fresh]):
            return combine_columns(None, base, schema)
        columns = table.lazy().select(new)
        own = self.write(columns.collect(engine="in-memory") if in_memory else columns, execution_id, stage_id, attempt)
        if own["rows"] != base["rows"]:
            raise StageError(
                f"returned {own['rows']:,} rows, but its input table has {base['rows']:,}", ErrorClass.CODE
            )
        return combine_columns(own, base, schema)

    def write_selection(
        self,
        table: pl.LazyFrame | pl.DataFrame,
        kept: pl.Series,
        base: Mapping[str, Any],
        execution_id: str,
        stage_id: str,
        attempt: int | str,
    ) -> dict[str, Any]:
        """Write a table with the rows of the artifact `base` for which the boolean column `kept` is true.

        Only `kept` is written if that saves enough.
        """
        rows = int(kept.sum())
        if not is_worth_selecting(base, rows):
            return self.write(table, execution_id, stage_id, attempt)
        if len(kept) != base["rows"]:
            raise StageError(
                f"selected from {len(kept):,} rows, but its input table has {base['rows']:,}", ErrorClass.CODE
            )
        where = self.write(kept.alias(_MASK).to_frame(), execution_id, stage_id, attempt)
        return select_rows(base, where, rows)

    def scan(self, stage_id: str, summary: Mapping[str, Any]) -> pl.LazyFrame:
        """Read an artifact lazily; a remote artifact is downloaded once.

        Raises StageError (configuration; `details["artifact_of"]` is the stage) if a file is missing or has changed
        since it was written.
        """
        import polars as pl

        frames = [self._scan_part(stage_id, part, summary["schema"]) for part in parts_of(summary)]
        whole = pl.concat(frames, how="horizontal") if len(frames) > 1 else frames[0]
        return whole.select(summary["order"]) if "order" in summary else whole

    def _scan_part(self, stage_id: str, part: Part, schema: Mapping[str, str]) -> pl.LazyFrame:
        """Read the columns and rows of one file that belong to a table with this schema."""
        import polars as pl

        columns = list(schema) if part.columns is None else part.columns
        frame = self._scan_file(stage_id, part, [schema[name] for name in columns])
        if part.where is not None:
            mask = self._scan_file(stage_id, Part(**part.where), ["Boolean"])
            frame = pl.concat([frame, mask], how="horizontal").filter(_MASK).drop(_MASK)
        return frame if part.columns is None else frame.select(part.columns)

    def _scan_file(self, stage_id: str, part: Part, types: Collection[str]) -> pl.LazyFrame:
        """Read one file; `types` are the types of the columns that are used."""
        import polars as pl

        path = self._local_copy(stage_id, part)
        if not can_map(part.bytes, types):
            return pl.scan_ipc(path, glob=False, hive_partitioning=False)
        if (part.url, part.checksum) not in self._verified:  # once per process: a mapped file is not validated
            if not same_checksum(_checksum(path), part.checksum):
                raise _unusable(stage_id, part.url, "its content differs from what was written")
            self._verified.add((part.url, part.checksum))
        return map_file(path)

    def remove(self, execution_id: str) -> None:
        """Delete all artifacts of an execution, including local copies."""
        self.remove_local_copies(execution_id)
        if not self._remote:
            shutil.rmtree(Path(self._root) / execution_id, ignore_errors=True)
            return
        filesystem, path = self._filesystem(f"{self._root}/{execution_id}")
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def execution_ids(self) -> list[str]:
        """The ids of executions that have a folder here; other folder names are ignored."""
        if self._remote:
            filesystem, path = self._filesystem(self._root)
            found = filesystem.ls(path, detail=False) if filesystem.exists(path) else []
            names = [str(entry).rstrip("/").rpartition("/")[2] for entry in found]
        else:
            root = Path(self._root)
            names = [entry.name for entry in root.iterdir()] if root.is_dir() else []
        return sorted(name for name in names if _EXECUTION_ID.fullmatch(name))

    def sweep(self, before: float) -> int:
        """Delete leftovers of killed workers on this machine that were not modified since `before` (POSIX time).

        These are unfinished files, scratch folders, and local copies of remote artifacts. Returns their number.
        """
        return sum(
            _remove_untouched(entry, before) if entry.name.startswith(SCRATCH) else self._sweep_folder(entry, before)
            for entry in (self.folder.iterdir() if self.folder.is_dir() else ())
            if entry.is_dir() and not entry.is_symlink()
        )

    def _sweep_folder(self, folder: Path, before: float) -> int:
        """Sweep the folder of one execution; the folder itself is deleted with the last local copy."""
        left = [f for f in folder.iterdir() if (self._remote or _PARTIAL.fullmatch(f.name)) and f.is_file()]
        removed = sum(_remove_untouched(file, before) for file in left)
        if removed and self._remote:
            with suppress(OSError):  # the folder is not empty
                folder.rmdir()
        return removed

    def remove_local_copies(self, execution_id: str) -> None:
        """Delete the local copies of an execution's remote artifacts; a no-op for a local root."""
        if self._remote:
            shutil.rmtree(self.cache / execution_id, ignore_errors=True)

    @contextmanager
    def _new_file(self, execution_id: str, name: str) -> Iterator[tuple[Path, Path]]:
        """Yield the path of a new file, and a temporary path that is renamed to it at the end."""
        local = self.folder / execution_id / name
        local.parent.mkdir(parents=True, exist_ok=True)
        with _renamed_when_complete(local) as partial:
            yield local, partial

    def _publish(self, local: Path, execution_id: str, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Upload the file if the root is remote, and add the URL to the summary."""
        url = str(local)
        if self._remote:
            url = f"{self._root}/{execution_id}/{local.name}"
            filesystem, path = self._filesystem(url)
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            filesystem.put_file(str(local), path)  # object stores show only complete objects
        self._verified.add((url, summary["checksum"]))
        return {"url": url, **summary}

    def _local_copy(self, stage_id: str, part: Part) -> Path:
        url, size = part.url, part.bytes
        if not self._remote or not url.startswith(f"{self._root}/"):
            return _checked_size(Path(url), stage_id, url, size)
        local = self.cache / url.removeprefix(f"{self._root}/")
        if not (local.is_file() and local.stat().st_size == size):
            filesystem, path = self._filesystem(url)
            local.parent.mkdir(parents=True, exist_ok=True)
            try:
                with _renamed_when_complete(local) as partial:
                    filesystem.get_file(path, str(partial))
            except FileNotFoundError as error:
                raise _unusable(stage_id, url, "the file does not exist") from error
        return _checked_size(local, stage_id, url, size)

    @staticmethod
    def _filesystem(url: str) -> tuple[Any, str]:
        import fsspec.core

        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # an unknown protocol, or its package is not installed
            raise StageError(f"ARTIFACTS_URL: {url} cannot be used: {error}", ErrorClass.CONFIGURATION) from error
        return filesystem, str(path)


def _default_cache() -> Path:
    from flexiroaster.config import HOME  # imported here, because workers get their cache folder and need no settings

    return HOME / "cache"


def _file_name(stage_id: str, attempt: int | str, name: str | None) -> str:
    """A file name that is unique per (stage, attempt, name): a side table's name has no dot and no leading digit."""
    if name is not None and not _SIDE_TABLE_NAME.fullmatch(name):
        message = (
            f"side table {name!r}: a name must start with a letter or _, followed by up to 63 letters, digits or _"
        )
        raise StageError(message, ErrorClass.CODE)
    if len(stage_id) > _MAX_STEM_LENGTH:
        stage_id = f"{stage_id[:_MAX_STEM_LENGTH]}~{xxhash.xxh3_64_hexdigest(stage_id.encode())}"
    return f"{stage_id}.{attempt}.{name}.arrow" if name else f"{stage_id}.{attempt}.arrow"


@contextmanager
def _renamed_when_complete(final: Path) -> Iterator[Path]:
    """Yield a temporary path next to the final one; rename it at the end, or delete it on an error."""
    partial = final.with_name(f".{final.name}.{uuid4().hex}")
    try:
        yield partial
        failpoints.point("artifacts.before_rename")
        partial.replace(final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _remove_untouched(path: Path, before: float) -> bool:
    """Delete a file or folder unless it was modified since `before`; another process may delete it first."""
    with suppress(FileNotFoundError):
        if any(each.stat().st_mtime >= before for each in (path, *path.rglob("*"))):
            return False
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return True
    return False


def _write_ipc(table: pl.LazyFrame | pl.DataFrame, path: Path) -> None:
    """Write a table. Polars gets an open file: given a path, it may create it after an error, and it syncs to disk."""
    import polars as pl

    with path.open("xb") as file:
        if isinstance(table, pl.LazyFrame):
            table.sink_ipc(file, compression="uncompressed", engine="streaming")
        else:
            table.write_ipc(file, compression="uncompressed")


def _describe(path: Path, table: pl.LazyFrame | pl.DataFrame | None = None) -> dict[str, Any]:
    """Summarize a complete file. The row count comes from its metadata; the checksum reads the file once."""
    import polars as pl

    if isinstance(table, pl.DataFrame):
        schema, rows = table.schema, table.height
    else:
        written = pl.scan_ipc(path, glob=False, hive_partitioning=False)
        schema, rows = written.collect_schema(), written.select(pl.len()).collect().item()
    return {
        "rows": rows,
        "columns": len(schema),
        "bytes": path.stat().st_size,
        "schema": {name: str(dtype) for name, dtype in schema.items()},
        "checksum": _checksum(path),
    }


def _checksum(path: Path) -> str:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
    ):
        return checksum_of(view[start : start + _BLOCK] for start in range(0, len(view), _BLOCK))


def _checked_size(path: Path, stage_id: str, url: str, size: int) -> Path:
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise _unusable(stage_id, url, "the file does not exist") from error
    if found != size:
        raise _unusable(stage_id, url, f"it has {found:,} bytes, but {size:,} were written")
    return path


def _unusable(stage_id: str, url: str, why: str) -> StageError:
    message = f"the artifact of stage {stage_id!r} cannot be used: {url}: {why}"
    return StageError(message, ErrorClass.CONFIGURATION, artifact_of=stage_id, url=url)
