"""What every object with a global id has in common."""

from __future__ import annotations

import strawberry

from flexiroaster.model.viewer import Role
from graphql_api.permissions import fields_require

__all__ = ["Node"]


@fields_require(Role.VIEWER)
@strawberry.interface
class Node:
    """An object that can be asked for again by its id."""

    id: strawberry.ID = strawberry.field(description="Global id; opaque.")
