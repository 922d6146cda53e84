"""The server process: uvicorn with our limits, which hands executions over before it says goodbye to its clients."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from flexiroaster.service.installation import Installation
from graphql_api.app import PATH
from graphql_api.streams import Streams

__all__ = ["MAX_MESSAGE", "STALLED_SECONDS", "Server"]

MAX_MESSAGE = 65_536
"""Bytes of one WebSocket message."""

STALLED_SECONDS = 20.0
"""How long a client may take nothing of what it was sent; it can come back and go on from its last cursor."""

_GOODBYE_SECONDS = 10
_HEALTH_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Serves one application at the address of its installation's settings."""

    def __init__(self, app: Starlette, installation: Installation) -> None:
        settings = installation.settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                ws="websockets-sansio",
                ws_max_size=MAX_MESSAGE,
                ws_per_message_deflate=False,  # it costs memory for each socket, and a small frame can grow large
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # whoever stands in front could claim any address
                timeout_graceful_shutdown=_GOODBYE_SECONDS,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_ours)
        self.installation = installation
        self.streams: Streams = app.state.streams

    def run_to_end(self) -> bool:
        """Serve until a signal; whether all was well. False: the address is taken, or the driver has failed."""
        self.run()
        return self.started and self.installation.healthy

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what signal handlers are given
        """End in good order, at a second Ctrl-C at once; unlike uvicorn's own, the signal is not raised again after."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, and watch the driver from then on."""
        await super().startup(sockets)
        for listening in self.servers[0].sockets:
            _drop_stalled(listening)
        self._watch = asyncio.create_task(self._watched())
        address, port, *_ = self.servers[0].sockets[0].getsockname()
        _log.info("Serving GraphQL at http://%s:%d%s", f"[{address}]" if ":" in address else address, port, PATH)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give up what is driven here, so that others go on at once; then end connections and the application."""
        self._watch.cancel()
        self.streams.end()
        await asyncio.gather(asyncio.to_thread(self.installation.hand_over), super().shutdown(sockets))
        await asyncio.to_thread(self.installation.hand_over)  # what the last requests started meanwhile
        _log.info("Handed over.")

    async def _watched(self) -> None:
        while self.installation.healthy:
            await asyncio.sleep(_HEALTH_SECONDS)
        _log.critical("The driver has failed; others go on with its executions when their leases run out.")
        self.should_exit = True


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's log is about the server: that a client sends no text where it says so is not."""
    return not str(record.msg).startswith("Invalid UTF-8 sequence")


def _drop_stalled(listening: socket.socket) -> None:
    """Have the system end connections whose client does not take what it is sent, which no timeout of ours can.

    Accepted sockets inherit the option. Where there is none, such a connection stays until its client goes.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and listening.family in {socket.AF_INET, socket.AF_INET6}:
        listening.setsockopt(socket.IPPROTO_TCP, option, int(1000 * STALLED_SECONDS))
