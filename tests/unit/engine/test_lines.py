"""Lines out of pieces, whatever the pieces, and no more of them than is allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.workers.log_capture import LINE_BYTES, Budget, LineBuffer


class Reader:
    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.budget = Budget()
        self.buffer = LineBuffer("\n", "\r", lambda line, cut: self.lines.append((line, cut)))

    def read(self, *pieces: str) -> list[tuple[str, int]]:
        for piece in pieces:
            self.buffer.write(piece, self.budget)
        return self.lines


@given(st.lists(st.text(alphabet="ab\n", max_size=8), max_size=8))
def test_lines_do_not_depend_on_the_pieces(pieces: list[str]) -> None:
    reader = Reader()
    reader.read(*pieces)
    reader.buffer.flush()
    whole = "".join(pieces)
    expected = whole.split("\n")
    if not expected[-1]:
        expected.pop()
    assert [line for line, _ in reader.lines] == expected


def test_a_line_without_end_waits() -> None:
    reader = Reader()
    assert reader.read("a", "b") == []
    reader.buffer.flush()
    reader.buffer.flush()
    assert reader.lines == [("ab", 0)]


def test_a_carriage_return_starts_over() -> None:
    assert Reader().read("10 %\r", "50 %\r100 %\n", "next\r\n") == [("100 %", 0), ("next", 0)]


def test_bars_without_end_are_not_hoarded() -> None:
    reader = Reader()
    reader.read(*(f"\r{n} %" for n in range(10_000)))
    reader.buffer.flush()
    assert reader.lines == [("9999 %", 0)]


def test_a_long_line_is_cut() -> None:
    long = "x" * (LINE_BYTES + 5)
    assert Reader().read(long, "yy", "\n", "z\n") == [("x" * LINE_BYTES, 7), ("z", 0)]


def test_bytes_are_cut_into_lines_alike() -> None:
    found: list[tuple[bytes, int]] = []
    LineBuffer(b"\n", b"\r", lambda line, cut: found.append((line, cut))).write(b"a\nb\rc\n", Budget())
    assert found == [(b"a", 0), (b"c", 0)]


def test_a_budget_of_lines() -> None:
    budget = Budget()
    assert all(budget.take(1) for _ in range(2000))
    assert not budget.full
    assert not budget.take(5)
    assert budget.full
    assert (budget.dropped_lines, budget.dropped_bytes) == (1, 5)


def test_a_budget_of_bytes() -> None:
    budget = Budget()
    assert budget.take(1024 * 1024)
    assert not budget.take(1)
    assert not budget.take(0)  # once full, full: no holes in the output
    assert (budget.dropped_lines, budget.dropped_bytes) == (2, 1)


def test_beyond_the_budget_lines_are_counted() -> None:
    reader = Reader()
    reader.budget.full = True
    assert reader.read("a\nb\nc") == []
    assert (reader.budget.dropped_lines, reader.budget.dropped_bytes) == (2, 5)
