"""The table of states: stated once, and the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flexiroaster.errors import NotAllowedError
from flexiroaster.model.command import ALLOWED
from flexiroaster.model.execution import MOVES, STAGE_MOVES, TERMINAL, ExecutionStatus, StageStatus, check_move
from flexiroaster.store import tables

ROOT = Path(__file__).parents[3]


def listed(constraint: str) -> list[str]:
    return re.findall(r"'(\w+)'", constraint)


def test_tables_and_enums_have_the_same_states() -> None:
    for table, states in ((tables.executions, ExecutionStatus), (tables.stage_runs, StageStatus)):
        (check,) = [c for c in table.constraints if str(c.name).endswith("_status")]
        assert listed(str(check.sqltext)) == [state.value for state in states]


def test_the_documentation_has_the_same_moves() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for moves in (MOVES, STAGE_MOVES):
        for state, targets in moves.items():
            told = ", ".join(sorted(targets)) or "final"
            assert f"| {state} | {told} |" in text


def test_every_state_has_a_row() -> None:
    assert set(MOVES) == set(ExecutionStatus)
    assert set(STAGE_MOVES) == set(StageStatus)
    assert {"completed", "failed", "cancelled", "rolled_back"} == TERMINAL


def test_out_of_a_terminal_state_only_what_a_person_asks_for_leads() -> None:
    """retry: back to running; rollback: rolled_back, or failed where it could not undo everything."""
    asked_for = {ExecutionStatus.RUNNING, ExecutionStatus.ROLLED_BACK, ExecutionStatus.FAILED}
    assert all(MOVES[state] <= asked_for for state in TERMINAL)
    assert all(ExecutionStatus.RUNNING not in MOVES[state] for state in TERMINAL - {"failed", "cancelled"})


def test_the_documentation_has_the_same_commands() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for kind, states in ALLOWED.items():
        assert f"| `{kind}` | {', '.join(sorted(states))} |" in text


@pytest.mark.parametrize("current", list(ExecutionStatus))
@pytest.mark.parametrize("target", list(ExecutionStatus))
def test_check_move_allows_what_is_in_the_table(current: ExecutionStatus, target: ExecutionStatus) -> None:
    if target in MOVES[current]:
        check_move(current, target)
    else:
        with pytest.raises(NotAllowedError, match=f"An execution that is {current} cannot become {target}; allowed: "):
            check_move(current, target)


def test_a_refused_move_says_what_is_allowed() -> None:
    with pytest.raises(NotAllowedError) as caught:
        check_move(ExecutionStatus.ROLLED_BACK, ExecutionStatus.RUNNING)
    assert (
        str(caught.value)
        == "An execution that is rolled_back cannot become running; allowed: nothing, the state is terminal"
    )
