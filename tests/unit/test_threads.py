"""Supervised threads: whatever a turn raises is logged once and shown, and the thread goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from flexiroaster import threads
from flexiroaster.errors import StoreError
from flexiroaster.threads import Failure, SupervisedThread, Threads
from tests.waiting import eventually


class Turns:
    """Turns that raise what is in `errors`, one each, and else only count."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.closed = threading.Event()
        self.number = 0
        self.well = threading.Event()
        self.failures_at_the_end: list[Failure] = []

    def __call__(self) -> bool:
        self.number += 1
        if self.errors:
            raise self.errors.pop(0)
        self.well.set()
        self.closed.wait(60)
        return not self.closed.is_set()


Start = Callable[..., tuple[SupervisedThread, Threads]]


@pytest.fixture
def start() -> Iterator[Start]:
    begun: list[tuple[SupervisedThread, threading.Event]] = []

    def begin(turns: Turns, pause: float = 0.0, **options: object) -> tuple[SupervisedThread, Threads]:
        known = Threads()
        thread = SupervisedThread(turns, name="t", closed=turns.closed, threads=known, pause=pause, **options)  # type: ignore[arg-type]
        begun.append((thread.start(), turns.closed))
        return thread, known

    yield begin
    for thread, closed in begun:
        closed.set()
        thread.join(60)
        assert not thread.alive


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_a_thread_survives_whatever_its_turn_raises(
    start: Start, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    turns = Turns(error)
    thread, _ = start(turns)
    assert turns.well.wait(60)
    assert thread.alive
    (record,) = caplog.records
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)


def test_a_failing_thread_is_shown_until_a_turn_succeeds(start: Start) -> None:
    turns = Turns(*[ValueError("no\nway")] * 3)
    thread, known = start(turns, pause=60.0, essential=True)
    eventually(lambda: known.failures)
    assert known.failures == [Failure("t", "ValueError: no way", essential=True)]
    thread.report_success()  # what a turn that lasts says
    assert known.failures == []


def test_the_same_failure_is_logged_once_and_another_one_again(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns(*[ValueError("same")] * 5, *[ValueError("other")] * 5)
    start(turns, purpose="cannot do it")
    assert turns.well.wait(60)
    assert [r.getMessage() for r in caplog.records] == [
        "cannot do it: ValueError: same",
        "cannot do it: ValueError: other",
    ]


def test_a_failure_that_stays_is_logged_now_and_then(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "REPEAT_SECONDS", 0.0)
    turns = Turns(*[ValueError("same")] * 5)
    start(turns)
    assert turns.well.wait(60)
    assert len(caplog.records) == 5


def test_an_expected_error_is_a_warning_and_no_failure_of_the_thread(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    turns = Turns(StoreError("it is away"))
    _, known = start(turns, pause=60.0, expected=(StoreError,), purpose="cannot claim")
    eventually(lambda: caplog.records)
    assert [(r.levelno, r.getMessage(), r.exc_info) for r in caplog.records] == [
        (logging.WARNING, "cannot claim: it is away", None)
    ]
    assert known.failures == []


def test_it_ends_when_it_was_closed_however_its_last_turn_ends(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns(ValueError("one"), ValueError("at the end"), ValueError("and again"))
    turns.closed.set()
    thread, known = start(turns)
    thread.join(60)
    assert (thread.alive, turns.number, known.failures, caplog.records) == (False, 1, [], [])
