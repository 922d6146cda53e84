"""Trains the risk model when due, in a child process; only one process of the installation trains at a time."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from flexiroaster.config import Settings
from flexiroaster.service.training_process import LIMIT_SECONDS, TrainingProcess
from flexiroaster.store import training_claims
from flexiroaster.store.database import Database

if TYPE_CHECKING:
    from flexiroaster.service.safety.risk_state_cache import Knowledge

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

PAUSE = 5.0
"""The pause after a training, as a multiple of its duration, so that training never occupies a core permanently."""

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0
"""The seconds before a failed training is retried; doubled with each failure, up to the longest."""


class Trainer:
    """The training supervisor. One thread calls `look` repeatedly; each call takes no longer than one statement.

    The claim is a lease like those of executions. It is renewed while the child process runs. If this process dies, the
    lease expires and the child ends too.
    """

    def __init__(self, database: Database, knowledge: Knowledge, settings: Settings, owner: str) -> None:
        self._database = database
        self._knowledge = knowledge
        self._settings = settings
        self._owner = owner
        self._lease = settings.execution_lock_ttl
        self._process: TrainingProcess | None = None
        self._began_at = self._renewed_at = 0.0
        self._not_before = 0.0
        self._failures = 0
        self._told = ""

    @property
    def busy(self) -> bool:
        """Whether this process has a training in progress."""
        return self._process is not None

    def look(self) -> None:
        """Start a training if due as of the last `catch_up`, or check the one in progress. Raises StoreError."""
        if self._process is not None:
            self._watch(self._process)
        elif self._due and monotonic() >= self._not_before:
            self._begin()

    def close(self) -> None:
        """Stop a training in progress; another process can start one at once. Raises StoreError."""
        if self._process is not None:
            self._end(0.0)

    @property
    def _due(self) -> bool:
        every = self._settings.ai_train_every
        return every != 0 and self._knowledge.training_due(every)

    def _begin(self) -> None:
        self._not_before = monotonic() + self._lease / 3  # when to ask again if another process trains
        model_id = self._knowledge.version[1]
        if not training_claims.claim(self._database, self._owner, model_id=model_id, lease_seconds=self._lease):
            return
        self._began_at = self._renewed_at = monotonic()
        try:
            self._process = TrainingProcess(self._settings, LIMIT_SECONDS)
        except OSError as error:
            self._failed(f"cannot start the training process: {error}")

    def _watch(self, process: TrainingProcess) -> None:
        if process.ended:
            failure = process.result()
            if failure is None:
                self._succeeded()
            else:
                self._failed(failure)
        elif monotonic() - self._renewed_at > self._lease / 3:
            self._renew()

    def _renew(self) -> None:
        at = monotonic()
        if training_claims.renew(self._database, self._owner, lease_seconds=self._lease):
            self._renewed_at = at
        else:
            logger.warning("stopped a training of the risk model: its lease has expired")
            self._end(0.0)

    def _succeeded(self) -> None:
        took = monotonic() - self._began_at
        logger.info("The risk model was trained in %.1f s.", took)
        self._failures, self._told = 0, ""
        self._end(PAUSE * took)

    def _failed(self, why: str) -> None:
        """Log the failure as a warning, and repetitions of the same reason at debug level."""
        pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._failures += 1
        level, self._told = logging.DEBUG if why == self._told else logging.WARNING, why
        logger.log(level, "a training of the risk model failed; the next attempt is in %.0f s: %s", pause, why)
        self._end(pause)

    def _end(self, pause: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()
        self._not_before = monotonic() + pause
        training_claims.release(self._database, self._owner, pause_seconds=pause)
