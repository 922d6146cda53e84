"""Mutations: one `input`, and a union of what came of it with the errors that are to be expected."""
