"""`flexiroaster worker` without the fence, to show that the checker finds what the fence keeps out.

The compare-and-set of the journal compares the execution's id only, and events are numbered after the last one that is
there, as a log without a fence does it. Nothing else is different.
"""

from __future__ import annotations

from flexiroaster.store.journal import postgres, sqlite

NEXT = "(SELECT coalesce(max(seq), 0) + 1 FROM events WHERE execution_id = "


def _changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"the statement has changed, so must this test: {old!r}"
        text = text.replace(old, new)
    return text


def disable_the_fence() -> None:
    """Change the two statements of each backend."""
    sqlite._MOVE = _changed(sqlite._MOVE, ("AND fencing_token = ?2 AND last_seq = ?4 AND status = ?3", ""))
    sqlite._ADD_EVENT = _changed(sqlite._ADD_EVENT, ("?2,", f"{NEXT}?1),"))
    postgres._MOVE = _changed(
        postgres._MOVE,
        ("AND x.fencing_token = u.token AND x.last_seq = u.expected_seq AND x.status = u.expected", ""),
        (
            "SELECT u.execution_id, u.seq,",
            f"SELECT u.execution_id, {NEXT}u.execution_id) + row_number() OVER (PARTITION BY u.execution_id "
            "ORDER BY u.seq) - 1,",
        ),
    )


if __name__ == "__main__":
    disable_the_fence()
    from flexiroaster.cli import main

    main()
