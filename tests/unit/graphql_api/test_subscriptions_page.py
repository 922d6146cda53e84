"""docs/subscriptions.md names the codes and limits that are in force."""

from __future__ import annotations

import re
from pathlib import Path

from flexiroaster.web import feeds, server, streams
from graphql_api.transport import websocket
from graphql_api.transport.websocket import Limits

PAGE = (Path(__file__).parents[3] / "docs" / "subscriptions.md").read_text()
OF_THE_PROTOCOL_BELOW = {1009}
"""Codes that uvicorn closes with."""


def test_every_closing_code_is_explained() -> None:
    source = Path(websocket.__file__).read_text()
    used = {int(code) for code in re.findall(r"_CloseError\((\d{4}),", source)}
    assert {int(code) for code in re.findall(r"^\| (\d{4}) \|", PAGE, re.MULTILINE)} == used | OF_THE_PROTOCOL_BELOW


def test_the_figures_are_those_in_force() -> None:
    limits = Limits()
    told = (
        f"more than {server.MAX_MESSAGE // 1024} KiB",
        f"read nothing for {limits.send_seconds:.0f} seconds",
        f"`connection_init` within {limits.init_seconds:.0f} seconds",
        f"a keep-alive comment every {streams.KEEP_ALIVE_SECONDS:.0f} seconds",
        f"room for {limits.connections:,} sockets and {streams.MAX_STREAMS:,} event streams",
        f"{streams.MAX_CONNECTIONS_PER_VIEWER} of both together",
        f"at most {limits.operations} operations at once",
        f"the last {feeds.WINDOW:,} events",
    )
    assert [words for words in told if words not in " ".join(PAGE.split())] == []
