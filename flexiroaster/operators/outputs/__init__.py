"""Operators that write: they take effect once and know how to undo it."""
