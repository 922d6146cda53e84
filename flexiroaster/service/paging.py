"""Which part of a list is wanted, and what is given back: the words of every listing of the service."""

from __future__ import annotations

from flexiroaster.store.keyset import DEFAULT, MOST, Page, Window

__all__ = ["DEFAULT", "MOST", "Page", "Window"]
