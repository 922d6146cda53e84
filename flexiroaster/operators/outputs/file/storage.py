"""Storage of files and their records: the local file system, or another one through fsspec.

Both offer the same operations. Locally each operation is atomic, is durable when it returns, and is protected by a
lock. Elsewhere there is no lock and no rename; an upload is as atomic as the store makes it (object stores make it
atomic).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_random

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.checksum import checksum_of, same_checksum
from flexiroaster.operators.access.file_access import filesystem

__all__ = ["LocalStorage", "Record", "RemoteStorage", "State", "Storage", "checksum_of_file"]


_BLOCK = 1 << 20
_LOCK_SECONDS = 30.0
_NAME_BYTES = 150


class State(StrEnum):
    """The step that a record has reached."""

    WRITING = "writing"
    PREPARED = "prepared"
    DONE = "done"
    UNDOING = "undoing"
    UNDONE = "undone"


class Record(BaseModel):
    """One record, stored as a JSON file. `attempt` is the only attempt that may continue; all others are superseded.

    `replaces` says whether a former version is kept; `checksum`, `size` (bytes) and `rows` describe the new one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    execution_id: str
    stage_id: str
    state: State
    at: str
    target: str = ""
    attempt: str = ""
    format: str = ""
    replaces: bool = False
    checksum: str = ""
    size: int = 0
    rows: int = 0

    @property
    def effect(self) -> dict[str, object]:
        """The effect that the stage reports."""
        return {
            "kind": "file",
            "path": self.target,
            "format": self.format,
            "rows": self.rows,
            "bytes": self.size,
            "checksum": self.checksum,
            "replaced": self.replaces,
            "undoable": True,
        }


