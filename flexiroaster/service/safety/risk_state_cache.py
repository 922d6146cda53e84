"""The in-memory caches of this process: risk states, the risk model, and the learned states that watches start from."""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import TypeVar, cast

from flexiroaster.config import Settings
from flexiroaster.errors import ConflictError
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.safety.anomaly.watch import LearnedState, Watch
from flexiroaster.safety.learning.model_selection import refresh_due
from flexiroaster.safety.policy import RiskLevel
from flexiroaster.safety.risk.factors import Past
from flexiroaster.safety.risk.model import RiskModel
from flexiroaster.safety.risk.state import PipelineState, Population, group_of
from flexiroaster.service.safety.config import policy_of
from flexiroaster.service.safety.history_projection import BATCH, check_progress, fold
from flexiroaster.store.database import Database
from flexiroaster.store.safety import risk
from flexiroaster.store.safety.risk import GROUP, INSTALLATION, ODDS, PIPELINE, STAGES, Progress

__all__ = ["RiskStateCache", "WatchFactory"]

logger = logging.getLogger(__name__)

MAX_PASTS = 1000
"""The maximum number of pipelines whose past is cached."""

BRIEFLY_SECONDS = 1.0

WATCH_SECONDS = 1.0
"""How long a loaded state is reused for the watches of further executions of the same pipeline."""

MAX_WATCHED = 200
"""The maximum number of pipelines whose state for watches is cached."""

MEASURED_MULTIPLIER = 3.0
"""The value of AI_ANOMALY_TIME_MULTIPLIER that gives the measured limits."""

T = TypeVar("T")
Version = tuple[int, int | None]


class RiskStateCache:
    """The risk states and the model of an installation. Thread-safe; a returned `Past` never changes."""

    def __init__(self, database: Database, error_threshold: int) -> None:
        self._database = database
        self._error_threshold = error_threshold
        self._lock = threading.RLock()
        self._progress: Progress | None = None
        self._pasts: OrderedDict[str, Past] = OrderedDict()
        self._model = RiskModel()
        self._checked_at = -math.inf
        self._caught_up_from = -math.inf
        self._brief: dict[tuple[object, ...], tuple[object, Version, float]] = {}  # value, version, time

    def catch_up(self, *, no_older_than: float = 0.0, batches: int | None = None) -> bool:
        """Fold runs that ended since the last call, in at most `batches` batches; return whether there are more.

        Does nothing if the last call was less than `no_older_than` seconds ago, or if another thread caught up while
        this one waited. Raises StoreError.
        """
        asked = monotonic()
        with self._lock:
            began = monotonic()
            if self._caught_up_from > asked or began - self._checked_at < no_older_than:
                return False
            now, more = check_progress(self._database, self._progress)
            self._invalidate(now)
            for _ in count() if batches is None else range(batches):
                if not more:
                    break
                folded = fold(self._database, self._error_threshold)
                more = folded.executions == BATCH
                self._invalidate(folded.progress)
                self._pasts.update(folded.pasts)
            self._checked_at = monotonic()
            if not more:
                self._caught_up_from = began
            return more

    @property
    def model(self) -> RiskModel:
        """The current risk model, as of the last `catch_up`."""
        return self._model

    @property
    def runs(self) -> int:
        """The number of known completed and failed runs, as of the last `catch_up`."""
        return self._progress.runs if self._progress is not None else 0

    def training_due(self, every: int | None) -> bool:
        """Return whether enough runs have ended since the last training: `every` runs, or the engine's rule if None.

        The result is as of the last `catch_up`.
        """
        if every is None:
            return self.runs > 0 and refresh_due(self.model, self.runs)
        return self.runs - self.model.runs_at_refresh >= max(every, 1)

    @property
    def version(self) -> Version:
        """The version of states and model; it changes whenever assessments may change."""
        known = self._progress
        return (0, None) if known is None else (known.version, known.model_id)

    def past(self, pipeline_id: str) -> Past:
        """Return the past of a pipeline, as of the last `catch_up`. Raises StoreError."""
        with self._lock:
            if pipeline_id not in self._pasts:
                self._pasts[pipeline_id] = self._load(pipeline_id)
                if len(self._pasts) > MAX_PASTS:
                    self._pasts.popitem(last=False)
            self._pasts.move_to_end(pipeline_id)
            return self._pasts[pipeline_id]

    def cached_briefly(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return the result of `make` for this key, cached for one second or until the version changes."""
        now, version = monotonic(), self.version
        value, made_from, made_at = self._brief.get(key, (None, version, -math.inf))
        if now - made_at < BRIEFLY_SECONDS and made_from == version:
            return cast("T", value)
        if len(self._brief) >= MAX_PASTS:
            self._brief.clear()
        made = make()
        self._brief[key] = (made, self.version, now)
        return made

    def _invalidate(self, now: Progress) -> None:
        before, self._progress = self._progress, now
        if before is None or before.version != now.version:
            self._pasts.clear()
        if now.model_id is not None and (before is None or before.model_id != now.model_id):
            self._model = self._stored_model(now.model_id)

    def _stored_model(self, number: int) -> RiskModel:
        try:
            return RiskModel.from_json(risk.get_model(self._database, number))
        except ConflictError as error:  # stored by a release with other features; the next training replaces it
            logger.warning("cannot use the stored risk model, so the prior assesses risk: %s", error)
            return RiskModel(reason=f"the prior answers: {error.message}")

    def _load(self, pipeline_id: str) -> Past:
        own, group, everything = (PIPELINE, pipeline_id), (GROUP, group_of(pipeline_id)), (INSTALLATION, "")
        with self._database.read() as connection:
            stored = risk.load_states(connection, (own, group, everything))
        return Past(
            PipelineState.from_json(stored[own]) if own in stored else PipelineState(),
            Population.from_json(stored[group]) if group in stored else Population(),
            Population.from_json(stored[everything]) if everything in stored else Population(),
        )


class WatchFactory:
    """A factory for the watches of executions. Thread-safe."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lock = threading.Lock()
        self._cached: OrderedDict[str, tuple[float, LearnedState]] = OrderedDict()

    def watch(self, pipeline: Pipeline, risk_level: str | None, model_version: str | None) -> Watch:
        """Create the watch for an execution of this pipeline with the assessed risk level. Raises StoreError."""
        settings = self._settings
        tolerance = math.log(settings.ai_anomaly_time_multiplier) / math.log(MEASURED_MULTIPLIER)
        return Watch(
            learned=self._learned(pipeline.id or ""),
            rules=policy_of(pipeline, settings),
            risk=RiskLevel.LOW if risk_level is None else RiskLevel(risk_level),
            model_version=model_version,
            tolerance=max(tolerance, 0.0),
            detects_anomalies=settings.ai_anomaly_detection_enabled,
        )

    def _learned(self, pipeline_id: str) -> LearnedState:
        with self._lock:
            at, known = self._cached.get(pipeline_id, (-math.inf, LearnedState()))
            if monotonic() - at < WATCH_SECONDS:
                return known
        own, everywhere = (STAGES, pipeline_id), (ODDS, "")
        with self._database.read() as connection:
            found = risk.load_states(connection, (own, everywhere))
        known = LearnedState(found.get(own), found.get(everywhere))
        with self._lock:
            self._cached[pipeline_id] = (monotonic(), known)
            self._cached.move_to_end(pipeline_id)
            if len(self._cached) > MAX_WATCHED:
                self._cached.popitem(last=False)
        return known
