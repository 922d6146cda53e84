"""Counts for Prometheus: what one request encodes does not change while another one counts."""

from __future__ import annotations

import pytest

from flexiroaster.config import Settings
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service.admin.metrics import SECONDS, ExecutionCounters, Histogram
from flexiroaster.service.installation import open_installation


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_counts_that_were_given_out_do_not_change(settings: Settings) -> None:
    with open_installation(settings) as installation:
        tallies = ExecutionCounters(installation)
        first = tallies.catch_up()
        growing = iter(first.stages.items())
        tallies._counts.stages["input.api"] = Histogram(SECONDS)
        tallies._counts.retries["input.api"] += 1
        tallies._counts.risks["low"].add(0.5)
        assert list(growing) == []
        assert (first.retries.total(), first.risks["low"].total) == (0, 0.0)
        second = tallies.catch_up()
        assert (second.retries.total(), second.risks["low"].total, list(second.stages)) == (1, 0.5, ["input.api"])
        assert second.executions[ExecutionStatus.COMPLETED] == 0
