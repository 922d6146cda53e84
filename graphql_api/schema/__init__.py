"""The schema: `schema` is what the server serves and what `schema.graphql` beside this package shows."""

from __future__ import annotations

from graphql_api.schema.build import build

__all__ = ["schema"]

schema = build()