class LocalStorage:
    """The local file system. Records are in `folder`, former versions and temporary files next to their target."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold an exclusive lock, which ends with the process at the latest. Raises StageError (transient)."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("wb") as file:
            _wait_for_lock(file)
            yield

    def load(self, key: str) -> Record | None:
        """The record of a key."""
        try:
            return Record.model_validate_json(self._record(key).read_bytes())
        except FileNotFoundError:
            return None

    def save(self, key: str, record: Record) -> None:
        """Replace the record of a key, durably."""
        draft = self._folder / f"{key}.draft"
        with draft.open("wb") as file:
            file.write(record.model_dump_json(indent=2).encode())
            _sync(file)
        draft.replace(self._record(key))
        _sync_folder(self._folder)

    def temporary(self, key: str, record: Record) -> Path:
        """A hidden file next to the target, so that a rename can put it in place."""
        path = self._temporary(key, record)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def discard(self, key: str, record: Record) -> None:
        """Remove what that attempt has written so far."""
        self._temporary(key, record).unlink(missing_ok=True)

    def seal(self, key: str, record: Record) -> None:
        """Write content and name to disk before the record says that they are there."""
        path = self._temporary(key, record)
        with path.open("rb") as file:
            _sync(file)
        _sync_folder(path.parent)

    def exists(self, target: str) -> bool:
        """Whether the file exists."""
        return Path(target).exists()

    def checksum(self, target: str) -> str | None:
        """The checksum of a file, None if it does not exist."""
        path = Path(target)
        return checksum_of_file(path.open("rb")) if path.exists() else None

    def backup(self, key: str, target: str) -> None:
        """Keep the current version as a hard link, or as a copy if hard links are not supported."""
        backup = self._backup(key, target)
        backup.parent.mkdir(parents=True, exist_ok=True)
        backup.unlink(missing_ok=True)
        try:
            backup.hardlink_to(target)
        except OSError:
            shutil.copy2(target, backup)
            with backup.open("rb") as file:
                _sync(file)
        _sync_folder(backup.parent)

    def has_backup(self, key: str, target: str) -> bool:
        """Whether a version is backup."""
        return self._backup(key, target).exists()

    def publish(self, key: str, record: Record) -> None:
        """Rename the temporary file to the target, with the permissions of the former version."""
        temporary, target = self._temporary(key, record), Path(record.target)
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
        _sync_folder(target.parent)

    def is_published(self, key: str, record: Record) -> bool:
        """The temporary file exists until the rename, and not after it."""
        return not self._temporary(key, record).exists()

    def restore(self, key: str, target: str) -> None:
        """Rename the kept version to the target."""
        self._backup(key, target).replace(target)
        _sync_folder(Path(target).parent)

    def remove(self, target: str) -> None:
        """Remove a file, if it exists."""
        Path(target).unlink(missing_ok=True)
        _sync_folder(Path(target).parent)

    def remove_record(self, key: str, target: str) -> None:
        """Remove the record and the kept version, if there is one."""
        if target:
            self._backup(key, target).unlink(missing_ok=True)
        self._record(key).unlink(missing_ok=True)

    def _temporary(self, key: str, record: Record) -> Path:
        target = Path(record.target)
        name = target.name.encode()[:_NAME_BYTES].decode(errors="ignore")
        return target.with_name(f".{name}.{key}.{record.attempt}.tmp")

    def _record(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _backup(self, key: str, target: str) -> Path:
        return Path(target).parent / ".flexiroaster" / "outputs" / f"{key}.former"


class RemoteStorage:
    """An fsspec file system. Records and kept versions are under the URL `folder`, new files in a scratch folder."""

    def __init__(self, folder: str, scratch: Path) -> None:
        self._files, self._folder = filesystem(folder)
        self._scratch = scratch

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """No lock: concurrent attempts write the same rows to the same place."""
        return contextlib.nullcontext()

    def load(self, key: str) -> Record | None:
        """The record of a key."""
        try:
            return Record.model_validate_json(self._files.cat_file(self._record(key)))
        except FileNotFoundError:
            return None

    def save(self, key: str, record: Record) -> None:
        """Replace the record of a key."""
        self._files.makedirs(self._folder, exist_ok=True)
        self._files.pipe_file(self._record(key), record.model_dump_json(indent=2).encode())

    def temporary(self, key: str, record: Record) -> Path:
        """A local file, which is uploaded once it is complete."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / f"{key}.{record.attempt}.tmp"

    def discard(self, key: str, record: Record) -> None:
        """Remove what this attempt has written; the scratch folders of other attempts no longer exist."""
        self.temporary(key, record).unlink(missing_ok=True)

    def seal(self, key: str, record: Record) -> None:
        """Do nothing: only the upload counts."""

    def exists(self, target: str) -> bool:
        """Whether the file exists."""
        return bool(self._files.exists(self._path(target)))

    def checksum(self, target: str) -> str | None:
        """The checksum of a file, None if it does not exist."""
        return checksum_of_file(self._files.open(self._path(target), "rb")) if self.exists(target) else None

    def backup(self, key: str, target: str) -> None:
        """Copy the current version, unless one is kept: an interrupted upload may have damaged the current one."""
        if not self.has_backup(key, target):
            self._files.makedirs(self._folder, exist_ok=True)
            self._files.cp_file(self._path(target), self._backup(key))

    def has_backup(self, key: str, target: str) -> bool:  # noqa: ARG002 - the protocol's signature
        """Whether a version is backup."""
        return bool(self._files.exists(self._backup(key)))

    def publish(self, key: str, record: Record) -> None:
        """Upload the temporary file."""
        path = self._path(record.target)
        self._files.makedirs(self._files._parent(path), exist_ok=True)
        self._files.put_file(str(self.temporary(key, record)), path)
        self.discard(key, record)

    def is_published(self, key: str, record: Record) -> bool:  # noqa: ARG002 - the protocol's signature
        """Whether the target has the checksum of the prepared record."""
        return same_checksum(self.checksum(record.target), record.checksum)

    def restore(self, key: str, target: str) -> None:
        """Copy the kept version to the target, then remove it."""
        self._files.cp_file(self._backup(key), self._path(target))
        self._files.rm_file(self._backup(key))

    def remove(self, target: str) -> None:
        """Remove a file, if it exists."""
        if self.exists(target):
            self._files.rm_file(self._path(target))

    def remove_record(self, key: str, target: str) -> None:  # noqa: ARG002 - the protocol's signature
        """Remove the record and the kept version, if there is one."""
        for path in (self._backup(key), self._record(key)):
            if self._files.exists(path):
                self._files.rm_file(path)

    def _path(self, target: str) -> str:
        return str(self._files._strip_protocol(target))

    def _record(self, key: str) -> str:
        return f"{self._folder}/{key}.json"

    def _backup(self, key: str) -> str:
        return f"{self._folder}/{key}.former"


Storage = LocalStorage | RemoteStorage
"""The operations that a publication needs. Targets are paths or URLs; a key names a record and a former version."""


def checksum_of_file(file: IO[bytes] | Any) -> str:  # noqa: ANN401 - fsspec's files are not IO objects
    """The checksum of an open file; closes the file."""
    with file:
        return checksum_of(iter(lambda: file.read(_BLOCK), b""))


def _wait_for_lock(file: IO[bytes]) -> None:
    retrying = Retrying(
        retry=retry_if_exception_type(BlockingIOError),
        stop=stop_after_delay(_LOCK_SECONDS),
        wait=wait_random(0.01, 0.1),
    )
    try:
        retrying(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except RetryError as error:
        message = f"another process has held the lock on output files for more than {_LOCK_SECONDS:g} s"
        raise StageError(message, ErrorClass.TRANSIENT) from error


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make file names durable, not only file contents."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
