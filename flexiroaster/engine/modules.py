"""The modules a worker has imported for its stages: an edited one must not run as it was before."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

__all__ = ["UserModules"]

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OWN = str(Path(__file__).resolve().parents[1])


class UserModules:
    """The source files of all modules imported since this was made that are neither installed nor ours."""

    def __init__(self) -> None:
        self._seen = set(sys.modules)
        self._files: dict[str, int] = {}

    def remember(self) -> None:
        """Note the modules that have come since the last time, with the times their files were changed."""
        if len(sys.modules) == len(self._seen):
            return
        for name in sys.modules.keys() - self._seen:
            file = getattr(sys.modules[name], "__file__", None)
            if isinstance(file, str) and not file.startswith((_OWN, *_INSTALLED)):
                self._files[file] = _changed_at(file)
        self._seen = set(sys.modules)

    def changed(self) -> bool:
        """Whether a file is not what was imported."""
        return any(_changed_at(file) != at for file, at in self._files.items())


def _changed_at(file: str) -> int:
    """Nanoseconds since the epoch; 0 when it is gone."""
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return 0
