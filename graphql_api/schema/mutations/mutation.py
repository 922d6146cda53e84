"""The base of all mutations: a required role, and an audit log entry for each call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import strawberry
from strawberry.extensions import FieldExtension

from flexiroaster.errors import FlexiRoasterError, StoreError
from flexiroaster.model.viewer import Role
from flexiroaster.service.admin import audit
from graphql_api.context import Info
from graphql_api.permissions import requires
from graphql_api.schema.inputs import plain
from graphql_api.schema.relay import bare

__all__ = ["mutation"]

_log = logging.getLogger(__name__)

FAILED = "error.internal"
"""The outcome of a mutation that ended in an unexpected error."""


class _Audited(FieldExtension):
    """Records the viewer, the arguments and the outcome of a mutation, also if it is refused or fails."""

    def resolve(self, next_: Callable[..., Any], source: object, info: Info, **arguments: Any) -> Any:  # noqa: ANN401 - strawberry's signature
        outcome = FAILED
        try:
            result = next_(source, info, **arguments)
            outcome = "ok"
        except FlexiRoasterError as error:
            outcome = error.code
            raise
        finally:
            _record(info, arguments.get("input"), outcome)
        return result


def _record(info: Info, given: object, outcome: str) -> None:
    context = info.context
    arguments = plain(given)
    subject = arguments.get("id") or arguments.get("pipeline_id")
    try:
        audit.record(
            context.installation,
            viewer=context.viewer,
            action=info.field_name,
            subject=None if subject is None else bare(str(subject)),
            arguments=arguments,
            outcome=outcome,
            request_id=context.request_id or None,
        )
    except StoreError as error:  # the mutation has already taken effect, so it must not fail now
        _log.error("audit log not written: %s of %s, %s: %s", info.field_name, context.viewer.name, outcome, error)


def mutation(resolver: Callable[..., Any], description: str, role: Role = Role.OPERATOR) -> Any:  # noqa: ANN401 - a field of the type it is assigned to
    """Return a mutation field that requires a role and is recorded in the audit log."""
    return strawberry.mutation(
        resolver=resolver, description=description, metadata=requires(role), extensions=[_Audited()]
    )
