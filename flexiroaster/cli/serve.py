"""`flexiroaster serve`: the API server and, by default, a worker in the same process."""

from __future__ import annotations

from typing import Annotated

import typer

from flexiroaster.cli.failures import FAILED, UsageError, reported

__all__ = ["serve"]


@reported
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
    from flexiroaster.cli import flights
    from flexiroaster.config import load_settings
    from flexiroaster.service import pipelines
    from flexiroaster.service.admin import logs
    from flexiroaster.service.installation import open_installation

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
            installation.take_work()
        app = create_app(installation, settings)
        add_rest(app, installation)
        server = Server(app, installation)
        if not server.run_to_end():
            raise typer.Exit(FAILED)
