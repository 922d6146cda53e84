"""`flexiroaster worker`: a process that runs what others start."""

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
        int | None, typer.Option(min=1, metavar="N", help="Stages at a time; default: EXECUTOR_WORKERS.")
    ] = None,
) -> None:
    """Claim and run executions until it is told to end.

    Any number of workers may share a database. SIGTERM or Ctrl-C hands what is running over to the others.
    """
    from flexiroaster.config import load_settings
    from flexiroaster.service import logs
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
        logger.info("Working; SIGTERM or Ctrl-C ends it.")
        while not asked.wait(1.0):
            if not installation.healthy:
                raise typer.Exit(FAILED)  # the driver has said why
        installation.hand_over()
        logger.info("Handed over.")
