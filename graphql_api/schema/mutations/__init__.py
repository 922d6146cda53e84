"""Mutations: each takes one `input` and returns a union of its result and its expected errors."""
