"""What this process knows of the past: states and model, kept in memory and brought up to date when somebody asks."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import TypeVar, cast

from flexiroaster.errors import ConflictError
from flexiroaster.safety.choice import refresh_due
from flexiroaster.safety.features import Past
from flexiroaster.safety.model import RiskModel
from flexiroaster.safety.runs import group_of
from flexiroaster.safety.state import PipelineState, Population
from flexiroaster.service.folding import BATCH, fold, look
from flexiroaster.store import risk_models, risk_states
from flexiroaster.store.database import Database
from flexiroaster.store.risk_states import GROUP, INSTALLATION, PIPELINE, Progress

__all__ = ["Knowledge"]

logger = logging.getLogger(__name__)

KEPT = 1000
"""Pipelines whose past is kept in memory."""


MOMENT_SECONDS = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Moment:
    value: object
    version: tuple[int, int | None]
    made_at: float


class Knowledge:
    """The states and the model of an installation. Thread-safe; a `Past` that was given out never changes."""

    def __init__(self, database: Database, error_threshold: int) -> None:
        self._database = database
        self._error_threshold = error_threshold
        self._lock = threading.RLock()
        self._progress: Progress | None = None
        self._pasts: OrderedDict[str, Past] = OrderedDict()
        self._model = RiskModel()
        self._looked_at = float("-inf")
        self._caught_up_from = float("-inf")
        self._moments: dict[tuple[object, ...], _Moment] = {}

    def catch_up(self, *, no_older_than: float = 0.0, batches: int | None = None) -> bool:
        """Fold what has ended since, `batches` of them at most, unless that was done `no_older_than` seconds ago.

        Who had to wait for others that caught up meanwhile does not do it again. Whether there is more. Raises
        StoreError.
        """
        asked = monotonic()
        with self._lock:
            began = monotonic()
            if self._caught_up_from > asked or began - self._looked_at < no_older_than:
                return False
            now, more = look(self._database, self._progress)
            self._forget_what_changed(now)
            for _ in count() if batches is None else range(batches):
                if not more:
                    break
                folded = fold(self._database, self._error_threshold)
                more = folded.executions == BATCH
                self._forget_what_changed(folded.progress)
                self._pasts.update(folded.pasts)
            self._looked_at = monotonic()
            if not more:
                self._caught_up_from = began
            return more

    @property
    def model(self) -> RiskModel:
        """The model that answers; as of the last `catch_up`."""
        return self._model

    @property
    def runs(self) -> int:
        """How many completed and failed runs are known; as of the last `catch_up`."""
        return self._progress.runs if self._progress is not None else 0

    def training_due(self, every: int | None) -> bool:
        """Whether enough runs have ended since the last training: `every` so many, by the engine's own rule if None.

        As of the last `catch_up`.
        """
        if every is None:
            return self.runs > 0 and refresh_due(self.model, self.runs)
        return self.runs - self.model.runs_at_refresh >= max(every, 1)

    @property
    def version(self) -> tuple[int, int | None]:
        """Changes when the answers may change."""
        known = self._progress
        return (0, None) if known is None else (known.version, known.model_id)

    def past(self, pipeline_id: str) -> Past:
        """What is known of a pipeline; as of the last `catch_up`. Raises StoreError."""
        with self._lock:
            if pipeline_id not in self._pasts:
                self._pasts[pipeline_id] = self._load(pipeline_id)
                if len(self._pasts) > KEPT:
                    self._pasts.popitem(last=False)
            self._pasts.move_to_end(pipeline_id)
            return self._pasts[pipeline_id]

    def for_a_moment(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What `make` gave for this key within the last second, or anew; what is known has not changed since."""
        known, now = self._moments.get(key), monotonic()
        if known is not None and now - known.made_at < MOMENT_SECONDS and known.version == self.version:
            return cast("T", known.value)
        if len(self._moments) >= KEPT:
            self._moments.clear()
        made = make()
        self._moments[key] = _Moment(made, self.version, now)
        return made

    def _forget_what_changed(self, now: Progress) -> None:
        before, self._progress = self._progress, now
        if before is None or before.version != now.version:
            self._pasts.clear()
        if now.model_id is not None and (before is None or before.model_id != now.model_id):
            self._model = self._stored_model(now.model_id)

    def _stored_model(self, number: int) -> RiskModel:
        try:
            return RiskModel.from_json(risk_models.get(self._database, number))
        except ConflictError as error:  # a release with other features; a training replaces it
            logger.warning("risk is assessed by the prior: %s", error)
            return RiskModel(reason=f"the prior alone: {error.message}")

    def _load(self, pipeline_id: str) -> Past:
        pipeline, group, everything = (PIPELINE, pipeline_id), (GROUP, group_of(pipeline_id)), (INSTALLATION, "")
        with self._database.read() as connection:
            stored = risk_states.load(connection, (pipeline, group, everything))
        return Past(
            PipelineState.from_json(stored[pipeline]) if pipeline in stored else PipelineState(),
            Population.from_json(stored[group]) if group in stored else Population(),
            Population.from_json(stored[everything]) if everything in stored else Population(),
        )
