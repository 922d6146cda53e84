"""`flexiroaster worker`: a process that claims and runs executions."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from flexiroaster.cli.failures import FAILED, reported

__all__ = ["worker"]

logger = logging.getLogger(__name__)


@reported
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
    from flexiroaster.service.installation import open_installation

    settings = load_settings(**({"executor_workers": concurrency} if concurrency else {}))
    asked = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with open_installation(settings) as installation:
        logs.configure(settings, installation.access, installation.owner)
        installation.driver.listen(logs.log_events())
        installation.take_work()
        logger.info("Working; stop with SIGTERM or Ctrl-C.")
        while not asked.wait(1.0):
            if not installation.healthy:
                raise typer.Exit(FAILED)  # the driver has logged the reason
        installation.hand_over()
        logger.info("Handed over.")
