"""Short questions to a validation of one table."""

from __future__ import annotations

import pytest

from flexiroaster.errors import StageError
from tests.unit.operators.attempts import validate


def failure(config, table) -> StageError:
    with pytest.raises(StageError) as caught:
        validate(config, table)
    return caught.value


def message(config, table) -> str:
    return failure(config, table).message


def found(config, table) -> list[tuple[str, str | None, int, list[object]]]:
    """Rule, column, count and examples of everything found."""
    report = validate({**config, "on_invalid": "drop"}, table).report
    return [(rule["rule"], rule["column"], rule["count"], rule["examples"]) for rule in report["rules"]]


def valid(config, table) -> bool:
    result = validate(config, table)
    assert (result.passthrough_stage, result.table) == ("load-data", None)
    return result.report["valid"]
