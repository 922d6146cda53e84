"""Worker setup: the configuration of a runner's workers, sent in the zygote's first message, never by environment."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from flexiroaster.artifacts.store import SCRATCH, Artifacts
from flexiroaster.errors import SettingsError
from flexiroaster.operators.base import Access

__all__ = ["Setup"]


@dataclass(frozen=True, slots=True)
class Setup:
    """The access of stages, the location of artifacts, and `work`, the parent of the workers' scratch folders."""

    access: Access
    artifacts_url: str
    cache: str
    work: str

    @classmethod
    def new(cls, access: Access, artifacts_url: str) -> Self:
        """Create a setup with a new scratch folder, next to the local artifacts, where large files have space.

        Raises SettingsError if the folder is not writable.
        """
        url = artifacts_url if "://" in artifacts_url else str(Path(artifacts_url).absolute())
        artifacts = Artifacts(url)
        try:
            artifacts.folder.mkdir(parents=True, exist_ok=True)
            work = tempfile.mkdtemp(prefix=SCRATCH, dir=artifacts.folder)
        except OSError as error:
            raise SettingsError(f"ARTIFACTS_URL: cannot write to {artifacts.folder}: {error}") from error
        return cls(access, url, str(artifacts.cache), work)

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Self:
        """Create a setup from the result of `message`."""
        access: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in message["access"].items()}
        return cls(Access(**access), message["artifacts_url"], message["cache"], message["work"])

    def message(self) -> dict[str, Any]:
        """The setup as JSON."""
        plain = {f.name: getattr(self.access, f.name) for f in fields(self.access)}
        access = {name: _plain(value) for name, value in plain.items()}
        return {"access": access, "artifacts_url": self.artifacts_url, "cache": self.cache, "work": self.work}


def _plain(value: str | Mapping[str, str] | Collection[str]) -> str | dict[str, str] | list[str]:
    if isinstance(value, str):
        return value
    return dict(value) if isinstance(value, Mapping) else list(value)
