"""Commits: writes the changes of one driver turn, and reports the executions whose write was rejected."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from flexiroaster.errors import FlexiRoasterError, LeaseLostError, StoreError
from flexiroaster.store.journal.transitions import Transition
from flexiroaster.store.journal.writer import Journal

__all__ = ["commit", "driver_failed"]

logger = logging.getLogger(__name__)

_REFUSED = "cannot write the state of %d executions: %s"

Refusals = dict[str, FlexiRoasterError]


def commit(journal: Callable[[], Journal], transitions: Sequence[Transition]) -> Refusals:
    """Write all transitions. Returns the error of each execution whose write was rejected, by id; abandon these.

    A defect, such as a transition that cannot be encoded, fails only its own execution.
    """
    if not transitions:
        return {}
    ids = [transition.execution_id for transition in transitions]
    try:
        landed, refused = journal().apply_each(transitions)
    except StoreError as error:  # no connection for a journal
        logger.error(_REFUSED, len(ids), error)  # noqa: TRY400 - the message has the cause
        return dict.fromkeys(ids, error)
    _log(refused)
    lost = {i: LeaseLostError(f"another driver has taken over {i}") for i in ids if i not in landed | refused}
    for refusal in lost.values():
        logger.warning("a write was rejected: %s", refusal)
    return {**refused, **lost}


def _log(refused: Mapping[str, StoreError]) -> None:
    """Log one line if the database refuses or is unavailable, and each defect with its traceback."""
    defects = {i: e.__cause__ for i, e in refused.items() if isinstance(e.__cause__, Exception)}
    defects = {i: cause for i, cause in defects.items() if not isinstance(cause, StoreError)}
    for execution_id, cause in defects.items():
        logger.error("cannot write the state of execution %s", execution_id, exc_info=cause)
    others = {i: error for i, error in refused.items() if i not in defects}
    if others:
        logger.error(_REFUSED, len(others), next(iter(others.values())))


def driver_failed(error: BaseException) -> StoreError:
    """The error that waiters get for an execution that was abandoned because of a defect."""
    return StoreError(f"the driver failed: {error!r}")
