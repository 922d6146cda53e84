"""The driver's timers."""

from __future__ import annotations

from time import monotonic

from flexiroaster.engine.event_loop import Timers


def test_due_in_order_and_not_when_cancelled() -> None:
    timers, done = Timers(), []
    for name, seconds in (("c", 3000), ("a", 1000), ("b", 2000), ("d", 9000)):
        timer = timers.after(seconds, lambda name=name: done.append(name))
        if name == "b":
            timer.cancel()
    now = monotonic()
    for action in timers.due(now + 5000):
        action()
    assert done == ["a", "c"]
    assert 8000 < timers.wait(now) <= 9000


def test_no_timer_means_no_end_of_waiting() -> None:
    timers = Timers()
    timers.after(1, lambda: None).cancel()
    assert timers.wait(monotonic()) is None


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    for _ in range(10_000):
        timers.after(3600, lambda: None).cancel()
    assert len(timers) < 3000
