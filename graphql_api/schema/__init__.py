"""The GraphQL schema: `schema` is the one that the server serves and that `graphql_api/schema.graphql` shows."""

from __future__ import annotations

from graphql_api.schema.build import build

__all__ = ["schema"]

schema = build()
