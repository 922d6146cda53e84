"""GraphiQL's files come from npm, exactly the ones that are expected."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from graphql_api import graphiql
from graphql_api.graphiql import FILES

NEEDS_NPM = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, and this machine has none")


@NEEDS_NPM
def test_the_files_of_the_page_and_no_others_are_kept(tmp_path: Path) -> None:
    place = graphiql.install(tmp_path / "graphiql")
    assert {path.name for path in place.iterdir()} == set(FILES)
    assert "createFetcher" in (place / "graphiql.min.js").read_text()
    assert "createRoot" in (place / "react-dom.production.min.js").read_text()


@NEEDS_NPM
def test_another_archive_than_the_expected_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphiql, "PACKAGES", {"react@18.3.1": "0" * 64})
    with pytest.raises(RuntimeError, match=r"react@18\.3\.1: the SHA-256 of the archive is not the expected one"):
        graphiql.install(tmp_path / "graphiql")
    assert list((tmp_path / "graphiql").iterdir()) == []


def test_without_npm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="npm is needed"):
        graphiql.install(tmp_path / "graphiql")


def test_what_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in FILES:
        (tmp_path / name).touch()
    assert graphiql.install(tmp_path) == tmp_path
