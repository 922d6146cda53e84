"""One spelling of a checksum, and the earlier one is still understood."""

from __future__ import annotations

import pytest
import xxhash

from flexiroaster.model.checksum import checksum_of, same_checksum

DIGEST = xxhash.xxh3_128_hexdigest(b"content")


def test_pieces_have_the_checksum_of_the_whole() -> None:
    assert checksum_of([b"con", memoryview(b"tent")]) == f"xxh3_128:{DIGEST}"


@pytest.mark.parametrize("earlier", [f"xxh3_128:{DIGEST}", f"xxh3-128:{DIGEST}"])
def test_either_spelling_is_the_same_checksum(earlier: str) -> None:
    assert same_checksum(checksum_of([b"content"]), earlier)
    assert same_checksum(earlier, checksum_of([b"content"]))
    assert not same_checksum(checksum_of([b"other"]), earlier)


def test_no_file_has_no_checksum() -> None:
    assert not same_checksum(None, None)
    assert not same_checksum(None, checksum_of([b""]))
