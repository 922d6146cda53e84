"""The Relay interface of objects with a global id."""

from __future__ import annotations

import strawberry

from flexiroaster.model.viewer import Role
from graphql_api.permissions import fields_require

__all__ = ["Node"]


@fields_require(Role.VIEWER)
@strawberry.interface
class Node:
    """An object that `node` can fetch again by its global id."""

    id: strawberry.ID = strawberry.field(description="Global id, opaque to clients.")
