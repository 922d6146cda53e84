from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.network_guard import (
    guarded_client,
    is_public,
    redact_url,
    require_public_literal,
    same_origin,
)
from flexiroaster.operators.base import Access

LOCAL = Access(http_hosts=("127.0.0.1",))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/")
            self.end_headers()
            return
        body = f"{self.headers['Host']} {self.command}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(access: Access, url: str, **options: Any) -> str:
    with guarded_client(access, **options) as client, pytest.raises(StageError) as caught:
        client.get(url)
    assert caught.value.error_class is ErrorClass.CONFIGURATION
    return caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        "0.0.0.0",  # noqa: S104 - an address to refuse, not to bind to
        *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe"),
        *("::127.0.0.1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "fec0::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_an_allowed_host_answers_and_sees_its_name(port: int) -> None:
    with guarded_client(LOCAL) as client:
        assert client.get(f"http://127.0.0.1:{port}/").text == f"127.0.0.1:{port} GET"
    with guarded_client(Access(http_hosts=("LOCALHOST.",))) as client:
        assert client.get(f"http://localhost:{port}/").text == f"localhost:{port} GET"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"])  # noqa: S104 - see above
def test_private_addresses_are_refused(port: int, host: str) -> None:
    shown = host.strip("[]")
    message = refusal(Access(), f"http://{host}:{port}/")
    assert message.endswith("a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it")
    assert message.startswith(shown)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "017700000001", "localhost"])
def test_other_spellings_of_the_loopback_are_refused(port: int, host: str) -> None:
    """Also where 127.0.0.1 itself is allowed: it is the name in the URL that is allowed."""
    message = refusal(LOCAL, f"http://{host}:{port}/")
    assert message.startswith(f"{host} resolves to ")


def test_each_redirect_is_judged(port: int) -> None:
    message = refusal(LOCAL, f"http://127.0.0.1:{port}/redirect", follow_redirects=True)
    assert message.startswith("localhost resolves to ")


def test_the_address_that_was_checked_is_the_one_connected_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that turns private on its second resolution: there is no second resolution."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, service: int, *args: Any, **kw: Any) -> Any:
        if host != "rebinding.test":
            return real(host, service, *args, **kw)
        asked.append(host)
        address = "192.0.2.1" if len(asked) > 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, service))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with guarded_client(Access(http_hosts=("rebinding.test",))) as client:
        assert client.get(f"http://rebinding.test:{port}/").text == f"rebinding.test:{port} GET"
    assert asked == ["rebinding.test"]


def test_a_name_with_one_private_address_among_its_public_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert refusal(Access(), "http://mixed.test/").startswith("mixed.test resolves to 10.0.0.1, a private")


def test_failures_are_those_of_httpx(port: int) -> None:
    with guarded_client(LOCAL) as client:
        with pytest.raises(httpx.ConnectError, match="refused"):
            client.get("http://127.0.0.1:1/")
        with pytest.raises(httpx.UnsupportedProtocol):
            client.get("ftp://127.0.0.1/")
        with pytest.raises(httpx.ConnectError, match=r"cannot resolve host name 'nowhere\.invalid'"):
            client.get("http://nowhere.invalid/")


def test_proxies_of_the_environment_are_ignored(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with guarded_client(LOCAL) as client:
        assert client.get(f"http://127.0.0.1:{port}/").status_code == 200


@pytest.mark.parametrize("option", ["transport", "mounts", "proxy", "trust_env"])
def test_the_guard_cannot_be_replaced(option: str) -> None:
    with pytest.raises(TypeError, match=f"does not accept {option}"):
        guarded_client(LOCAL, **{option: None})


def test_a_literal_is_judged_without_the_network() -> None:
    require_public_literal("example.com", Access())
    require_public_literal("127.0.0.1", LOCAL)
    require_public_literal("1.1.1.1", Access())
    expected = r"^10\.0\.0\.1 is a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to allow it$"
    with pytest.raises(StageError, match=expected):
        require_public_literal("10.0.0.1", LOCAL)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.com/x", "https://a.com:443/y", True),
        ("http://a.com/x", "https://a.com/x", True),
        ("https://a.com/x", "http://a.com/x", False),
        ("http://a.com:8080/x", "https://a.com/x", False),
        ("https://a.com/x", "https://b.a.com/x", False),
        ("https://a.com/x", "https://a.com:8443/x", False),
        ("https://A.com/x", "https://a.com/x", True),
    ],
)
def test_origins(one: str, other: str, same: bool) -> None:
    assert same_origin(httpx.URL(one), httpx.URL(other)) is same


def test_a_shown_url_has_no_secrets() -> None:
    shown = redact_url("https://ann:sesame@a.com:8443/x?token=sesame&page=2&page=3#sesame")
    assert shown == "https://a.com:8443/x?token=...&page=..."
    assert redact_url("https://a.com/x") == "https://a.com/x"


def test_the_log_of_httpx_has_no_secrets(port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="httpx")
    with guarded_client(LOCAL) as client:
        client.get(f"http://ann:sesame@127.0.0.1:{port}/x?token=sesame")
    assert f"GET http://127.0.0.1:{port}/x?token=..." in caplog.text
    assert "sesame" not in caplog.text
