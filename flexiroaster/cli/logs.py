"""The log of commands that drive executions, beside what they show of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexiroaster.service.installation import Installation

__all__ = ["logged"]


def logged(installation: Installation) -> bool:
    """Log what executions do here, line by line on stderr, if `LOG_LEVEL` or `LOG_FORMAT` is set; whether it is.

    The lines then take the place of the progress. Call it before the first execution.
    """
    settings = installation.settings
    if settings.model_fields_set.isdisjoint({"log_level", "log_format"}):
        return False
    from flexiroaster.service import logs

    logs.configure(settings, installation.access, installation.owner)
    installation.driver.listen(logs.log_events())
    return True
