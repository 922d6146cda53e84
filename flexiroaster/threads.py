"""Threads that must not die: what they raise is logged and shown by the health checks, and they go on.

A supervised thread calls its `turn` again and again. A turn that raises ends neither the thread nor the process: the
thread pauses and begins the next turn. Until a turn succeeds the thread counts as failing (`Threads.failures`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

__all__ = ["Failure", "SupervisedThread", "Threads", "in_one_line"]

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 60.0
"""How often the same failure of a thread is logged."""

PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A thread that is failing now, with the error as one line. Executions need those that are `essential`."""

    name: str
    error: str
    essential: bool


class Threads:
    """What is wrong with the supervised threads of one installation. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: dict[str, Failure] = {}

    @property
    def failures(self) -> list[Failure]:
        """The threads that are failing now, by name."""
        with self._lock:
            return sorted(self._failing.values(), key=lambda failure: failure.name)

    def failed(self, failure: Failure) -> None:
        """A thread has failed."""
        with self._lock:
            self._failing[failure.name] = failure

    def works(self, name: str) -> None:
        """A thread works, or is not needed any more."""
        with self._lock:
            self._failing.pop(name, None)


class SupervisedThread:
    """Calls `turn` until it returns False, or raises although `closed` was set before it began.

    After a turn that raised it waits `pause` seconds, or until `closed` is set. Errors of the classes `expected` (the
    database is away) are logged as warnings and are no failures of the thread. `purpose` begins the log lines.
    """

    def __init__(
        self,
        turn: Callable[[], bool],
        *,
        name: str,
        closed: threading.Event,
        threads: Threads | None = None,
        purpose: str = "",
        expected: tuple[type[Exception], ...] = (),
        essential: bool = False,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self.name = name
        self._turn = turn
        self._closed = closed
        self._threads = threads or Threads()
        self._purpose = purpose or f"the thread {name} failed"
        self._expected = expected
        self._essential = essential
        self._pause = pause
        self._failing = False
        self._logged: tuple[str, float] = "", float("-inf")
        self._recovery_is_news = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> SupervisedThread:
        """Begin; the thread itself."""
        self._thread.start()
        return self

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for its end; not before it was started, nor on the thread itself."""
        if self.alive and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread.is_alive()

    def works(self) -> None:
        """It does what it should. The thread itself calls this within a turn that lasts long."""
        if self._failing:
            self._failing = False
            self._threads.works(self.name)
            if self._recovery_is_news:
                self._recovery_is_news = False
                logger.info("the thread %s works again", self.name)

    def _run(self) -> None:
        try:
            while self._goes_on():
                pass
        finally:
            self._threads.works(self.name)

    def _goes_on(self) -> bool:
        closing = self._closed.is_set()
        try:
            more = self._turn()
        except BaseException as error:  # noqa: BLE001 - no caller would see it, and this thread must not end
            if closing:
                return False
            if not self._closed.is_set():
                self._failed(error)
            self._closed.wait(self._pause)
            return True
        self.works()
        return more

    def _failed(self, error: BaseException) -> None:
        self._failing = True
        reason, now = in_one_line(error), monotonic()
        unexpected = not isinstance(error, self._expected)
        if unexpected:
            self._threads.failed(Failure(self.name, reason, self._essential))
        before, at = self._logged
        if reason == before and now - at < REPEAT_SECONDS:
            return
        self._logged, self._recovery_is_news = (reason, now), True
        if unexpected:
            logger.error("%s: %s", self._purpose, reason, exc_info=error)
        else:
            logger.warning("%s: %s", self._purpose, error)


def in_one_line(error: BaseException) -> str:
    """An error's class and message."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:  # noqa: BLE001 - a broken __str__ must not end the thread after all
        return type(error).__name__
