"""The command line interface: `flexiroaster`, or `python -m flexiroaster`."""

from flexiroaster.cli.app import main

__all__ = ["main"]
