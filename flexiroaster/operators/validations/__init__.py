"""Validations: operators that check a table and pass it on."""
