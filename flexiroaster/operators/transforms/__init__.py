"""Operators that take tables and give one."""
