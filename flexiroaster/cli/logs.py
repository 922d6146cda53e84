"""Log setup of commands that drive executions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexiroaster.service.installation import Installation

__all__ = ["logged"]


def logged(installation: Installation) -> bool:
    """Log execution events to stderr if `LOG_LEVEL` or `LOG_FORMAT` is set, and return whether it is.

    The log then replaces the progress view. Call this before the first execution.
    """
    settings = installation.settings
    if settings.model_fields_set.isdisjoint({"log_level", "log_format"}):
        return False
    from flexiroaster.service.admin import logs

    logs.configure(settings, installation.access, installation.owner)
    installation.driver.listen(logs.log_events())
    return True
