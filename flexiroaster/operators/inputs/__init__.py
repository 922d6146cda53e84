"""Operators that read: each gives one table and takes none."""
