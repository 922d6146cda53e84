"""Operators that judge a table and hand it on."""
