"""The header `traceparent`, as the standard has it: what is malformed counts as absent."""

from __future__ import annotations

import pytest

from flexiroaster.model.execution import valid_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("header", [VALID, f" \t{VALID} ", f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01"])
def test_a_valid_one_is_kept(header: str) -> None:
    assert valid_traceparent(header) == header.strip()


def test_of_a_later_version_the_known_parts_are_kept() -> None:
    assert valid_traceparent(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == f"cc-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "x",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f"{VALID}-more",
        f"{VALID}\n",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"{VALID},{VALID}",
        "\N{ARABIC-INDIC DIGIT ZERO}" * 2 + VALID[2:],
    ],
)  # fmt: skip
def test_what_is_malformed_counts_as_absent(header: str | None) -> None:
    assert valid_traceparent(header) is None
