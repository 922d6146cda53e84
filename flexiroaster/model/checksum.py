"""File checksums: algorithm, colon, digest in hexadecimal, such as `xxh3_128:99aa06d3014798d8...`."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

__all__ = ["checksum_of", "same_checksum"]

_PREFIX = "xxh3_128:"
_EARLIER_PREFIX = "xxh3-128:"
"""Prefix that earlier releases wrote to output records, which still exist."""


def checksum_of(blocks: Iterable[bytes | memoryview]) -> str:
    """Compute the checksum of content given in blocks."""
    digest = xxhash.xxh3_128()
    for block in blocks:
        digest.update(block)
    return f"{_PREFIX}{digest.hexdigest()}"


def same_checksum(one: str | None, other: str | None) -> bool:
    """Whether both checksums are equal, in either spelling of the prefix. None equals nothing, not even None."""
    return one is not None and other is not None and _normalized(one) == _normalized(other)


def _normalized(checksum: str) -> str:
    return checksum.replace(_EARLIER_PREFIX, _PREFIX, 1)
