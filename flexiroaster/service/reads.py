"""Reads of the service: windows and pages of lists, and functions of the store under the service's signature."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from flexiroaster.service.installation import Installation
from flexiroaster.store.database import Database

__all__ = ["from_store"]

P = ParamSpec("P")
T = TypeVar("T")


def from_store(function: Callable[Concatenate[Database, P], T]) -> Callable[Concatenate[Installation, P], T]:
    """Return a function of the store that takes an installation in place of its database."""

    @wraps(function)
    def call(installation: Installation, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(installation.database, *args, **kwargs)

    return call
