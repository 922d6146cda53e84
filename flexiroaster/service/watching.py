"""Who watches an execution: made of what is remembered of its pipeline's stages and what the pipeline leaves to it."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from time import monotonic

from flexiroaster.config import Settings
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.safety.gate import RiskLevel
from flexiroaster.safety.watch import Remembered, Watch
from flexiroaster.service.policy_config import policy_of
from flexiroaster.store import risk_states
from flexiroaster.store.database import Database
from flexiroaster.store.risk_states import ODDS, STAGES

__all__ = ["Watchers"]

FRESH_SECONDS = 1.0
"""Executions that start within this time are watched with what was remembered at its beginning."""

KEPT = 200
"""Pipelines that are kept in memory for so long."""

MEASURED_MULTIPLIER = 3.0
"""The value of AI_ANOMALY_TIME_MULTIPLIER at which the limits are those that were measured."""


class Watchers:
    """Gives each execution its watch. Thread-safe."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Remembered]] = OrderedDict()

    def watch(self, pipeline: Pipeline, risk_level: str | None, model_version: str | None) -> Watch:
        """A watch for an execution of this pipeline, whose risk was said to be that. Raises StoreError."""
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
