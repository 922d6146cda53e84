"""The checksum of a file: the algorithm, a colon and the digest in hexadecimal, as `xxh3_128:99aa06d3014798d8...`."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

__all__ = ["checksum_of", "same_checksum"]

_PREFIX = "xxh3_128:"
_EARLIER_PREFIX = "xxh3-128:"
"""How outputs wrote it once: their records are still there."""


def checksum_of(blocks: Iterable[bytes | memoryview]) -> str:
    """The checksum of a content, given in pieces."""
    digest = xxhash.xxh3_128()
    for block in blocks:
        digest.update(block)
    return f"{_PREFIX}{digest.hexdigest()}"


def same_checksum(one: str | None, other: str | None) -> bool:
    """Whether both are the checksum of one content, however its prefix is spelled; None is that of no file."""
    return one is not None and other is not None and _normalized(one) == _normalized(other)


def _normalized(checksum: str) -> str:
    return checksum.replace(_EARLIER_PREFIX, _PREFIX, 1)
