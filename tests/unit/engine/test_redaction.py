"""Secrets do not get into logs and errors."""

from __future__ import annotations

from flexiroaster.operators.access.redaction import redact_json, redactor
from flexiroaster.operators.base import Access


def test_without_secrets_nothing_is_hidden() -> None:
    assert redactor(Access())("anything at all") == "anything at all"


def test_secrets_are_hidden_the_longest_first() -> None:
    redact = redactor(Access(secrets={"A": "abcdef", "B": "abcdefgh", "C": "a.c*d+"}))
    assert redact("abcdefgh abcdef a.c*d+ aXcdd") == "*** *** *** aXcdd"


def test_short_secrets_would_hide_words() -> None:
    assert redactor(Access(secrets={"A": "the"}))("the end") == "the end"


def test_logins_of_connections_are_hidden() -> None:
    access = Access(connections={"db": "postgresql://ada:pass@host/x"}, output_url="postgresql://bob:w%40rd@host/y")
    text = "postgresql://ada:pass@host/x and postgresql://bob:w%40rd@host/y but pass"
    assert redactor(access)(text) == "postgresql://***@host/x and postgresql://***@host/y but pass"


def test_a_connection_without_password_hides_nothing() -> None:
    access = Access(connections={"db": "sqlite:///data.db", "pg": "postgresql://ada@host/x"})
    assert redactor(access)("postgresql://ada@host/x") == "postgresql://ada@host/x"


def test_json_is_redacted_throughout() -> None:
    redact = redactor(Access(secrets={"A": "hidden"}))
    value = {"hidden": "hidden", "list": ["not hidden", 1, None, {"a": "hidden"}]}
    assert redact_json(value, redact) == {"hidden": "***", "list": ["not ***", 1, None, {"a": "***"}]}
