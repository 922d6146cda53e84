"""Has the risk model trained when that is due: by one process of the installation at a time, in a child process."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from flexiroaster.config import Settings
from flexiroaster.service.training_process import LIMIT_SECONDS, TrainingProcess
from flexiroaster.store import training_claims
from flexiroaster.store.database import Database

if TYPE_CHECKING:
    from flexiroaster.service.knowledge import Knowledge

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

PAUSE = 5.0
"""A training is followed by a pause that is so many times as long as it took: it never has a core for itself."""

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0
"""Seconds until a training that failed is tried again; doubled with each failure."""


class Trainer:
    """Asked to `look` again and again, on one thread; what it does takes no longer than a statement.

    The claim is a lease like those of executions. It is renewed while the child process runs, and expires if this
    process dies, with which the child ends.
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
        """Whether a training is under way here."""
        return self._process is not None

    def look(self) -> None:
        """Begin a training if one is due as of the last `catch_up`, or see how the one under way is. StoreError."""
        if self._process is not None:
            self._watch(self._process)
        elif self._due and monotonic() >= self._not_before:
            self._begin()

    def close(self) -> None:
        """End the training that is under way; another process may begin at once. Raises StoreError."""
        if self._process is not None:
            self._end(0.0)

    @property
    def _due(self) -> bool:
        every = self._settings.ai_train_every
        return every != 0 and self._knowledge.training_due(every)

    def _begin(self) -> None:
        self._not_before = monotonic() + self._lease / 3  # so often is asked again when another one trains
        model_id = self._knowledge.version[1]
        if not training_claims.claim(self._database, self._owner, model_id=model_id, lease_seconds=self._lease):
            return
        self._began_at = self._renewed_at = monotonic()
        try:
            self._process = TrainingProcess(self._settings, LIMIT_SECONDS)
        except OSError as error:
            self._failed(f"cannot start its process: {error}")

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
            logger.warning("a training was given up: its lease has run out")
            self._end(0.0)

    def _succeeded(self) -> None:
        took = monotonic() - self._began_at
        logger.info("The risk model was trained, in %.1f s.", took)
        self._failures, self._told = 0, ""
        self._end(PAUSE * took)

    def _failed(self, why: str) -> None:
        """Told once, and again when there is another reason."""
        pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._failures += 1
        level, self._told = logging.DEBUG if why == self._told else logging.WARNING, why
        logger.log(level, "a training of the risk model failed, and is tried again in %.0f s: %s", pause, why)
        self._end(pause)

    def _end(self, pause: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()
        self._not_before = monotonic() + pause
        training_claims.release(self._database, self._owner, pause_seconds=pause)
