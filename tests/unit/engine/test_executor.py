"""The state machine of one execution, without processes or a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.model.event import Level
from flexiroaster.model.execution import MOVES, STAGE_ENDED, STAGE_MOVES, TERMINAL
from flexiroaster.model.pipeline import Pipeline, parse_pipeline

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BOOM = {"type": "RuntimeError", "message": "boom", "class": "unknown"}
WRONG = {"type": "TypeError", "message": "wrong", "class": "code"}


def pipeline(edges: dict[str, list[str]], **fields: dict[str, Any]) -> Pipeline:
    stages = [
        {
            "id": i,
            "type": "transform",
            "dependencies": wanted,
            "max_retries": 0,
            "retry_delay": 1.0,
            "retry_backoff": 2.0,
            **fields.get(i, {}),
        }
        for i, wanted in edges.items()
    ]
    return parse_pipeline({"id": "p", "name": "Pipe", "stages": stages})


def begun(edges: dict[str, list[str]], **fields: dict[str, Any]) -> Execution:
    execution = Execution("x", pipeline(edges, **fields), {}, token=1)
    execution.begin(T0)
    return execution


def start_all(execution: Execution) -> list[str]:
    started = []
    while (task := execution.start_next(T0)) is not None:
        started.append(task.stage_id)
    return started


def states(execution: Execution) -> dict[str, str]:
    return {i: str(run.status) for i, run in execution.stages.items()}


DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


def test_a_diamond_runs_in_order_and_completes() -> None:
    x = begun(DIAMOND)
    assert start_all(x) == ["a"]
    x.stage_completed("a", {"rows": 1}, T0)
    assert start_all(x) == ["b", "c"]
    x.stage_completed("c", {"rows": 3}, T0)
    assert start_all(x) == []
    x.stage_completed("b", {"rows": 2}, T0)
    task = x.start_next(T0)
    assert task is not None
    assert task.inputs == {"b": {"rows": 2}, "c": {"rows": 3}}, "all dependencies' tables, by stage id, in order"
    assert list(task.inputs) == ["b", "c"]
    x.stage_completed("d", {}, T0 + timedelta(seconds=5))
    assert (x.status, x.completed, x.completed_at) == ("completed", 4, T0 + timedelta(seconds=5))


def test_an_end_and_the_next_start_are_one_transition() -> None:
    x = begun({"a": [], "b": ["a"]})
    start_all(x)
    first = x.collect_transition()
    assert first is not None
    assert (first.expected, first.status, first.expected_seq, first.last_seq) == ("pending", "running", 1, 3)
    x.stage_completed("a", {"rows": 7}, T0)
    start_all(x)
    second = x.collect_transition()
    assert second is not None
    assert [e.type for e in second.events] == ["stage.completed", "stage.started"]
    assert [(s.stage_id, s.status, s.output) for s in second.stages] == [
        ("a", "completed", {"rows": 7}),
        ("b", "running", None),
    ]
    assert (second.expected_seq, [e.seq for e in second.events]) == (3, [4, 5])
    assert x.collect_transition() is None


def test_a_critical_failure_lets_running_stages_finish_and_skips_the_rest() -> None:
    x = begun({"a": [], "b": [], "c": ["b"]})
    assert start_all(x) == ["a", "b"]
    x.stage_failed("a", WRONG, T0)
    assert states(x) == {"a": "failed", "b": "running", "c": "skipped"}
    assert x.status == "running"
    x.stage_completed("b", {}, T0)
    assert states(x) == {"a": "failed", "b": "completed", "c": "skipped"}
    assert x.status == "failed"
    assert x.error == {"message": "Stage 'a' failed: wrong", "class": "code", "stage_id": "a"}
    assert x.stages["c"].error == {"message": "skipped: the critical stage 'a' failed", "class": "cancelled"}


def test_below_a_failed_stage_that_is_not_critical_everything_is_skipped_and_the_rest_goes_on() -> None:
    edges = {"a": [], "b": ["a"], "c": ["b"], "d": [], "e": ["c", "d"]}
    x = begun(edges, a={"is_critical": False})
    start_all(x)
    x.stage_failed("a", WRONG, T0)
    x.stage_completed("d", {}, T0)
    assert states(x) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "completed", "e": "skipped"}
    assert x.stages["b"].error == {"message": "skipped: its dependency 'a' was failed", "class": "cancelled"}
    assert x.stages["e"].error == {"message": "skipped: its dependency 'c' was skipped", "class": "cancelled"}
    assert x.status == "completed"
    last = x.collect_transition().events[-1]
    assert last.message == "Execution completed: 1 of 5 stages; not completed: a, b, c, e"


def test_a_long_chain_is_skipped_without_recursion() -> None:
    edges = {"s0": []} | {f"s{i}": [f"s{i - 1}"] for i in range(1, 5000)}
    x = begun(edges, s0={"is_critical": False})
    start_all(x)
    x.stage_failed("s0", WRONG, T0)
    assert x.status == "completed"


def test_a_retry_waits_and_then_starts_again() -> None:
    x = begun({"a": []}, a={"max_retries": 2})
    start_all(x)
    x.stage_failed("a", BOOM, T0)
    assert T0 <= x.retries["a"] <= T0 + timedelta(seconds=1)
    run = x.stages["a"]
    assert (run.status, run.retry_at) == ("waiting", x.retries["a"])
    assert start_all(x) == []
    x.retry("a")
    task = x.start_next(T0)
    assert task is not None
    assert task.attempt == 2
    x.stage_completed("a", {}, T0)
    assert (x.status, x.stages["a"].error) == ("completed", None)


def test_attempts_end_and_the_message_says_how_many_there_were() -> None:
    x = begun({"a": []}, a={"max_retries": 1})
    start_all(x)
    x.stage_failed("a", BOOM, T0)
    x.retry("a")
    start_all(x)
    x.stage_failed("a", BOOM, T0)
    assert x.status == "failed"
    assert [e.message for e in x.collect_transition().events[-2:]] == [
        "Stage failed after 2 attempts: a: boom",
        "Execution failed: Stage 'a' failed: boom",
    ]


def test_an_error_that_no_repetition_mends_is_not_retried() -> None:
    x = begun({"a": []}, a={"max_retries": 5})
    start_all(x)
    x.stage_failed("a", WRONG, T0)
    assert x.status == "failed"


def test_retry_on_says_which_classes_are_repeated() -> None:
    x = begun({"a": []}, a={"max_retries": 5, "retry_on": ["code"]})
    start_all(x)
    x.stage_failed("a", WRONG, T0)
    assert states(x) == {"a": "waiting"}


def test_the_other_side_may_ask_for_a_longer_wait() -> None:
    x = begun({"a": []}, a={"max_retries": 1})
    start_all(x)
    x.stage_failed("a", BOOM | {"class": "transient", "retry_after": 77.0}, T0)
    assert x.retries == {"a": T0 + timedelta(seconds=77)}


def test_after_a_critical_failure_nothing_is_retried() -> None:
    x = begun({"a": [], "b": []}, b={"max_retries": 5})
    start_all(x)
    x.stage_failed("a", WRONG, T0)
    x.stage_failed("b", BOOM, T0)
    assert x.status == "failed"


def test_a_stage_waiting_for_its_retry_is_cancelled_by_a_critical_failure() -> None:
    x = begun({"a": [], "b": []}, b={"max_retries": 5})
    start_all(x)
    x.stage_failed("b", BOOM, T0)
    x.stage_failed("a", WRONG, T0)
    assert states(x) == {"a": "failed", "b": "cancelled"}
    assert x.status == "failed"


@pytest.mark.parametrize("when", ["before", "running", "waiting"])
def test_stop_at_any_time(when: str) -> None:
    x = begun({"a": [], "b": ["a"]}, a={"max_retries": 5})
    if when != "before":
        start_all(x)
    if when == "waiting":
        x.stage_failed("a", BOOM, T0)
    x.stop("enough", T0)
    if when == "running":
        assert x.status == "running"
        x.stage_failed("a", {"message": "stopped", "class": "cancelled"}, T0)
    assert states(x) == {"a": "cancelled", "b": "cancelled"}
    assert x.status == "cancelled"
    assert x.collect_transition().events[-1].message == "Execution cancelled: enough"
    x.retry("a")
    assert start_all(x) == [], "a late timer starts nothing"


def test_a_result_that_comes_while_stopping_counts() -> None:
    x = begun({"a": [], "b": ["a"]})
    start_all(x)
    x.stop("enough", T0)
    x.stage_completed("a", {"rows": 1}, T0)
    assert states(x) == {"a": "completed", "b": "cancelled"}
    assert x.status == "cancelled"


def test_a_whole_execution_that_takes_too_long_fails() -> None:
    x = begun({"a": [], "b": ["a"]})
    start_all(x)
    x.time_out(60, T0)
    x.stage_failed("a", {"message": "stopped", "class": "cancelled"}, T0)
    assert (x.status, x.error["message"], x.error["class"]) == (
        "failed",
        "The execution exceeded its time limit of 60 s",
        "timeout",
    )


def test_logs_and_progress_are_events_of_the_attempt() -> None:
    x = begun({"a": []})
    start_all(x)
    x.collect_transition()
    x.log("a", Level.ERROR, "ouch", T0, {"traceback": "..."})
    x.progress("a", 0.5, "", T0)
    log, progress = x.collect_transition().events
    assert (log.type, log.level, log.message, log.stage_id, log.attempt) == ("stage.log", "error", "ouch", "a", 1)
    assert (progress.type, progress.message, progress.data) == ("stage.progress", "50%", {"fraction": 0.5})


@st.composite
def dags(draw: st.DrawFn) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]]]:
    count = draw(st.integers(1, 8))
    edges = {
        f"s{i}": sorted(draw(st.sets(st.sampled_from([f"s{j}" for j in range(i)])))) if i else [] for i in range(count)
    }
    fields = {
        i: {"is_critical": draw(st.booleans()), "max_retries": draw(st.integers(0, 2)), "retry_delay": 0.0}
        for i in edges
    }
    return edges, fields


@given(dags(), st.data())
def test_whatever_happens_it_ends_in_the_table_with_a_gapless_log(graph, data) -> None:
    """Any graph under any order of results, failures, retries, stops and timeouts."""
    edges, fields = graph
    x = Execution("x", pipeline(edges, **fields), {}, token=1)
    taken = []
    seen = {i: run.status for i, run in x.stages.items()}
    status = x.status
    x.begin(T0)
    running: list[str] = []
    waiting: list[str] = []
    while not x.ended:
        choices = ["start"] * bool(x.ready) + ["ok", "fail", "wrong"] * bool(running) + ["retry"] * bool(waiting)
        choice = data.draw(st.sampled_from([*choices, "stop", "time_out"] if choices else ["stop"]))
        if choice == "start":
            running.append(x.start_next(T0).stage_id)
        elif choice == "retry":
            x.retry(waiting.pop())
        elif choice == "stop":
            x.stop("why not", T0)
        elif choice == "time_out":
            x.time_out(1, T0)
        else:
            stage_id = running.pop(data.draw(st.integers(0, len(running) - 1)))
            if choice == "ok":
                x.stage_completed(stage_id, {}, T0)
            else:
                x.stage_failed(stage_id, BOOM if choice == "fail" else WRONG, T0)
                if stage_id in x.retries:
                    waiting.append(stage_id)
        if choice in {"stop", "time_out"}:
            while running:
                x.stage_failed(running.pop(), {"message": "stopped", "class": "cancelled"}, T0)
        transition = x.collect_transition()
        if transition is not None:
            assert transition.expected == status
            assert transition.status == status or transition.status in MOVES[status] or status == "pending"
            status = transition.status
            taken.append(transition)
            for change in transition.stages:
                reachable = STAGE_MOVES[seen[change.stage_id]]
                allowed = reachable.union(*(STAGE_MOVES[s] for s in reachable))
                assert change.status in allowed or change.status == seen[change.stage_id]
                seen[change.stage_id] = change.status
    numbers = [e.seq for t in taken for e in t.events]
    assert numbers == list(range(2, len(numbers) + 2))
    assert x.status in TERMINAL
    assert all(run.status in STAGE_ENDED for run in x.stages.values())
    assert seen == {i: run.status for i, run in x.stages.items()}, "every change was written"
    assert x.completed == sum(run.status == "completed" for run in x.stages.values())
