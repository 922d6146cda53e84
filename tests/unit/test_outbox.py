"""The outbox: what it cannot send waits, what it fails to send is lost, and it goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from flexiroaster.coordination.outbox import Outbox
from flexiroaster.threads import Threads
from tests.waiting import eventually


def test_a_defect_in_sending_loses_what_was_to_be_sent_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[int] = []

    def send(batch: Sequence[int]) -> bool:
        if 0 in batch:
            raise ZeroDivisionError("in sending")
        sent.extend(batch)
        return True

    threads = Threads()
    outbox: Outbox[int] = Outbox(send, name="box", limit=10, threads=threads)
    for _ in range(2):
        outbox.put(0)
        eventually(lambda: threads.failures)
        assert [failure.error for failure in threads.failures] == ["ZeroDivisionError: in sending"]
        outbox.put(1)
        eventually(lambda: not threads.failures)
    outbox.put(2)
    outbox.close(60)
    assert sent == [1, 1, 2]
    told = [(r.levelno, r.getMessage()) for r in caplog.records]
    assert told == [(logging.ERROR, "box lost a batch that it could not send: ZeroDivisionError: in sending")], (
        "the same once"
    )


def test_what_waits_at_the_end_is_sent_although_the_last_sending_failed() -> None:
    sent: list[int] = []

    def send(batch: Sequence[int]) -> bool:
        if 0 in batch:
            outbox.put(1)
            raise ZeroDivisionError
        sent.extend(batch)
        return True

    outbox: Outbox[int] = Outbox(send, name="box", limit=10)
    outbox.put(0)
    eventually(lambda: sent)
    outbox.close(60)
    assert sent == [1]
