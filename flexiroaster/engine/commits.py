"""Writes what changed in a turn of the driver, and says of each execution whether that landed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from flexiroaster.errors import FlexiRoasterError, LeaseLostError, StoreError
from flexiroaster.store.changes import Transition
from flexiroaster.store.journal import Journal

__all__ = ["commit", "driver_failed"]

logger = logging.getLogger(__name__)

Refusals = dict[str, FlexiRoasterError]


def commit(journal: Callable[[], Journal], transitions: Sequence[Transition]) -> Refusals:
    """Write all in one transaction; why which executions must be given up, by id: those whose change did not land.

    A defect (what a transition holds cannot be encoded, say) fails only the execution that has it: each is then written
    by itself, and what was written before does not land twice.
    """
    if not transitions:
        return {}
    ids = [transition.execution_id for transition in transitions]
    try:
        landed = journal().apply(transitions)
    except StoreError as error:
        logger.error("cannot write the state of %d executions: %s", len(ids), error)  # noqa: TRY400 - the cause is in the message
        return dict.fromkeys(ids, error)
    except Exception as error:
        if len(transitions) > 1:
            alone = [commit(journal, [transition]) for transition in transitions]
            return {execution_id: refusal for refusals in alone for execution_id, refusal in refusals.items()}
        logger.exception("cannot write the state of execution %s", ids[0])
        return {ids[0]: driver_failed(error)}
    lost = {i: LeaseLostError(f"another driver has taken over {i}") for i in ids if i not in landed}
    for refusal in lost.values():
        logger.warning("a write did not land: %s", refusal)
    return dict(lost)


def driver_failed(error: BaseException) -> StoreError:
    """What those are told who wait for an execution that the driver gave up for a defect."""
    return StoreError(f"the driver failed: {error!r}")
