"""The audit log: one row per mutation, without secrets, of bounded size, searchable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.model.event import utc_now
from flexiroaster.operators.base import Access
from flexiroaster.service.admin import audit
from flexiroaster.service.admin.audit import AuditFilter
from flexiroaster.service.admin.tokens import Role, Viewer
from flexiroaster.service.installation import Installation, open_installation
from tests.integration.test_pages import walked
from tests.statements import statements

ADA, BOB = Viewer("ada", Role.ADMIN), Viewer("bob", Role.OPERATOR)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    access = Access(secrets={"API": "hunter2-hunter2"}, connections={"db": "postgresql://u:geheim@h/d"})
    with open_installation(settings, access) as opened:
        yield opened


def recorded(installation: Installation, arguments: dict[str, Any]) -> dict[str, Any]:
    audit.record(installation, viewer=ADA, action="test", subject=None, arguments=arguments)
    return audit.listing(installation).items[0].arguments


def test_an_entry_records_viewer_and_action(installation: Installation) -> None:
    before = utc_now()
    with statements(installation) as sent:
        audit.record(
            installation, viewer=BOB, action="stopExecution", subject="exec-1", arguments={"reason": "late"},
            outcome="not_allowed", request_id="r1",
        )  # fmt: skip
    assert len(sent) == 1
    entry = audit.listing(installation).items[0]
    assert (entry.viewer, entry.role, entry.action, entry.subject) == ("bob", Role.OPERATOR, "stopExecution", "exec-1")
    assert (entry.arguments, entry.outcome, entry.request_id) == ({"reason": "late"}, "not_allowed", "r1")
    assert before <= entry.at <= utc_now()


def test_secrets_are_not_written(installation: Installation) -> None:
    arguments = {
        "password": "x1",
        "nested": [{"apiKey": "x2", "Authorization": {"deep": "x3"}, "client_secret": "x4", "dbPasswd": "x5"}],
        "text": "with hunter2-hunter2 inside",
        "url": "postgresql://user:x6@host/db",
        "reference": {"secret": "API"},
        "secret": {"secret": {"secret": "x7"}},
        "x" * 190: "y" * 195 + "hunter2-hunter2",
    }
    shown = recorded(installation, arguments)
    assert not any(value in str(shown) for value in ("x1", "x2", "x3", "x4", "x5", "x6", "x7", "hunter2", "geheim"))
    assert shown["nested"] == [dict.fromkeys(("apiKey", "Authorization", "client_secret", "dbPasswd"), "***")]
    assert shown["text"] == "with *** inside"
    assert shown["url"] == "postgresql://***@host/db"
    assert shown["reference"] == {"secret": "API"}


def test_large_arguments_are_cut(installation: Installation) -> None:
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"in": deep}
    shown = recorded(
        installation,
        {"text": "a" * 10**6, "list": list(range(10**5)), "keys": {str(i): i for i in range(1000)}, "deep": deep},
    )
    assert shown["text"] == "a" * 200 + "... 1000000 characters"
    assert shown["list"] == [*range(20), "... 100000 items"]
    assert (len(shown["keys"]), shown["keys"]["..."]) == (21, "1000 items")
    assert str(shown["deep"]).count("in") < 10


def test_anything_can_be_recorded(installation: Installation) -> None:
    now = utc_now()
    shown = recorded(installation, {"nan": math.nan, "nul": "a\0b", "at": now, "lone": "\ud800", "n": None, 5: True})
    assert shown == {"nan": "nan", "nul": "a\ufffdb", "at": str(now), "lone": "�", "n": None, "5": True}
    viewer = Viewer("v\0" * 500, Role.VIEWER)
    audit.record(installation, viewer=viewer, action="a" * 999, subject="s" * 999, arguments={}, outcome="o" * 999)
    assert len(audit.listing(installation).items[0].viewer) == 255


def test_entries_can_be_filtered(installation: Installation) -> None:
    for i in range(12):
        action, viewer = ("start", "stop")[i % 3 == 0], (ADA, BOB)[i % 2]
        audit.record(installation, viewer=viewer, action=action, subject=f"s{i % 4}", arguments={"i": i})

    def found(wanted: AuditFilter, *, backward: bool = False) -> list[int]:
        entries = walked(lambda window: audit.listing(installation, wanted, window), 4, backward=backward)
        return [entry.arguments["i"] for entry in entries]

    for backward in (False, True):
        assert found(AuditFilter(), backward=backward) == list(reversed(range(12)))
        assert found(AuditFilter(viewer="bob"), backward=backward) == [11, 9, 7, 5, 3, 1]
    assert found(AuditFilter(action="stop")) == [9, 6, 3, 0]
    assert found(AuditFilter(subject="s1", viewer="bob")) == [9, 5, 1]
    now = utc_now()
    assert found(AuditFilter(after=now)) == []
    assert len(found(AuditFilter(after=now - timedelta(hours=1), before=now))) == 12
