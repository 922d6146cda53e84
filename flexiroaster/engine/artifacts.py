"""Artifacts: the tables between stages, Arrow IPC files under one folder or fsspec URL.

`{root}/{execution_id}/{stage_id}.{attempt}.arrow`, side tables `{stage_id}.{attempt}.{name}.arrow`; uncompressed, so
that readers map them. An attempt is named by the driver's fencing token and its number (`7.1`). A file appears under
its name when it is complete. A large table that differs from another in some columns only is written as these columns,
and refers to the files of the other (`engine.parts`). Local files never import fsspec.
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

from flexiroaster import faults
from flexiroaster.engine.mapped import can_map, map_file
from flexiroaster.engine.parts import Part, parts_of, put_beside, select_rows, worth_selecting, worth_sharing
from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.checksum import checksum_of, same_checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

__all__ = ["SCRATCH", "Artifacts", "summary_of"]

SCRATCH = ".work-"
"""Begins the names of the scratch folders of workers, which are beside the artifacts."""

SUMMARY_FIELDS = ("url", "rows", "columns", "bytes", "schema", "checksum", "order", "beside", "where")

_SIDE_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_KEPT = "__flexiroaster_kept"
_BLOCK = 1 << 24  # a stop is noticed between two blocks
_EXECUTION_ID = re.compile(r"exec-[0-9a-f]{20}")
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}")
_LONGEST_STEM = 100  # file names end at 255 bytes, and a temporary name is longer than the final one


def summary_of(output: Mapping[str, Any]) -> dict[str, Any]:
    """The artifact's summary within a stage's output; empty when the stage gave no table."""
    return {field: output[field] for field in SUMMARY_FIELDS if field in output} if "url" in output else {}


class Artifacts:
    """The store of artifacts. `url` is a folder or an fsspec URL; `cache` holds local copies of remote artifacts.

    A summary is JSON: `url`, `rows`, `columns`, `bytes`, `schema` (column -> type) and `checksum`; where columns are in
    other files, or rows left out, also `order`, `beside` and `where` (see `engine.parts`): then `bytes` and `checksum`
    are of the file at `url`.
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self._remote = "://" in url and not url.startswith("file://")
        self._root = url.rstrip("/") if self._remote else str(Path(url.removeprefix("file://")).absolute())
        self.cache = (cache or _default_cache()).absolute()
        self._verified: set[tuple[str, str]] = set()  # URLs with their checksums

    @property
    def folder(self) -> Path:
        """Where files are written first: the root itself, or the cache of a remote one."""
        return self.cache if self._remote else Path(self._root)

    def write(
        self,
        table: pl.LazyFrame | pl.DataFrame,
        execution_id: str,
        stage_id: str,
        attempt: int | str,
        name: str | None = None,
    ) -> dict[str, Any]:
        """Write a table (`name`: a side table) and give its summary. A lazy frame is computed here, streaming.

        Raises what the computation raises.
        """
        with self._new(execution_id, _file_name(stage_id, attempt, name)) as (local, partial):
            _write_ipc(table, partial)
            summary = _describe(partial, table)
        return self._published(local, execution_id, summary)

    def take(self, file: Path, execution_id: str, stage_id: str, attempt: int | str) -> dict[str, Any]:
        """Make an uncompressed Arrow IPC file an artifact, by moving it, and give its summary."""
        with self._new(execution_id, _file_name(stage_id, attempt, None)) as (local, partial):
            shutil.move(file, partial)  # a rename, unless somebody put the scratch folders on another disk
            summary = _describe(partial)
        return self._published(local, execution_id, summary)

    def write_beside(
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
        """Write a table whose rows are those of the artifact `base`, and its columns too but for the fresh ones.

        Only these are written where that is worth it; `in_memory` says that there is room to compute them at once.
        Raises StageError (code) where the numbers of rows differ, and what the computation raises.
        """
        schema = {name: str(dtype) for name, dtype in table.collect_schema().items()}
        if not worth_sharing(base, [name for name in schema if name not in fresh]):
            return self.write(table, execution_id, stage_id, attempt)
        if not (new := [name for name in schema if name in fresh]):
            return put_beside(None, base, schema)
        columns = table.lazy().select(new)
        own = self.write(columns.collect(engine="in-memory") if in_memory else columns, execution_id, stage_id, attempt)
        if own["rows"] != base["rows"]:
            raise StageError(f"gave {own['rows']:,} rows to stand beside {base['rows']:,}", ErrorClass.CODE)
        return put_beside(own, base, schema)

    def write_selection(
        self,
        table: pl.LazyFrame | pl.DataFrame,
        kept: pl.Series,
        base: Mapping[str, Any],
        execution_id: str,
        stage_id: str,
        attempt: int | str,
    ) -> dict[str, Any]:
        """Write a table that is the artifact `base` without the rows for which `kept`, booleans, is not true.

        Only `kept` is written where that is worth it.
        """
        rows = int(kept.sum())
        if not worth_selecting(base, rows):
            return self.write(table, execution_id, stage_id, attempt)
        if len(kept) != base["rows"]:
            raise StageError(f"chose among {len(kept):,} rows where there are {base['rows']:,}", ErrorClass.CODE)
        where = self.write(kept.alias(_KEPT).to_frame(), execution_id, stage_id, attempt)
        return select_rows(base, where, rows)

    def scan(self, stage_id: str, summary: Mapping[str, Any]) -> pl.LazyFrame:
        """Read an artifact lazily; a remote one is fetched once.

        Raises StageError (configuration; `details["artifact_of"]` is the stage) when a file is gone or is not the
        one that was written.
        """
        import polars as pl

        frames = [self._scan_part(stage_id, part, summary["schema"]) for part in parts_of(summary)]
        whole = pl.concat(frames, how="horizontal") if len(frames) > 1 else frames[0]
        return whole.select(summary["order"]) if "order" in summary else whole

    def _scan_part(self, stage_id: str, part: Part, schema: Mapping[str, str]) -> pl.LazyFrame:
        """The columns and rows of one file that belong to a table of that schema."""
        import polars as pl

        columns = list(schema) if part.columns is None else part.columns
        frame = self._scan_file(stage_id, part, [schema[name] for name in columns])
        if part.where is not None:
            kept = self._scan_file(stage_id, Part(**part.where), ["Boolean"])
            frame = pl.concat([frame, kept], how="horizontal").filter(_KEPT).drop(_KEPT)
        return frame if part.columns is None else frame.select(part.columns)

    def _scan_file(self, stage_id: str, part: Part, types: Collection[str]) -> pl.LazyFrame:
        """One file; `types` are those of the columns that matter."""
        import polars as pl

        path = self._local_copy(stage_id, part)
        if not can_map(part.bytes, types):
            return pl.scan_ipc(path, glob=False, hive_partitioning=False)
        self._verify(path, stage_id, part)
        return map_file(path)

    def _verify(self, path: Path, stage_id: str, part: Part) -> None:
        """Compare the checksum, once a file and process: what is mapped is taken as it is."""
        if (part.url, part.checksum) not in self._verified:
            if not same_checksum(_checksum(path), part.checksum):
                raise _gone(stage_id, part.url, "its content is not what was written")
            self._verified.add((part.url, part.checksum))

    def remove(self, execution_id: str) -> None:
        """Delete all artifacts of an execution, local copies included."""
        self.forget(execution_id)
        if not self._remote:
            shutil.rmtree(Path(self._root) / execution_id, ignore_errors=True)
            return
        filesystem, path = self._filesystem(f"{self._root}/{execution_id}")
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def execution_ids(self) -> list[str]:
        """The executions that have a folder here, by the form of its name."""
        if self._remote:
            filesystem, path = self._filesystem(self._root)
            found = filesystem.ls(path, detail=False) if filesystem.exists(path) else []
            names = [str(entry).rstrip("/").rpartition("/")[2] for entry in found]
        else:
            root = Path(self._root)
            names = [entry.name for entry in root.iterdir()] if root.is_dir() else []
        return sorted(name for name in names if _EXECUTION_ID.fullmatch(name))

    def sweep(self, before: float) -> int:
        """Delete what killed workers left on this machine and nothing has written to since (POSIX time): unfinished
        files, scratch folders, and local copies of remote artifacts. How many.
        """
        return sum(
            _remove_untouched(entry, before) if entry.name.startswith(SCRATCH) else self._sweep_folder(entry, before)
            for entry in (self.folder.iterdir() if self.folder.is_dir() else ())
            if entry.is_dir() and not entry.is_symlink()
        )

    def _sweep_folder(self, folder: Path, before: float) -> int:
        """Of one execution; the folder itself goes with the last local copy."""
        left = [f for f in folder.iterdir() if (self._remote or _PARTIAL.fullmatch(f.name)) and f.is_file()]
        removed = sum(_remove_untouched(file, before) for file in left)
        if removed and self._remote:
            with suppress(OSError):  # there is more in it
                folder.rmdir()
        return removed

    def forget(self, execution_id: str) -> None:
        """Delete the local copies of an execution's remote artifacts; nothing for a local root."""
        if self._remote:
            shutil.rmtree(self.cache / execution_id, ignore_errors=True)

    @contextmanager
    def _new(self, execution_id: str, name: str) -> Iterator[tuple[Path, Path]]:
        """The path of a new file, and the temporary one that is renamed to it at the end."""
        local = self.folder / execution_id / name
        local.parent.mkdir(parents=True, exist_ok=True)
        with _renamed_when_complete(local) as partial:
            yield local, partial

    def _published(self, local: Path, execution_id: str, summary: Mapping[str, Any]) -> dict[str, Any]:
        """The summary with the artifact's URL, after the upload where the root is remote."""
        url = str(local)
        if self._remote:
            url = f"{self._root}/{execution_id}/{local.name}"
            filesystem, path = self._filesystem(url)
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            filesystem.put_file(str(local), path)  # object stores show an object when it is complete
        self._verified.add((url, summary["checksum"]))
        return {"url": url, **summary}

    def _local_copy(self, stage_id: str, part: Part) -> Path:
        url, size = part.url, part.bytes
        if not self._remote or not url.startswith(f"{self._root}/"):
            return _checked(Path(url), stage_id, url, size)
        local = self.cache / url.removeprefix(f"{self._root}/")
        if not (local.is_file() and local.stat().st_size == size):
            self._fetch(url, local, stage_id)
        return _checked(local, stage_id, url, size)

    def _fetch(self, url: str, local: Path, stage_id: str) -> None:
        filesystem, path = self._filesystem(url)
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _renamed_when_complete(local) as partial:
                filesystem.get_file(path, str(partial))
        except FileNotFoundError as error:
            raise _gone(stage_id, url, "there is no such file") from error

    @staticmethod
    def _filesystem(url: str) -> tuple[Any, str]:
        import fsspec.core

        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # a protocol that is unknown, or whose package is not installed
            raise StageError(f"ARTIFACTS_URL: {url} cannot be used: {error}", ErrorClass.CONFIGURATION) from error
        return filesystem, str(path)


def _default_cache() -> Path:
    from flexiroaster.config import HOME  # here, because workers are told their cache and need no settings

    return HOME / "cache"


def _file_name(stage_id: str, attempt: int | str, name: str | None) -> str:
    """Distinct for distinct (stage, attempt, name): a side table's name has no dot and no digit in front."""
    if name is not None and not _SIDE_TABLE_NAME.fullmatch(name):
        message = f"side table {name!r}: a name is a letter and up to 63 letters, digits or underscores"
        raise StageError(message, ErrorClass.CODE)
    if len(stage_id) > _LONGEST_STEM:
        stage_id = f"{stage_id[:_LONGEST_STEM]}~{xxhash.xxh3_64_hexdigest(stage_id.encode())}"
    return f"{stage_id}.{attempt}.{name}.arrow" if name else f"{stage_id}.{attempt}.arrow"


@contextmanager
def _renamed_when_complete(final: Path) -> Iterator[Path]:
    """A temporary path beside the final one; it takes that name at the end, or goes away on an error."""
    partial = final.with_name(f".{final.name}.{uuid4().hex}")
    try:
        yield partial
        faults.point("artifacts.before_rename")
        partial.replace(final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _remove_untouched(path: Path, before: float) -> bool:
    """Delete a file or a folder unless something in it was written to since; another process may be faster."""
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
    """Polars gets an open file: given a path, it may create the file after it has raised, and syncs it to the disk."""
    import polars as pl

    with path.open("xb") as file:
        if isinstance(table, pl.LazyFrame):
            table.sink_ipc(file, compression="uncompressed", engine="streaming")
        else:
            table.write_ipc(file, compression="uncompressed")


def _describe(path: Path, table: pl.LazyFrame | pl.DataFrame | None = None) -> dict[str, Any]:
    """The summary of a complete file. Rows are counted from its metadata, the checksum reads it once."""
    schema, rows = _shape(path, table)
    return {
        "rows": rows,
        "columns": len(schema),
        "bytes": path.stat().st_size,
        "schema": {name: str(dtype) for name, dtype in schema.items()},
        "checksum": _checksum(path),
    }


def _shape(path: Path, table: pl.LazyFrame | pl.DataFrame | None) -> tuple[pl.Schema, int]:
    import polars as pl

    if isinstance(table, pl.DataFrame):
        return table.schema, table.height
    written = pl.scan_ipc(path, glob=False, hive_partitioning=False)
    return written.collect_schema(), written.select(pl.len()).collect().item()


def _checksum(path: Path) -> str:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
    ):
        return checksum_of(view[start : start + _BLOCK] for start in range(0, len(view), _BLOCK))


def _checked(path: Path, stage_id: str, url: str, size: int) -> Path:
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise _gone(stage_id, url, "there is no such file") from error
    if found != size:
        raise _gone(stage_id, url, f"it has {found:,} bytes, {size:,} were written")
    return path


def _gone(stage_id: str, url: str, why: str) -> StageError:
    message = f"the artifact of stage {stage_id!r} is gone: {url}: {why}"
    return StageError(message, ErrorClass.CONFIGURATION, artifact_of=stage_id, url=url)
