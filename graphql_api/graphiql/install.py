"""`python -m graphql_api.graphiql.install`: fetch GraphiQL's published files with npm into the cache folder.

It accepts only the pinned versions with their digests, and extracts only the files that the page uses.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graphql_api.graphiql import FILES, VERSION, folder

__all__ = ["PACKAGES", "install"]

PACKAGES = {
    f"graphiql@{VERSION}": "6aa9cb6d82e656d38b72991264f41545889881e8dc23059199be3b94fff2ad05",
    "react@18.3.1": "8d9bed01a672e7eaf387942d781ad47c6a43089a30a0306060f9fd5ac7870347",
    "react-dom@18.3.1": "031d4427a99f2f3f6cac18bbbf308594a67e4f47d10f4896fdec446505b040e0",
}
"""The npm packages, with the SHA-256 of their archives."""


def install(target: Path | None = None) -> Path:
    """Install the files into `target`, by default the server's folder, unless they are complete; return the folder.

    Raises RuntimeError if npm is missing or fails, or if an archive has the wrong digest.
    """
    place = target or folder()
    if all((place / name).is_file() for name in FILES):
        return place
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is needed to fetch GraphiQL, but it is not installed")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        for package, digest in PACKAGES.items():
            for file in _extracted(_archive(npm, package, digest, Path(scratch))):
                file.replace(place / file.name)
    return place


def _archive(npm: str, package: str, digest: str, scratch: Path) -> Path:
    command = [npm, "pack", package, "--silent", "--pack-destination", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
    archive = scratch / (done.stdout.strip().rpartition("\n")[2] or "none")
    if done.returncode or not archive.is_file():
        raise RuntimeError(f"npm could not fetch {package}: {done.stderr.strip()}")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
        raise RuntimeError(f"{package}: the SHA-256 of the archive is not the expected one")
    return archive


def _extracted(archive: Path) -> Iterator[Path]:
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            content = tar.extractfile(member) if path.name in FILES else None
            if content is not None:
                target = archive.parent / path.name
                target.write_bytes(content.read())
                yield target


if __name__ == "__main__":
    try:
        sys.stdout.write(f"GraphiQL is in {install()}\n")
    except RuntimeError as failure:
        sys.exit(f"Error: {failure}")
