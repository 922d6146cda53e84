"""Tokens: shown once, known by their digest, and of no use once they are expired or revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from flexiroaster.config import Settings
from flexiroaster.errors import ConflictError, InputError, NotFoundError, UnauthenticatedError
from flexiroaster.model.event import utc_now
from flexiroaster.model.paging import Window
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role, Viewer
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store import tables
from tests.integration.test_pages import walked
from tests.statements import statements

REFUSED = "^Invalid token: it is unknown, expired or revoked$"


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


def test_a_role_covers_those_before_it() -> None:
    covered = {role: [other for other in Role if role.covers(other)] for role in Role}
    assert covered == {
        Role.VIEWER: [Role.VIEWER],
        Role.OPERATOR: [Role.VIEWER, Role.OPERATOR],
        Role.ADMIN: [Role.VIEWER, Role.OPERATOR, Role.ADMIN],
    }


def test_whoever_shows_a_token_is_known(installation: Installation) -> None:
    secret = tokens.create(installation, "airflow", Role.OPERATOR)
    assert secret.startswith("frt_")
    assert len(secret) == 47
    assert tokens.authenticate(installation, secret) == Viewer("airflow", Role.OPERATOR)
    for other in ("", "frt_", secret[:-1], secret + "x", secret.upper(), "\ud800"):
        with pytest.raises(UnauthenticatedError, match=REFUSED):
            tokens.authenticate(installation, other)


def test_the_database_holds_no_secret(installation: Installation) -> None:
    secret = tokens.create(installation, "t", Role.ADMIN)
    tokens.authenticate(installation, secret)
    with installation.database.read() as connection:
        row = connection.execute(select(tables.tokens)).one()
    assert secret not in str(row)
    assert row.digest == hashlib.sha256(secret.encode()).hexdigest()


def test_a_token_that_was_just_shown_costs_no_statement(installation: Installation) -> None:
    secret = tokens.create(installation, "t", Role.VIEWER)
    with statements(installation) as sent:
        tokens.authenticate(installation, secret)
    assert [statement.split()[0] for statement in sent] == ["SELECT", "UPDATE"]
    with statements(installation) as sent:
        for _ in range(100):
            tokens.authenticate(installation, secret)
    assert sent == []


def test_its_last_use_is_written_once_a_minute(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CACHE_SECONDS", -1.0)  # each call looks
    secret = tokens.create(installation, "t", Role.VIEWER)

    def last_use() -> object:
        return tokens.listing(installation).items[0].last_used_at

    assert last_use() is None
    tokens.authenticate(installation, secret)
    used = last_use()
    assert used is not None
    with statements(installation) as sent:
        tokens.authenticate(installation, secret)
    assert len(sent) == 1
    assert last_use() == used
    with installation.database.write() as connection:
        connection.execute(update(tables.tokens).values(last_used_at=utc_now() - timedelta(minutes=2)))
    tokens.authenticate(installation, secret)
    assert last_use() > used


def test_a_token_expires_also_while_it_is_remembered(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tokens.create(installation, "t", Role.VIEWER, timedelta(hours=1))
    tokens.authenticate(installation, secret)
    later = utc_now() + timedelta(hours=1, seconds=1)
    monkeypatch.setattr(tokens, "utc_now", lambda: later)
    for _ in range(2):
        with pytest.raises(UnauthenticatedError, match=REFUSED):
            tokens.authenticate(installation, secret)


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_revoked_token_opens_nothing(installation: Installation, settings: Settings, by: str) -> None:
    secret, other = (tokens.create(installation, name, Role.ADMIN) for name in ("a", "b"))
    row = next(token for token in tokens.listing(installation).items if token.name == "a")
    tokens.authenticate(installation, secret)
    assert tokens.revoke(installation, getattr(row, by)).revoked_at is not None
    with pytest.raises(UnauthenticatedError, match=REFUSED):
        tokens.authenticate(installation, secret)
    with open_installation(settings) as elsewhere, pytest.raises(UnauthenticatedError, match=REFUSED):
        tokens.authenticate(elsewhere, secret)
    assert tokens.authenticate(installation, other).name == "b"
    with pytest.raises(NotFoundError, match=r"^No token in force has the name or id: a$"):
        tokens.revoke(installation, "a")


def test_other_processes_hear_of_it_soon(
    installation: Installation, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tokens.create(installation, "a", Role.ADMIN)
    with open_installation(settings) as elsewhere:
        tokens.authenticate(elsewhere, secret)
        tokens.revoke(installation, "a")
        assert tokens.authenticate(elsewhere, secret).name == "a"  # remembered
        later = tokens.monotonic() + tokens.CACHE_SECONDS + 1
        monkeypatch.setattr(tokens, "monotonic", lambda: later)
        with pytest.raises(UnauthenticatedError):
            tokens.authenticate(elsewhere, secret)


def test_names_are_taken_while_a_token_is_in_force(installation: Installation) -> None:
    tokens.create(installation, "a", Role.VIEWER)
    with pytest.raises(ConflictError, match=r"^Token already exists: a$"):
        tokens.create(installation, "a", Role.ADMIN)
    tokens.revoke(installation, "a")
    tokens.create(installation, "a", Role.VIEWER)
    assert [token.revoked_at is None for token in tokens.listing(installation).items] == [True, False]


@pytest.mark.parametrize(("name", "expires"), [("", None), (" ", None), ("x" * 256, None), ("x", timedelta(0))])
def test_a_token_needs_a_name_and_time(installation: Installation, name: str, expires: timedelta | None) -> None:
    with pytest.raises(InputError):
        tokens.create(installation, name, Role.VIEWER, expires)


def test_whether_there_is_any(installation: Installation, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens.any_token(installation) is False
    with open_installation(settings) as elsewhere:
        tokens.create(elsewhere, "a", Role.VIEWER)
        tokens.revoke(elsewhere, "a")
    later = tokens.monotonic() + tokens.CACHE_SECONDS + 1
    monkeypatch.setattr(tokens, "monotonic", lambda: later)
    assert tokens.any_token(installation) is True
    with statements(installation) as sent:
        assert tokens.any_token(installation) is True
    assert sent == []


def test_pages_of_tokens(installation: Installation) -> None:
    for i in range(9):
        tokens.create(installation, f"t{i}", Role.VIEWER)
    for backward in (False, True):
        found = walked(lambda window: tokens.listing(installation, window), 4, backward=backward)
        assert [token.name for token in found] == [f"t{i}" for i in reversed(range(9))]
    assert tokens.listing(installation, Window(first=2)).has_next
