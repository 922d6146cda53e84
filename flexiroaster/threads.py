"""Supervised threads: they survive exceptions, which are logged and reported by the health checks.

A supervised thread calls its `turn` in a loop. An exception ends neither the thread nor the process: the thread pauses
and starts the next turn. Until a turn succeeds, the thread is reported as failing (`Threads.failures`).
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
"""Minimum seconds between two log lines for the same failure of a thread."""

PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A thread that is failing now, with its error as one line. Executions depend on the `essential` ones."""

    name: str
    error: str
    essential: bool


class Threads:
    """Registry of the failing supervised threads of one installation. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: dict[str, Failure] = {}

    @property
    def failures(self) -> list[Failure]:
        """The threads that are failing now, sorted by name."""
        with self._lock:
            return sorted(self._failing.values(), key=lambda failure: failure.name)

    def failed(self, failure: Failure) -> None:
        """Record that a thread is failing."""
        with self._lock:
            self._failing[failure.name] = failure

    def recovered(self, name: str) -> None:
        """Record that a thread has recovered or ended."""
        with self._lock:
            self._failing.pop(name, None)


class SupervisedThread:
    """Calls `turn` in a loop until it returns False, or raises after `closed` was set.

    After an exception it waits `pause` seconds, or until `closed` is set. Errors of the `expected` classes (such as an
    unavailable database) are logged as warnings and do not count as failures. Log lines start with `purpose`.
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
        """Start the thread and return this object."""
        self._thread.start()
        return self

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the thread to end; a no-op before the start and on the thread itself."""
        if self.alive and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread has started and not ended."""
        return self._thread.is_alive()

    def report_success(self) -> None:
        """Report that the thread works. A turn that lasts long calls this itself."""
        if self._failing:
            self._failing = False
            self._threads.recovered(self.name)
            if self._recovery_is_news:
                self._recovery_is_news = False
                logger.info("the thread %s works again", self.name)

    def _run(self) -> None:
        try:
            while self._run_turn():
                pass
        finally:
            self._threads.recovered(self.name)

    def _run_turn(self) -> bool:
        closing = self._closed.is_set()
        try:
            more = self._turn()
        except BaseException as error:  # noqa: BLE001 - no caller sees it, and this thread must survive
            if closing:
                return False
            if not self._closed.is_set():
                self._failed(error)
            self._closed.wait(self._pause)
            return True
        self.report_success()
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
    """The class and message of an error, as one line."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:  # noqa: BLE001 - a broken __str__ must not end the thread
        return type(error).__name__
