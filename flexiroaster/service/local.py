"""The embedded Python API: run a pipeline from a notebook or a script and read its result.

import flexiroaster

result = flexiroaster.run("sales.yaml", {"day": "2026-01-31"})
result.raise_for_status()
result.table("by_region")
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import (
    DefinitionError,
    ErrorClass,
    NotAllowedError,
    NotFoundError,
    Problem,
    SettingsError,
    StageError,
)
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.service import definition
from flexiroaster.service.stage_access import access_of

if TYPE_CHECKING:
    import polars as pl

    from flexiroaster.service.executions.executions import ExecutionRow, StageRow
    from flexiroaster.service.installation import Installation

__all__ = ["RunResult", "run", "validate"]

Definition = Pipeline | Mapping[str, Any] | str | os.PathLike[str]
"""A pipeline: a `Pipeline`, a mapping, or the path of a YAML or JSON file."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """An execution that has ended or is paused, with its stages in topological order."""

    execution: ExecutionRow
    stages: list[StageRow]
    artifacts_url: str = field(repr=False)

    @property
    def status(self) -> ExecutionStatus:
        """The status of the execution."""
        return self.execution.status

    @property
    def ok(self) -> bool:
        """Whether the execution completed."""
        return self.status is ExecutionStatus.COMPLETED

    def raise_for_status(self) -> None:
        """Raise StageError, with a message that names the stage, unless the execution completed."""
        if self.ok:
            return
        error = self.execution.error or {"message": f"the execution is {self.status}", "class": ErrorClass.CANCELLED}
        raise StageError(error["message"], ErrorClass(error["class"]), execution_id=self.execution.id)

    def stage(self, stage_id: str) -> StageRow:
        """Return the result of one stage. Raises NotFoundError."""
        for stage in self.stages:
            if stage.stage_id == stage_id:
                return stage
        known = ", ".join(stage.stage_id for stage in self.stages)
        raise NotFoundError(f"the pipeline has no stage {stage_id!r}; its stages are {known}", stage_id=stage_id)

    def table(self, stage_id: str) -> pl.DataFrame:
        """Read the table of a stage. Raises NotFoundError if it has none, StageError if the file is gone."""
        from flexiroaster.artifacts.store import Artifacts, summary_of

        stage = self.stage(stage_id)
        summary = summary_of(stage.output or {})
        if not summary:
            raise NotFoundError(f"stage {stage_id!r} has no table, its status is {stage.status}", stage_id=stage_id)
        return Artifacts(self.artifacts_url).scan(stage_id, summary).collect()


def run(
    pipeline: Definition,
    variables: Mapping[str, Any] | None = None,
    **settings: Any,  # noqa: ANN401 - the types of the fields of Settings, which checks them
) -> RunResult:
    """Run a pipeline in this process and wait until it ends; Ctrl-C stops it.

    `settings` are fields of `Settings` (`python_modules=("mine",)`, `database_url=...`) that override the environment;
    with them the run uses its own installation. Without them all runs of a process share one installation, which opens
    with the first run and closes at exit. A definition without an id gets one derived from its name.

    Raises DefinitionError, SettingsError, StoreError. A failed execution does not raise, see `RunResult`.
    """
    from flexiroaster.service.installation import open_installation

    raw = definition.with_stable_id(_read(pipeline))
    if not settings:
        return _run(_shared.installation(), raw, variables)
    with open_installation(_settings(settings)) as installation:
        return _run(installation, raw, variables)


def validate(
    pipeline: Definition,
    variables: Mapping[str, Any] | None = None,
    **settings: Any,  # noqa: ANN401 - the types of the fields of Settings, which checks them
) -> list[Problem]:
    """List every problem of a definition with its path (`stages[2].config.by`); empty if the definition is valid.

    Raises SettingsError.
    """
    access = access_of(_settings(settings))
    try:
        definition.check(_read(pipeline), access, variables)
    except DefinitionError as error:
        return list(error.problems)
    return []


class _Shared:
    """The installation that the runs of a process share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._installation: Installation | None = None

    def installation(self) -> Installation:
        """Return the embedded installation, opened on first use and reopened after its driver has failed."""
        from flexiroaster.service.installation import Installation

        with self._lock:
            if self._installation is not None and not self._installation.healthy:
                self._installation.close()
                self._installation = None
            if self._installation is None:
                self._installation = Installation(load_settings())
            return self._installation

    def close(self) -> None:
        """Close the installation, if it is open."""
        with self._lock:
            installation, self._installation = self._installation, None
        if installation is not None:
            installation.close()

    def forget(self) -> None:
        """Drop the installation in a forked child: its threads and connections belong to the parent."""
        self.__init__()  # type: ignore[misc] # a lock that the parent held would never be released here


_shared = _Shared()
atexit.register(_shared.close)
os.register_at_fork(after_in_child=_shared.forget)


def _run(installation: Installation, raw: object, variables: Mapping[str, Any] | None) -> RunResult:
    from flexiroaster.service import pipelines
    from flexiroaster.service.executions import commands, executions

    revision = pipelines.save(installation, raw)
    execution_id = executions.start(installation, revision, variables, triggered_by="python")
    try:
        row = executions.wait(installation, execution_id)
    except KeyboardInterrupt:
        with suppress(NotAllowedError):  # it has just ended
            commands.stop(installation, execution_id, "interrupted")
        executions.wait(installation, execution_id)
        raise
    return RunResult(row, executions.stages(installation, execution_id), installation.settings.artifacts_url)


def _read(pipeline: Definition) -> object:
    return definition.read_definition(os.fspath(pipeline)) if isinstance(pipeline, str | os.PathLike) else pipeline


def _settings(overrides: Mapping[str, Any]) -> Settings:
    for name in overrides:
        if name not in Settings.model_fields:
            raise SettingsError(f"{name!r} is not a setting{suggestion_hint(name, Settings.model_fields)}")
    return load_settings(**overrides)
