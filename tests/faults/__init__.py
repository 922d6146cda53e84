"""Faults on purpose: real worker processes are killed and frozen, and a checker reads what is left.

`make test` runs each test with few trials, `make faults` with many and writes the figures into docs/promises.md.
"""
