"""What the command machine has found, step by step."""

from __future__ import annotations

import pytest

from flexiroaster.errors import ErrorClass, NotAllowedError
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import utc_now
from flexiroaster.service.installation import Installation
from flexiroaster.store import commands
from tests.faults.test_commands_machine import Commands
from tests.faults.test_commands_machine import opened as opened


@pytest.fixture
def played(opened: Installation) -> Commands:
    """A diamond `a`, `b` and `c`, `d` with slots, of which `b` and `d` have effects; nobody drives it yet."""
    played = type("Machine", (Commands,), {"installation": opened, "revisions": {}, "ran": 0, "reached": set()})()
    played._create(shape="diamond", soft="", slots=True)
    played.all_agree()
    return played


def complete(played: Commands, *stages: str) -> None:
    """Start what is ready, and let these end well."""
    for stage in stages:
        if stage not in played.attempts:
            played.start(count=3)
        played._complete(stage)
        played.all_agree()


def fail_for_good(played: Commands, stage: str) -> None:
    described = {"message": "it failed", "class": ErrorClass.CANCELLED.value, "type": "error"}
    played.start(count=1)
    played._ended(stage, lambda driven, i: driven.stage_failed(i, described, utc_now()))
    played.all_agree()


def ask(played: Commands, kind: CommandKind) -> None:
    """Ask for a command; the machine itself holds what is allowed against its model."""
    played.request(kind=kind, interrupt=False, deadline=False)
    played.all_agree()


def test_the_slot_of_a_retry_that_is_refused_is_free_again(played: Commands) -> None:
    """It was taken when the retry was asked for, after the driver had loaded the execution."""
    played.claim()
    complete(played, "a", "b", "c", "d")
    ask(played, CommandKind.ROLLBACK)
    played.claim()
    fail_for_good(played, "d")
    fail_for_good(played, "b")
    ask(played, CommandKind.ROLLBACK)
    played.claim()
    ask(played, CommandKind.RETRY)
    assert played.row.slot is not None
    played.look_for_commands()
    played.all_agree()
    assert played.row.slot is None
    played.teardown()
    assert played.row.status == "rolled_back"


def test_what_was_undone_in_part_is_rolled_back_again_and_not_retried(played: Commands) -> None:
    """A retry would complete without the effects that are gone."""
    played.claim()
    complete(played, "a", "b", "c", "d")
    ask(played, CommandKind.ROLLBACK)
    played.claim()
    complete(played, "d")
    fail_for_good(played, "b")
    assert (played.row.status, played.states["d"]) == ("failed", "rolled_back")
    assert "undo manually" in played.row.error["message"]
    with pytest.raises(NotAllowedError, match=r"some of its stages were undone; allowed: rollback, rerun$"):
        commands.request(played.database, played.id, CommandKind.RETRY, {}, requested_by="ann", concurrency=1)
    ask(played, CommandKind.ROLLBACK)
    played.claim()
    complete(played, "b")
    assert (played.row.status, played.row.error) == ("rolled_back", None)
