"""Publication of one file, exactly once even if the process dies repeatedly on the way; `State` lists the steps."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexiroaster.errors import ErrorClass, StageError, configuration_error
from flexiroaster.model.checksum import same_checksum
from flexiroaster.operators.base import StageContext
from flexiroaster.operators.outputs.effects import already_undone_error, cannot_undo_error, key_hash, now
from flexiroaster.operators.outputs.file.storage import Record, State, Storage, checksum_of_file

__all__ = ["Publication"]


class Publication:
    """The published file of one stage of one execution."""

    def __init__(self, storage: Storage, context: StageContext) -> None:
        self._storage = storage
        self._context = context
        self._key = key_hash(context)

    def begin(self, target: str, *, overwrite: bool) -> Record:
        """Take over from earlier attempts, and clean up after them.

        The record is `done` if one of them has taken effect, else `writing`: then write to `temporary` and call
        `finish`. The target of an earlier attempt stays the target. Raises StageError: cancelled after an undo,
        configuration if the file exists and must not be overwritten.
        """
        with self._storage.locked():
            found = self._load_resolved()
            if found is not None and found.state is not State.WRITING:
                return self._require_not_undone(found)
            if found is not None:
                self._storage.discard(self._key, found)
            begun = self._record(State.WRITING, target=found.target if found else target, attempt=uuid.uuid4().hex[:8])
            self._check_overwrite(begun, overwrite)
            self._storage.save(self._key, begun)
            return begun

    def temporary(self, begun: Record) -> Path:
        """The file that this attempt writes to."""
        return self._storage.temporary(self._key, begun)

    def abandon(self, begun: Record) -> None:
        """Remove what this attempt has written, after a failure."""
        self._storage.discard(self._key, begun)

    def finish(self, begun: Record, form: str, rows: int, *, overwrite: bool) -> Record:
        """Put the written file in place. Raises StageError: transient if another attempt has taken over."""
        sealed = self._seal(begun)
        with self._storage.locked():
            found = self._load_resolved()
            if found is not None and found.state is not State.WRITING:
                self.abandon(begun)
                return self._require_not_undone(found)
            if found is None or found.attempt != begun.attempt:
                raise _superseded()
            self._check_overwrite(begun, overwrite)
            replaces = self._storage.exists(begun.target)
            if replaces:
                self._storage.backup(self._key, begun.target)
            prepared = begun.model_copy(
                update={"state": State.PREPARED, "replaces": replaces, "format": form, "rows": rows, **sealed}
            )
            self._storage.save(self._key, prepared)
            self._storage.publish(self._key, prepared)
            return self._advance(prepared, State.DONE)

    def undo(self, effect: Mapping[str, Any]) -> str:
        """Restore the former version, or remove the file if there was none; return a sentence about it.

        Raises StageError (configuration) if the file has changed since, or if data that the undo needs no longer
        exists.
        """
        with self._storage.locked():
            found = self._load_resolved()
            if found is None or found.state is State.WRITING:
                return self._undo_nothing(found, effect)
            if found.state is State.UNDONE:
                return f"was already undone at {found.at}"
            return self._revert(found)

    def discard_undo_data(self) -> None:
        """Remove the record and the kept former version."""
        with self._storage.locked():
            found = self._load_resolved()
            if found is not None:
                if found.state is State.WRITING:
                    self._storage.discard(self._key, found)
                self._storage.remove_record(self._key, found.target)

    def _load_resolved(self) -> Record | None:
        """The record, with `prepared` resolved to its outcome: `done`, or still `writing`."""
        found = self._storage.load(self._key)
        if found is None or found.state is not State.PREPARED:
            return found
        return self._advance(found, State.DONE if self._storage.is_published(self._key, found) else State.WRITING)

    def _revert(self, found: Record) -> str:
        target = found.target
        if found.state is State.DONE:
            self._check_unchanged(found)
            found = self._advance(found, State.UNDOING)
        if found.replaces and self._storage.has_backup(self._key, target):
            self._storage.restore(self._key, target)
        elif not found.replaces and same_checksum(self._storage.checksum(target), found.checksum):
            self._storage.remove(target)
        self._advance(found, State.UNDONE)
        return f"restored the former version of {target}" if found.replaces else f"removed {target}"

    def _check_unchanged(self, found: Record) -> None:
        if found.replaces and not self._storage.has_backup(self._key, found.target):
            raise cannot_undo_error(f"the kept former version of {found.target} no longer exists")
        present = self._storage.checksum(found.target)
        if present is not None and not same_checksum(present, found.checksum):
            raise cannot_undo_error(f"{found.target} has changed since this stage wrote it")

    def _undo_nothing(self, found: Record | None, effect: Mapping[str, Any]) -> str:
        if found is None and effect:
            raise cannot_undo_error(f"the record of {effect.get('path')} no longer exists")
        if found is not None:
            self._storage.discard(self._key, found)
        self._storage.save(self._key, self._record(State.UNDONE))
        return "no file was written"

    def _seal(self, begun: Record) -> dict[str, object]:
        temporary = self.temporary(begun)
        try:
            self._storage.seal(self._key, begun)
            return {"checksum": checksum_of_file(temporary.open("rb")), "size": temporary.stat().st_size}
        except FileNotFoundError as error:
            raise _superseded() from error

    def _check_overwrite(self, begun: Record, overwrite: bool) -> None:
        if not overwrite and self._storage.exists(begun.target):
            raise configuration_error(f"file {begun.target} already exists, and `overwrite` is false")

    def _require_not_undone(self, found: Record) -> Record:
        if found.state is State.DONE:
            return found
        raise already_undone_error(found.at)

    def _advance(self, record: Record, state: State) -> Record:
        moved = record.model_copy(update={"state": state, "at": now()})
        self._storage.save(self._key, moved)
        return moved

    def _record(self, state: State, **fields: str) -> Record:
        return Record(
            execution_id=self._context.execution_id, stage_id=self._context.stage_id, state=state, at=now(), **fields
        )


def _superseded() -> StageError:
    return StageError("another attempt of this stage has taken over", ErrorClass.TRANSIENT)
