"""Access: tokens, the open mode on a loopback address, and pages of other origins."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import SettingsError, UnauthenticatedError
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role
from flexiroaster.service.installation import open_installation
from flexiroaster.web.authentication import LOCAL, authenticate, check_binding
from graphql_api.transport import requests
from tests.integration.graphql_api.running import Api, serving
from tests.unit.graphql_api.small_schema import schema

ANY = "0.0.0.0"  # noqa: S104 - to see it refused


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        database_url=f"sqlite:///{tmp_path / 'api.db'}", cors_origins=("https://ui.example", "http://localhost:3000")
    )


@pytest.fixture
def own(settings: Settings) -> Iterator[Api]:
    """A server whose tokens the test may change."""
    with serving(settings, schema) as running:
        yield running


def status(api: Api, query: str = "{ viewer }", **headers: str) -> int:
    return api.post(query, accept=requests.GRAPHQL, **headers).status_code


# --- open mode --------------------------------------------------------------------------------------------------------


def test_without_tokens_this_machine_is_the_administrator(own: Api) -> None:
    assert own.data("{ viewer }") == {"viewer": "local admin"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:1", "127.0.0.1:99"])
def test_loopback_names_are_this_machine(own: Api, host: str) -> None:
    assert status(own, host=host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", "[", "a:b:c"]
)
def test_a_foreign_name_that_resolves_to_this_machine_is_refused(own: Api, host: str) -> None:
    """DNS rebinding: the page is from evil.example, which now resolves to 127.0.0.1."""
    assert status(own, host=host) == 401
    assert status(own, host=host, origin=f"http://{host}") == 401


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_a_forwarded_request_is_not_local(own: Api, header: str) -> None:
    """A proxy on this machine can be public and send localhost as the host."""
    assert status(own, **{header: "203.0.113.7"}) == 401


def test_the_first_token_ends_the_open_mode(own: Api) -> None:
    secret = tokens.create(own.installation, "ci", Role.VIEWER)
    assert status(own) == 401
    assert own.data("{ viewer }", authorization=f"Bearer {secret}") == {"viewer": "ci viewer"}


# --- binding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [ANY, "::", "", "192.0.2.7", "no-such-host.invalid"])
def test_another_address_needs_a_token(settings: Settings, host: str) -> None:
    with open_installation(settings) as installation:
        with pytest.raises(SettingsError, match="flexiroaster token create"):
            check_binding(installation, host)
        tokens.create(installation, "ci", Role.VIEWER)
        check_binding(installation, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_a_loopback_address_needs_no_token(settings: Settings, host: str) -> None:
    with open_installation(settings) as installation:
        check_binding(installation, host)


@pytest.mark.parametrize(
    ("server", "local"),
    [
        (("127.0.0.1", 8000), True),
        (("::1", 8000), True),
        (("192.0.2.7", 8000), False),
        (("/run/api", None), False),
        (None, False),
    ],
)
def test_only_a_connection_to_a_loopback_address_is_local(
    settings: Settings, server: tuple[str, int | None] | None, local: bool
) -> None:
    """The address of the socket counts, whatever the client sends as Host."""
    scope = {"type": "http", "server": server, "headers": [(b"host", b"localhost:8000")]}
    with open_installation(settings) as installation:
        if local:
            assert authenticate(installation, scope, None) == LOCAL
        else:
            with pytest.raises(UnauthenticatedError, match="Authentication required"):
                authenticate(installation, scope, None)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_the_token_determines_the_viewer_and_the_role(own: Api) -> None:
    start = 'mutation { start(name: "x") { name } }'
    secrets = {role: tokens.create(own.installation, f"a {role}", role) for role in Role}
    for role, secret in secrets.items():
        assert own.data("{ viewer }", authorization=f"bearer {secret}") == {"viewer": f"a {role} {role}"}
        allowed = role.covers(Role.OPERATOR)
        assert status(own, start, authorization=f"Bearer {secret}") == (200 if allowed else 403)


@pytest.mark.parametrize(
    "credentials", ["Bearer frt_wrong", "Bearer", "Basic dTpw", "", "frt_wrong", "Bearer \u00e9\u00ff"]
)
def test_every_invalid_token_gets_the_same_refusal(own: Api, credentials: str) -> None:
    tokens.create(own.installation, "ci", Role.VIEWER)
    headers = [(b"authorization", credentials.encode("latin-1")), (b"content-type", b"application/json")]
    answer = own.http.post(own.url, content=b'{"query": "{ viewer }"}', headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}


def test_an_invalid_token_does_not_fall_back_to_the_open_mode(own: Api) -> None:
    assert status(own, authorization="Bearer frt_wrong") == 401


def test_two_credentials_are_refused(own: Api) -> None:
    secret = tokens.create(own.installation, "ci", Role.VIEWER)
    headers = [("authorization", f"Bearer {secret}"), ("authorization", "Bearer frt_wrong")]
    assert own.http.post(own.url, json={"query": "{ viewer }"}, headers=headers).status_code == 401


def test_expired_and_revoked_tokens_are_refused(own: Api) -> None:
    brief = tokens.create(own.installation, "brief", Role.VIEWER, timedelta(microseconds=1))
    revoked = tokens.create(own.installation, "gone", Role.VIEWER)
    assert status(own, authorization=f"Bearer {revoked}") == 200
    tokens.revoke(own.installation, "gone")
    assert status(own, authorization=f"Bearer {revoked}") == status(own, authorization=f"Bearer {brief}") == 401


def test_an_unauthenticated_request_is_refused_before_its_document_is_read(own: Api) -> None:
    """A stranger does not learn whether a document is valid."""
    tokens.create(own.installation, "ci", Role.VIEWER)
    assert {status(own, query) for query in ("{ nothing }", "{", "", "{ viewer }")} == {401}


# --- what a role sees -------------------------------------------------------------------------------------------------


def test_viewers_do_not_see_the_schema_outside_development(own: Api, settings: Settings) -> None:
    secret = f"Bearer {tokens.create(own.installation, 'ci', Role.VIEWER)}"
    operator = f"Bearer {tokens.create(own.installation, 'op', Role.OPERATOR)}"
    for query in ("{ __schema { queryType { name } } }", '{ __type(name: "Run") { name } }'):
        assert status(own, query, authorization=secret) == 403
        assert status(own, query, authorization=operator) == 200
    assert status(own, "{ __typename run { __typename } }", authorization=secret) == 200
    hint = own.post("{ runz { name } }", authorization=secret).json()["errors"][0]["message"]
    assert "Did you mean" not in hint
    assert "Did you mean" in own.post("{ runz { name } }", authorization=operator).text
    with serving(settings.model_copy(update={"debug": True}), schema) as developing:
        assert status(developing, "{ __schema { queryType { name } } }", authorization=secret) == 200


# --- origins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://ui.example", "http://localhost:3000"])
def test_pages_of_allowed_origins_may_send_requests(own: Api, origin: str) -> None:
    answer = own.post("{ viewer }", origin=origin)
    assert answer.json() == {"data": {"viewer": "local admin"}}
    assert answer.headers["access-control-allow-origin"] == origin
    preflight = own.http.options(
        own.url,
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]


def test_pages_of_this_server_may_send_requests(own: Api) -> None:
    assert status(own, origin=f"http://127.0.0.1:{own.port}") == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "https://ui.example.evil.example", "http://ui.example", "localhost:3000", ""],
)
def test_pages_of_other_origins_are_refused(own: Api, origin: str) -> None:
    answer = own.post("{ viewer }", origin=origin)
    assert answer.status_code == 403
    assert answer.json()["errors"][0]["extensions"] == {"code": "ORIGIN"}
    assert "access-control-allow-origin" not in answer.headers


def test_by_default_every_other_origin_is_refused(api: Api) -> None:
    assert status(api, origin="https://ui.example") == 403
    preflight = api.http.options(
        api.url, headers={"origin": "https://x.example", "access-control-request-method": "POST"}
    )
    assert preflight.status_code == 403


# --- GraphiQL ---------------------------------------------------------------------------------------------------------

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def _page(api: Api, path: str = "/graphql") -> httpx.Response:
    return api.http.get(f"http://127.0.0.1:{api.port}{path}", headers=BROWSER)


def test_graphiql_is_served_in_development_only(
    api: Api, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "<html" not in _page(api).text
    assert _page(api, "/graphiql/start.js").status_code == 404
    with serving(settings.model_copy(update={"debug": True}), schema) as developing:
        missing = _page(developing)
        assert missing.status_code == 503
        assert "make graphiql" in missing.text
        assert developing.data("{ viewer }")  # the API does not need it


def test_only_the_files_of_graphiql_are_served(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphql_api import graphiql

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graphiql.folder().mkdir(parents=True)
    for name in graphiql.FILES:
        (graphiql.folder() / name).write_text(f"/* {name} */")
    (graphiql.folder() / "other.js").write_text("secret")
    with serving(settings.model_copy(update={"debug": True}), schema) as developing:
        page = _page(developing)
        assert page.status_code == 200
        assert "http" not in page.text.replace('http-equiv="', "")
        assert "script-src 'self';" in page.headers["content-security-policy"]
        for name, media_type in graphiql.FILES.items():
            assert f"/graphiql/{name}" in page.text
            file = _page(developing, f"/graphiql/{name}")
            assert (file.text, file.headers["content-type"].partition(";")[0]) == (f"/* {name} */", media_type)
        assert "createRoot" in _page(developing, "/graphiql/start.js").text
        for path in ("/graphiql/other.js", "/graphiql/..%2fapi.db", "/graphiql/../api.db", "/graphiql/"):
            assert _page(developing, path).status_code == 404
