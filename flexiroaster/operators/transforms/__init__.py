"""Transforms: operators from input tables to one table."""
