"""Creates the watch of each execution from the learned state of its pipeline's stages and the pipeline's policy."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from time import monotonic

from flexiroaster.config import Settings
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.safety.anomaly.watch import Remembered, Watch
from flexiroaster.safety.gate import RiskLevel
from flexiroaster.service.policy_config import policy_of
from flexiroaster.store import risk_states
from flexiroaster.store.database import Database
from flexiroaster.store.risk_states import ODDS, STAGES

__all__ = ["Watchers"]

FRESH_SECONDS = 1.0
"""How long a loaded state is reused for further executions of the same pipeline."""

KEPT = 200
"""The maximum number of pipelines whose state is cached."""

MEASURED_MULTIPLIER = 3.0
"""The value of AI_ANOMALY_TIME_MULTIPLIER that gives the measured limits."""


class Watchers:
    """A factory for the watches of executions. Thread-safe."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Remembered]] = OrderedDict()

    def watch(self, pipeline: Pipeline, risk_level: str | None, model_version: str | None) -> Watch:
        """Create the watch for an execution of this pipeline with the assessed risk level. Raises StoreError."""
        settings = self._settings
        watches = settings.ai_anomaly_detection_enabled
        patience = math.log(settings.ai_anomaly_time_multiplier) / math.log(MEASURED_MULTIPLIER)
        return Watch(
            remembered=self._remembered(pipeline.id or ""),
            rules=policy_of(pipeline, settings),
            risk=RiskLevel.LOW if risk_level is None else RiskLevel(risk_level),
            model_version=model_version,
            patience=max(patience, 0.0),
            watches=watches,
        )

    def _remembered(self, pipeline_id: str) -> Remembered:
        with self._lock:
            at, known = self._kept.get(pipeline_id, (-math.inf, Remembered()))
            if monotonic() - at < FRESH_SECONDS:
                return known
        own, everywhere = (STAGES, pipeline_id), (ODDS, "")
        with self._database.read() as connection:
            found = risk_states.load(connection, (own, everywhere))
        known = Remembered(found.get(own), found.get(everywhere))
        with self._lock:
            self._kept[pipeline_id] = (monotonic(), known)
            self._kept.move_to_end(pipeline_id)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return known
