"""Clients of the ecosystem, run by Node against a running server.

Their packages are installed once, from the lock beside this file, into the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

__all__ = ["run"]

HERE = Path(__file__).parent


def run(script: str, *arguments: str, timeout: float = 120) -> Any:
    """Run a script of this folder; what it writes, which is JSON. Skips where there is no node or no npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("needs node and npm, and this machine has none")
    place = _installed(npm)
    target = place / script
    if not target.exists() or target.read_bytes() != (HERE / script).read_bytes():
        _put(HERE / script, target)
    done = subprocess.run(
        [node, str(target), *arguments], capture_output=True, text=True, timeout=timeout, cwd=place, check=False
    )
    assert done.returncode == 0, f"{script}: {done.stderr}{done.stdout}"
    return json.loads(done.stdout)


def _installed(npm: str) -> Path:
    """The folder with these packages; made under another name first, so that parallel tests do not meet."""
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexiroaster"
    place = cache / f"node-tests-{hashlib.sha256(lock).hexdigest()[:12]}"
    if place.is_dir():
        return place
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=cache))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, scratch)
    done = subprocess.run(
        [npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=scratch, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(scratch)
        pytest.skip(f"npm could not install the clients: {done.stderr.strip()[-300:]}")
    try:
        scratch.rename(place)
    except OSError:  # another test was quicker
        shutil.rmtree(scratch)
    return place


def _put(source: Path, target: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as scratch:
        scratch.write(source.read_bytes())
    Path(scratch.name).rename(target)
