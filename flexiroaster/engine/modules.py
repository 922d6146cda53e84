"""User modules: detects edits of modules that a worker imported, so that no stage runs outdated code."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

__all__ = ["UserModules"]

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OWN = str(Path(__file__).resolve().parents[1])


class UserModules:
    """Source files of all modules imported since creation, except installed modules and FlexiRoaster."""

    def __init__(self) -> None:
        self._seen = set(sys.modules)
        self._files: dict[str, int] = {}

    def remember(self) -> None:
        """Record newly imported modules with the modification times of their files."""
        if len(sys.modules) == len(self._seen):
            return
        for name in sys.modules.keys() - self._seen:
            file = getattr(sys.modules[name], "__file__", None)
            if isinstance(file, str) and not file.startswith((_OWN, *_INSTALLED)):
                self._files[file] = _changed_at(file)
        self._seen = set(sys.modules)

    def changed(self) -> bool:
        """Whether a file has changed since its import."""
        return any(_changed_at(file) != at for file, at in self._files.items())


def _changed_at(file: str) -> int:
    """Modification time in nanoseconds since the epoch; 0 if the file does not exist."""
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return 0
