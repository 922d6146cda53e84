"""The Python interface: `flexiroaster.run` and `validate`, and the service below them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flexiroaster
from flexiroaster.config import Settings
from flexiroaster.errors import DefinitionError, FlexiRoasterError
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionRow, StageRow
from flexiroaster.service.installation import Installation
from tests.acceptance.doors.door import Definition, Door, Execution, Line, Problem, RefusedError, Stage

__all__ = ["PythonDoor"]


class PythonDoor(Door):
    """A program with an open installation, which drives the executions it starts."""

    name = "Python"

    def __init__(self, installation: Installation) -> None:
        self._open = installation
        self._settings = given(installation.settings)

    def validate(self, definition: Definition) -> list[Problem]:
        found = flexiroaster.validate(definition, **self._settings)
        return [Problem(each.path, each.message, each.code) for each in found]

    def run(self, definition: Definition, variables: Mapping[str, Any] | None = None) -> str:
        with _refusals():
            return flexiroaster.run(definition, variables, **self._settings).execution.id

    def create(self, definition: Definition) -> str:
        with _refusals():
            return pipelines.create(self._open, definition).id

    def definition(self, pipeline_id: str) -> dict[str, Any]:
        with _refusals():
            return pipelines.get(self._open, pipeline_id).pipeline.document()

    def pipelines(self) -> dict[str, bool]:
        found, _ = pipelines.listing(self._open)
        return {each.id: each.pipeline.is_active for each in found}

    def activate(self, pipeline_id: str) -> None:
        with _refusals():
            pipelines.activate(self._open, pipeline_id)

    def deactivate(self, pipeline_id: str) -> None:
        with _refusals():
            pipelines.deactivate(self._open, pipeline_id)

    def delete(self, pipeline_id: str) -> None:
        with _refusals():
            pipelines.delete(self._open, pipeline_id)

    def start(self, pipeline_id: str, variables: Mapping[str, Any] | None = None) -> str:
        with _refusals():
            return executions.start(self._open, pipeline_id, variables)

    def start_once(self, pipeline_id: str, key: str, variables: Mapping[str, Any] | None = None) -> str:
        with _refusals():
            return executions.start(self._open, pipeline_id, variables, idempotency_key=key)

    def show(self, execution_id: str) -> Execution | None:
        with _refusals():
            row = executions.get(self._open, execution_id)
            return _execution(row, executions.stages(self._open, execution_id))

    def executions(self, pipeline_id: str) -> dict[str, str]:
        found, _ = executions.offset_page(self._open, ExecutionFilter(pipeline_ids=(pipeline_id,)))
        return {each.id: each.status.value for each in found}

    def logs(self, execution_id: str) -> list[Line]:
        with _refusals():
            found = executions.logs(self._open, execution_id)
        lines = []
        for event in found:
            error = (event.data or {}).get("error") or {}
            lines.append(Line(event.seq, event.level.value, event.stage_id, event.message, error.get("class")))
        return lines

    def stop(self, execution_id: str) -> None:
        with _refusals():
            commands.stop(self._open, execution_id)

    def pause(self, execution_id: str) -> None:
        with _refusals():
            commands.pause(self._open, execution_id)

    def resume(self, execution_id: str) -> None:
        with _refusals():
            commands.resume(self._open, execution_id)

    def retry(self, execution_id: str) -> None:
        with _refusals():
            commands.retry(self._open, execution_id)

    def rerun(self, execution_id: str, from_stage: str) -> str:
        with _refusals():
            return executions.rerun(self._open, execution_id, from_stage)

    def rollback(self, execution_id: str) -> None:
        with _refusals():
            commands.rollback(self._open, execution_id)


def given(settings: Settings) -> dict[str, Any]:
    """The explicitly set settings, as the keyword arguments of `flexiroaster.run`."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except DefinitionError as error:
        found = tuple(Problem(each.path, each.message, each.code) for each in error.problems)
        raise RefusedError(error.code, problems=found) from error
    except FlexiRoasterError as error:
        raise RefusedError(error.code, error.message) from error


def _execution(row: ExecutionRow, stages: list[StageRow]) -> Execution:
    return Execution(
        id=row.id,
        pipeline_id=row.pipeline_id,
        pipeline_name=row.pipeline_name,
        status=row.status.value,
        completed=row.completed_stages,
        variables=row.variables,
        risk_score=row.risk_score,
        error=row.error and row.error["message"],
        stages=tuple(_stage(stage) for stage in stages),
    )


def _stage(stage: StageRow) -> Stage:
    rows = (stage.output or {}).get("rows")
    return Stage(stage.stage_id, stage.name, stage.status.value, rows, stage.error and stage.error["message"])
