"""Pagination: the window that a caller requests and the page it gets, shared by all lists of the service."""

from __future__ import annotations

from flexiroaster.store.sql import DEFAULT, MOST, Page, Window

__all__ = ["DEFAULT", "MOST", "Page", "Window"]
