"""`make bench`: run all benchmarks and write docs/performance.md."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"

Found = dict[tuple[str, str], dict[str, Any]]


def main() -> int:
    """Run the benchmarks and write the page if all of them passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "bench.json"
        options = ["-q", "-p", "no:cacheprovider", "-o", "python_files=bench_*.py", f"--benchmark-json={report}"]
        code = pytest.main([*options, str(ROOT / "tests" / "bench")])
        if code == 0:
            PAGE.write_text(page(json.loads(report.read_text())))
    return int(code)


def page(report: dict[str, Any]) -> str:
    found: Found = {}
    for item in report["benchmarks"]:
        name, _, parameter = item["name"].partition("[")
        found[name, parameter.rstrip("]")] = item
    machine = report["machine_info"]["cpu"]
    return TEMPLATE.format(
        date=datetime.now(UTC).date(),
        cpu=f"{machine.get('brand_raw', 'unknown')}, {machine.get('count')} cores",
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        packages=", ".join(f"{name} {version(name)}" for name in ("polars", "pandas", "sqlalchemy", "psycopg")),
        engine="\n".join(engine(found, database) for database in ("sqlite", "postgresql")),
        flights=flights(found),
        cold=cold(found),
        claims=claims(found),
        pages=pages(found),
        subscribers=subscribers(found),
        fan_out=fan_out(found),
        workers=workers(found),
        load=load(found),
    )


def ms(found: Found, name: str, parameter: str = "") -> float:
    return 1000 * float(median(found[name, parameter]["stats"]["data"]))


def engine(found: Found, database: str) -> str:
    chain = ms(found, "test_chain_of_100", database) / 100
    bare = ms(found, "test_bare_loop_of_100_commits", database) / 100
    fan = ms(found, "test_fan_out_of_200", database)
    rate = 100_000 / ms(found, "test_100_executions_at_once", database)
    return f"| {database} | {chain:.2f} ms | {bare:.2f} ms | {chain / bare:.1f} | {fan:.0f} ms | {rate:.0f}/s |"


def flights(found: Found) -> str:
    ours = ms(found, "test_flights_pipeline")
    rows = [f"| the pipeline, 12 stages in processes | {ours:.0f} ms | |"]
    for name in ("polars", "pandas"):
        peer = ms(found, f"test_flights_by_hand_{name}")
        rows.append(f"| script with {name} | {peer:.0f} ms | {ours / peer:.2f} |")
    return "\n".join(rows)


def cold(found: Found) -> str:
    names = {
        "test_interpreter": "an empty Python process",
        "test_import_flexiroaster": "`import flexiroaster`",
        "test_import_polars": "`import polars`, for comparison",
        "test_first_execution": "`flexiroaster run`: first execution, fresh database",
    }
    return "\n".join(f"| {told} | {ms(found, name):.0f} ms |" for name, told in names.items())


def claims(found: Found) -> str:
    names = {"redis": "Redis", "postgresql": "PostgreSQL's LISTEN and NOTIFY", "sqlite": "polling SQLite"}
    rows = []
    for name, told in names.items():
        info = found["test_claim_by_another_process", name]["extra_info"]
        rows.append(f"| {told} | {info['p50']:.0f} ms | {info['p95']:.0f} ms |")
    return "\n".join(rows)


def pages(found: Found) -> str:
    rows = []
    for database in ("sqlite", "postgresql"):
        took = found["test_a_page_over_graphql", database]["extra_info"]["graphql"]
        rows.append(
            f"| {database} | {took['first']:.1f} ms | {took['deep']:.1f} ms | {took['deep'] / took['first']:.2f} "
            f"| {took['peer']:.1f} ms | {took['first'] / took['peer']:.2f} |"
        )
    return "\n".join(rows)


def workers(found: Found) -> str:
    rows = []
    for redis in ("with", "without"):
        one, two = (max(found["test_workers", f"{count}-{redis}"]["extra_info"]["rates"]) for count in (1, 2))
        rows.append(f"| {redis} Redis | {one:.0f}/s | {two:.0f}/s | {two / one:.2f} |")
    return "\n".join(rows)


def subscribers(found: Found) -> str:
    rows = []
    for database in ("sqlite", "postgresql"):
        took = found["test_subscribers", database]["extra_info"]["subscriptions"]
        late = " | ".join(f"{took[run]['p50']:.0f} / {took[run]['p99']:.0f} ms" for run in ("few", "many", "killed"))
        rows.append(f"| {database} | {late} | {', '.join(f'{size:.0f}' for size in took['idle'])} MB |")
    return "\n".join(rows)


