"""A request to the fork server arrives whole, whatever the socket takes at once."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flexiroaster.workers import worker_handle
from flexiroaster.workers.protocol import FrameReader
from flexiroaster.workers.worker_handle import ForkServer

FOLDERS = [Path(f"/work/{i:06}") for i in range(50_000)]
"""More than a socket's buffer holds."""


@pytest.fixture
def pair() -> Iterator[tuple[ForkServer, socket.socket]]:
    """The parent's end without the process, and the other end of its control socket."""
    server = object.__new__(ForkServer)
    server.control, theirs = socket.socketpair()
    server.control.setblocking(False)
    with theirs, server.control:
        yield server, theirs


def test_a_long_request_arrives_whole_with_its_descriptors(pair: tuple[ForkServer, socket.socket]) -> None:
    server, theirs = pair
    theirs.settimeout(60)  # ends a test that would hang
    frames: list[dict[str, Any]] = []
    descriptors: list[int] = []

    def read() -> None:
        reader = FrameReader()
        while len(frames) < 2:
            data, received, _, _ = socket.recv_fds(theirs, 65536, 64)
            descriptors.extend(received)
            frames.extend(reader.feed(data))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    ours = [server.fork(7, FOLDERS), server.fork(8, [])]
    thread.join(60)
    assert [(frame["worker"], len(frame["clean"])) for frame in frames] == [(7, len(FOLDERS)), (8, 0)]
    assert len(descriptors) == 4
    assert not server.control.getblocking()
    for channel, output in ours:
        channel.close()
        os.close(output)
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_fork_server_that_reads_half_a_request_is_ended(
    pair: tuple[ForkServer, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = pair
    ended: list[bool] = []
    server.process = SimpleNamespace(kill=lambda: ended.append(True))
    monkeypatch.setattr(worker_handle, "SEND_SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        server.fork(7, FOLDERS)
    assert ended == [True]
