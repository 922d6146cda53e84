"""Background learning: updates the risk states soon after runs end, and trains the model when due. Insights about
anomalies do not wait for the end of the run.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from flexiroaster.config import Settings
from flexiroaster.errors import StoreError
from flexiroaster.model.event import ENDS, Event, EventType, utc_now
from flexiroaster.service.safety.insight_messages import anomaly_of_event
from flexiroaster.service.trainer import Trainer
from flexiroaster.store.batches import executions_by_id
from flexiroaster.store.database import Database
from flexiroaster.store.rows import LARGE
from flexiroaster.store.safety import insights
from flexiroaster.threads import SupervisedThread, Threads

if TYPE_CHECKING:
    from flexiroaster.service.safety.risk_state_cache import Knowledge

__all__ = ["Learner"]

logger = logging.getLogger(__name__)

FOLD_SECONDS = 0.2
"""The minimum time between two folds; executions that end in between are folded together."""

LOOK_SECONDS = 30.0
"""The interval between checks for executions that other processes left unprocessed."""

TRAINING_SECONDS = 0.25
"""The interval between checks of a training in progress."""

RETRY_SECONDS = 5.0


class Learner:
    """The background learning thread. It is optional: readers catch up themselves, but rarely find anything to do."""

    def __init__(
        self,
        database: Database,
        knowledge: Callable[[], Knowledge],
        settings: Settings,
        owner: str,
        threads: Threads | None = None,
    ) -> None:
        self._database = database
        self._knowledge = knowledge
        self._settings = settings
        self._owner = owner
        self._wanted = True
        self._folded_at = float("-inf")
        self._ended = threading.Event()
        self._told: deque[Event] = deque()  # anomalies that still need an insight
        self._closing = threading.Event()
        self._trainer: Trainer | None = None
        self._thread = SupervisedThread(
            self._turn,
            name="flexiroaster-learner",
            closed=self._closing,
            threads=threads,
            purpose="background learning from finished executions is interrupted",
            expected=(StoreError,),
            pause=RETRY_SECONDS,
        )
        self._thread.start()

    def committed(self, events: Sequence[Event]) -> None:
        """React to committed events of the driver: ended executions and anomalies. Never blocks."""
        self._told.extend(event for event in events if event.type is EventType.STAGE_ANOMALY)
        if self._told or any(event.type in ENDS for event in events):
            self._ended.set()

    def close(self, timeout: float = 5.0) -> None:
        """Stop the thread and a training in progress. Idempotent."""
        self._closing.set()
        self._ended.set()
        self._thread.join(timeout)

    def _turn(self) -> bool:
        """Learn from new runs, then wait for more; return whether to continue."""
        if self._closing.is_set():
            self._end()
            return False
        try:
            knowledge = self._knowledge()  # loaded here because its imports are not needed by workers
        except StoreError:  # closed before it began
            return False
        if self._trainer is None:
            self._trainer = Trainer(self._database, knowledge, self._settings, self._owner)
        self._tell()
        self._fold(knowledge)
        self._trainer.look()
        self._thread.works()
        self._wait(TRAINING_SECONDS if self._trainer.busy else LOOK_SECONDS)
        return True

    def _end(self) -> None:
        try:
            if self._trainer is not None:
                self._trainer.close()
        except StoreError as error:
            logger.warning("cannot release the training lease; it will expire on its own: %s", error)

    def _tell(self) -> None:
        """Record insights about anomalies in running executions. The fold after their end catches any missed here."""
        told = [self._told.popleft() for _ in range(len(self._told))]
        if not told:
            return
        rows = executions_by_id(self._database, {event.execution_id for event in told}, LARGE)
        with self._database.write() as connection:
            for event in told:
                data = {**(event.data or {}), "stage_id": event.stage_id}
                pipeline_id = rows[event.execution_id].pipeline_id
                if (finding := anomaly_of_event(pipeline_id, event.execution_id, data)) is not None:
                    insights.note(connection, finding, utc_now())

    def _fold(self, knowledge: Knowledge) -> None:
        """Fold one batch if there may be new runs. Only one, because starts in this process wait meanwhile."""
        if self._ended.is_set():
            self._ended.clear()
            self._wanted = True
        if self._wanted or monotonic() - self._folded_at >= LOOK_SECONDS:
            self._wanted = True  # also if this fails
            self._folded_at = monotonic()
            self._wanted = knowledge.catch_up(batches=1)

    def _wait(self, seconds: float) -> None:
        if not self._wanted:
            self._ended.wait(seconds)
        if self._wanted or self._ended.is_set():
            self._closing.wait(max(0.0, self._folded_at + FOLD_SECONDS - monotonic()))
