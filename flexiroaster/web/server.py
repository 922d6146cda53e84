"""The server process: uvicorn with connection limits, which hands its executions over when it shuts down."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from flexiroaster.service.installation import Installation
from flexiroaster.web.streams import Streams

__all__ = ["MAX_MESSAGE", "STALLED_SECONDS", "Server"]

MAX_MESSAGE = 65_536
"""Maximum size of a WebSocket message in bytes."""

STALLED_SECONDS = 20.0
"""How long a client may accept no data before its connection ends; it can reconnect and resume from its cursor."""

_SHUTDOWN_SECONDS = 10
_HEALTH_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """The server of one application, at the address in its installation's settings."""

    def __init__(self, app: Starlette, installation: Installation) -> None:
        settings = installation.settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                ws="websockets-sansio",
                ws_max_size=MAX_MESSAGE,
                ws_per_message_deflate=False,  # costs memory per socket, and a small frame can expand to a large one
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a client could forge these headers to claim any address
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_about_server)
        self.installation = installation
        self.streams: Streams = app.state.streams
        self.path: str = app.state.path

    def run_to_end(self) -> bool:
        """Serve until a signal and return success; False if the address is in use or the driver has failed."""
        self.run()
        return self.started and self.installation.healthy

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's signature
        """Shut down gracefully, or at once on a second Ctrl-C; unlike uvicorn, do not raise the signal again."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, and start to watch the driver."""
        await super().startup(sockets)
        for listening in self.servers[0].sockets:
            _drop_stalled(listening)
        self._watch = asyncio.create_task(self._watch_driver())
        address, port, *_ = self.servers[0].sockets[0].getsockname()
        _log.info("Serving GraphQL at http://%s:%d%s", f"[{address}]" if ":" in address else address, port, self.path)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Hand executions over so that other workers resume them at once; end the connections and the application."""
        self._watch.cancel()
        self.streams.end()
        await asyncio.gather(asyncio.to_thread(self.installation.hand_over), super().shutdown(sockets))
        await asyncio.to_thread(self.installation.hand_over)  # executions that the last requests started
        _log.info("Handed over.")

    async def _watch_driver(self) -> None:
        while self.installation.healthy:
            await asyncio.sleep(_HEALTH_SECONDS)
        _log.critical("The driver has failed; other workers will resume its executions once their leases expire.")
        self.should_exit = True


def _is_about_server(record: logging.LogRecord) -> bool:
    """Whether a uvicorn log record is about the server, not about a client's invalid UTF-8."""
    return not str(record.msg).startswith("Invalid UTF-8 sequence")


def _drop_stalled(listening: socket.socket) -> None:
    """Have the operating system end connections whose client accepts no data, which no timeout in this process can.

    Accepted sockets inherit the option. Where the system lacks it, such a connection lasts until its client leaves.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and listening.family in {socket.AF_INET, socket.AF_INET6}:
        listening.setsockopt(socket.IPPROTO_TCP, option, int(1000 * STALLED_SECONDS))