def fan_out(found: Found) -> str:
    took = found["test_fan_out", ""]["extra_info"]["fan_out"]
    names = {"ours": "FlexiRoaster", "peer": "strawberry's own handler, over the same schema and streams"}
    return "\n".join(
        f"| {told} | {took[name]['p50']:.0f} ms | {took[name]['p99']:.0f} ms |" for name, told in names.items()
    )


def load(found: Found) -> str:
    rows = []
    for name, told in {"nothing": "none", "faults": "a worker killed, Redis stopped"}.items():
        took = found["test_load", name]["extra_info"]["load"]
        ours, bare = took["ours"], took["peer"]
        times = " | ".join(f"{each['p50']:.0f} / {each['p99']:.0f} ms" for each in (ours["reads"], ours["starts"]))
        peer = f"{bare['rate']:.0f}/s | {bare['reads']['p50']:.0f} / {bare['reads']['p99']:.0f} ms"
        over = f"{bare['rate'] / ours['rate']:.1f} | {ours['reads']['p50'] / bare['reads']['p50']:.1f}"
        rows.append(f"| {told} | {ours['rate']:.0f}/s | {times} | {peer} | {over} |")
    return "\n".join(rows)


TEMPLATE = """\
# Performance

Written by `make bench` on {date}. {cpu}; {system}; {packages}.
Times are medians; ratios compare measurements of the same run. The machine is shared: quote ratios rather than times.

## Overhead of a stage

Each stage is an empty python function in its own process. Every state change is durable before the next stage starts
(SQLite with `synchronous=FULL`). The bare loop writes the same rows with as many commits and does nothing else.

| database | one stage in a chain of 100 | bare loop, one commit | ratio | 1 -> 200 -> 1 | 100 executions of 3 stages |
| --- | --- | --- | --- | --- | --- |
{engine}

## Real work: 336,776 flights

All variants run in warm processes, read the zipped CSV and write the same Parquet file.

| | time | ratio of the pipeline to it |
| --- | --- | --- |
{flights}

## Cold start

| fresh process | time |
| --- | --- |
{cold}

## Claim latency

The time from a start in a process that drives nothing, including its commit, until a worker has claimed and read the
execution.

| notified by | p50 | p95 |
| --- | --- | --- |
{claims}

## A second worker

100 executions of three stages, each stage an external wait of 20 ms, started on PostgreSQL by a process that drives
nothing. A worker has two stage processes, so one worker can complete at most 33 executions a second.

| | one worker | two workers | ratio |
| --- | --- | --- | --- |
{workers}

## A page of the GraphQL API

50 of 100,000 executions with eight fields, over HTTP from one client. The baseline is a Starlette route that calls the
same service and returns plain JSON.

| database | first page | thousandth | ratio | baseline | ratio of GraphQL to it |
| --- | --- | --- | --- | --- | --- |
{pages}

## Live events

Clients in a separate process follow one execution of 100 stages of 50 ms over WebSockets. The table shows the latency
of an event (p50 / p99) from its timestamp, taken before its commit, to its arrival. Every client must receive every
event once and in order. In the last run, ten of the 200 clients do not read, and the server is killed halfway and
restarted; replayed events do not count in that run. Memory is that of the server without clients, before and after each
run with 200.

| database | 10 clients | 200 clients | 200, server killed | memory |
| --- | --- | --- | --- | --- |
{subscribers}

Latency with 100 sockets on a server that also drives the execution:

| | p50 | p99 |
| --- | --- | --- |
{fan_out}

## Under load

50 clients run for a minute against a server that drives nothing and two workers, on PostgreSQL with Redis; the clients
share the cores with them. Each client sends its next request as soon as it has a response, six of ten over REST and the
others over GraphQL: nine reads (lists, executions with their stages, logs, health, metrics) for each start of a
pipeline of two stages that saves rows. In the second run, a worker receives SIGKILL and Redis is stopped after 20
seconds; 20 seconds later both are back. The baseline is a Starlette route that returns a constant to the same number of
clients. Every response must be the expected one, and every accepted execution must end once and save its rows once.
Times are p50 / p99.

| fault | calls | reads | starts | baseline calls | baseline | ratio of calls | of reads, p50 |
| --- | --- | --- | --- | --- | --- | --- | --- |
{load}

## Time profile of the flights pipeline

Reading and parsing the zipped CSV takes a third of the time, in the pipeline as in the scripts. The pipeline's
additional cost is durability between stages: it writes each stage's table as an Arrow file, which the next stage maps
into memory (71 and 69 MB for the first two; joins and derives write only their new columns), and validation reads all
rows once more. A run on a quiet machine: unzip and parse to Arrow 0.28 s, check all rules 0.20 s, two joins 0.09 s,
derive 0.03 s, aggregate 0.05 s, write Parquet 0.16 s in parallel with the aggregate, write to the database 0.04 s.
"""

if __name__ == "__main__":
    sys.exit(main())
