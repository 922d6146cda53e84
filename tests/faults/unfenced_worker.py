"""`flexiroaster worker` without the fence, to show that the checker finds what the fence keeps out.

The compare-and-set of the journal compares the execution's id only, and events are numbered after the last one that is
there, as a log without a fence does it. Nothing else is different.
"""

from __future__ import annotations

from flexiroaster.store.journal import postgres, rows, sqlite

NEXT = "(SELECT coalesce(max(seq), 0) + 1 FROM events WHERE execution_id = "


def _changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"the statement has changed, so must this test: {old!r}"
        text = text.replace(old, new)
    return text


def disable_the_fence() -> None:
    """Change the two statements of each backend."""
    fence = "AND fencing_token = :token AND last_seq = :expected_seq AND status = :expected"
    sqlite._MOVE = sqlite._Statement(_changed(sqlite._MOVE.named, (fence, "")), rows.TRANSITION)
    added = _changed(sqlite._ADD_EVENT.named, (":seq,", f"{NEXT}:execution_id),"))
    sqlite._ADD_EVENT = sqlite._Statement(added, rows.EVENT)
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
