"""Invalid definitions, each with the exact messages a user gets. `a` is an input stage, `b` the invalid one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

A: dict[str, Any] = {"id": "a", "type": "input", "config": {"source": "api", "data": [{"x": 1}]}}
TYPES = "'input', 'transform', 'validation' or 'output'"
CLASSES = "'transient', 'timeout', 'crash', 'resource', 'data', 'code', 'configuration', 'cancelled' or 'unknown'"
FORMATS = ".csv, .tsv, .tab, .parquet, .pq, .json, .ndjson, .jsonl, .arrow, .ipc, .feather"
OPERATIONS = (
    "aggregate, cast, concat, deduplicate, derive, fill_missing, filter, join, normalize, passthrough, python, rename, "
    "select, sort and sql"
)
STAGE_ID = "must consist of letters, digits, _, . and -, and start with a letter, a digit or _"

SETTINGS: dict[str, Any] = {"connections": {"warehouse": "sqlite:///w.db"}, "python_modules": ("steps",)}
"""What the installation of these tests allows."""


class Case(NamedTuple):
    """A definition, and all its problems in order."""

    name: str
    raw: Any
    problems: list[str]


def pipeline(*stages: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "Bad", "stages": list(stages), **fields}


def with_a(**changes: Any) -> dict[str, Any]:
    return pipeline({**A, **changes})


def source(**config: Any) -> dict[str, Any]:
    return pipeline({**A, "config": config})


def transform(**config: Any) -> dict[str, Any]:
    return pipeline(A, {"id": "b", "type": "transform", "config": config, "dependencies": ["a"]})


def rules(**config: Any) -> dict[str, Any]:
    return pipeline(A, {"id": "b", "type": "validation", "config": config, "dependencies": ["a"]})


def output(**config: Any) -> dict[str, Any]:
    return pipeline(A, {"id": "b", "type": "output", "config": config, "dependencies": ["a"]})


def two_inputs(**config: Any) -> dict[str, Any]:
    last = {"id": "b", "type": "transform", "config": config, "dependencies": ["a", "c"]}
    return pipeline(A, {**A, "id": "c"}, last)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


WHOLE = [
    Case("null", None, ["a pipeline must be a mapping with name and stages, not null"]),
    Case("a list", [1], ["a pipeline must be a mapping with name and stages, not [1]"]),
    Case("nothing in it", {}, ["name: is required", "stages: is required"]),
    Case("no stage", {"name": "x", "stages": []}, ["stages: a pipeline needs at least one stage"]),
    Case("stages as a mapping", {"name": "x", "stages": {"a": 1}}, ['stages: must be a list, not {"a": 1}']),
    Case("stages left out", {"name": "x", "stages": None}, ["stages: must be a list, not null"]),
    Case("stage that is none", pipeline(A, None, "a"), [
        "stages[1]: must be a mapping, not null",
        'stages[2]: must be a mapping, not "a"',
    ]),
    Case("only stage is broken", pipeline({"id": "a"}), ["stages[0].type: is required"]),
    Case("name as a number", pipeline(A, name=3), ['name: must be text, not 3; write "3"']),
    Case("blank name", pipeline(A, name="  "), ["name: must not be empty"]),
    Case("long name", pipeline(A, name="x" * 300), ["name: must have at most 255 characters, not 300"]),
    Case("version as a number", pipeline(A, version=1.0), ['version: must be text, not 1.0; write "1.0"']),
    Case("fields nobody knows", {"name": "x", "stage": [A], "retries": 3}, [
        "stages: is required",
        "stage: is not a known field; did you mean 'stages'?",
        "retries: is not a known field; known are id, name, description, version, is_active, schedule, stages, "
        "variables, timeout, concurrency, on_conflict and config",
    ]),
    Case("odd limits", pipeline(A, timeout="soon", is_active="perhaps", concurrency=0), [
        'is_active: must be true or false, not "perhaps"',
        'timeout: must be a number, not "soon"',
        "concurrency: must be at least 1, not 0",
    ]),
    Case("endless timeout", pipeline(A, timeout=math.inf), ["timeout: must be at most 31536000, not Infinity"]),
    Case("variables as a list", pipeline(A, variables=[1]), ["variables: must be a mapping, not [1]"]),
    Case("number as a key", pipeline(A, variables={1: 2}), ['variables: a key must be text, not 1; write "1"']),
    Case("values without JSON", pipeline(A, variables={
        "n": math.nan, "s": {1}, "o": object(), "i": 2**70, "t": ["a\0", "\ud800"],
    }), [
        "variables.n: is NaN, which JSON cannot represent; use null or text",
        "variables.s: is a Python set, which JSON cannot represent",
        "variables.o: is a Python object, which JSON cannot represent",
        "variables.i: is an integer beyond 64 bits; write it as text",
        "variables.t[0]: contains the character NUL, which databases refuse",
        "variables.t[1]: is not valid Unicode text (a lone surrogate at position 0)",
    ]),
    Case("too deep", source(source="api", data=[{"x": nested(5000)}]), [
        "stages[0].config: is nested more than 100 levels deep",
    ]),
    Case("within itself", pipeline(A, variables={"v": endless()}), [
        "variables.v[0]: is nested more than 100 levels deep",
    ]),
]  # fmt: skip
"""Of the whole pipeline."""

STAGES = [
    Case("odd ids", pipeline({**A, "id": 7}, {**A, "id": "a b"}, {**A, "id": ""}, {**A, "id": ".a"}), [
        'stages[0].id: must be text, not 7; write "7"',
        f'stages[1].id: {STAGE_ID}, not "a b"',
        "stages[2].id: must not be empty",
        f'stages[3].id: {STAGE_ID}, not ".a"',
    ]),
    Case("type", with_a(type="inptu"), [f'stages[0].type: must be one of {TYPES}, not "inptu"']),
    Case("type of 5 MB", with_a(type="q" * 5_000_000), [
        f'stages[0].type: must be one of {TYPES}, not "{"q" * 56}...',
    ]),
    Case("fields of other tools", with_a(depends_on=["b"], retires=3), [
        "stages[0].depends_on: is not a known field; did you mean 'dependencies'?",
        "stages[0].retires: is not a known field; did you mean 'max_retries' or 'retry_delay'?",
    ]),
    Case("config", pipeline({**A, "config": None}, {**A, "id": "b", "config": "api"}), [
        "stages[0].config: must be a mapping, not null",
        'stages[1].config: must be a mapping, not "api"',
    ]),
    Case("dependencies", pipeline(A, {**A, "id": "b", "dependencies": "a"}, {**A, "id": "c", "dependencies": [1]}), [
        'stages[1].dependencies: must be a list, not "a"; write ["a"]',
        'stages[2].dependencies[0]: must be text, not 1; write "1"',
    ]),
    Case("numbers", with_a(timeout=-1, max_retries=1.5, retry_delay="1s", retry_backoff=0.5, memory_limit="1GB"), [
        "stages[0].timeout: must be greater than 0, not -1",
        "stages[0].max_retries: must be a whole number, not 1.5",
        'stages[0].retry_delay: must be a number, not "1s"',
        "stages[0].retry_backoff: must be at least 1, not 0.5",
        'stages[0].memory_limit: must be a whole number, not "1GB"',
    ]),
    Case("classes of errors", with_a(retry_on=["transiant"]), [
        f'stages[0].retry_on[0]: must be one of {CLASSES}, not "transiant"',
    ]),
    Case("one class of errors", with_a(retry_on="data"), [
        'stages[0].retry_on: must be a list, not "data"; write ["data"]',
    ]),
    Case("two of one id", pipeline(A, A), ["stages[1].id: duplicate stage id 'a', first used by stages[0]"]),
    Case("unknown stages", pipeline({**A, "id": "load"}, {**A, "dependencies": ["laod", "zzz", "load", "load"]}), [
        "stages[1].dependencies[0]: unknown stage 'laod'; did you mean 'load'?",
        "stages[1].dependencies[1]: unknown stage 'zzz'",
        "stages[1].dependencies[3]: 'load' is listed twice",
    ]),
    Case("on itself", with_a(dependencies=["a"]), ["stages[0].dependencies[0]: dependency cycle: a -> a"]),
    Case("in a circle", pipeline(*({**A, "id": i, "dependencies": [d]} for i, d in ("ac", "ba", "cb"))), [
        "stages: dependency cycle: a -> b -> c -> a",
    ]),
]  # fmt: skip
"""Of stages and of the graph they make."""

OPERATORS = [
    Case("no source", source(), ["stages[0].config.source: is required: one of api, file, http, sql"]),
    Case("source", source(source="fiel"), ["stages[0].config.source: unknown source 'fiel'; did you mean 'file'?"]),
    Case("source as a list", source(source=["file"]), [
        'stages[0].config.source: must be one of api, file, http, sql, not ["file"]',
    ]),
    Case("operation", transform(operation="agregate"), [
        "stages[1].config.operation: unknown operation 'agregate'; did you mean 'aggregate' or 'rename'?",
    ]),
    Case("operation near none", transform(operation="qqqqq"), [
        f"stages[1].config.operation: unknown operation 'qqqqq'; known are {OPERATIONS}",
    ]),
    Case("operation by variable", transform(operation="${op}"), [
        "stages[1].config.operation: unknown operation '${op}'; this field does not accept ${...}",
    ]),
    Case("destination", output(destination="databse"), [
        "stages[1].config.destination: unknown destination 'databse'; did you mean 'database'?",
    ]),
    Case("too few tables", transform(operation="join", on="x"), [
        "stages[1].dependencies: 'join' needs 2 input tables, found 1",
    ]),
    Case("too many tables", two_inputs(operation="sort", by="x"), [
        "stages[2].dependencies: 'sort' takes one input table, found 2; join or concat them first",
    ]),
    Case("placeholders that are none", transform(operation="filter", where="x > ${my-day} AND y < ${ z }"), [
        "stages[1].config.where: '${my-day}' is not a valid variable: use letters, digits and _ in a name; "
        "write $${ for a literal ${",
        "stages[1].config.where: '${ z }' is not a valid variable: use letters, digits and _ in a name; "
        "write $${ for a literal ${",
    ]),
]  # fmt: skip
"""Which operator, and what of it can be told without its config."""

INPUTS = [
    Case("no path", source(source="file"), ["stages[0].config.path: is required"]),
    Case("path", source(source="file", path=3), ["stages[0].config.path: must be text or a list, not 3"]),
    Case("paths", source(source="file", path=["a.csv", 3, ""]), [
        'stages[0].config.path[1]: must be text, not 3; write "3"',
        "stages[0].config.path[2]: must not be empty",
    ]),
    Case("outside", source(source="file", path="/etc/x.csv"), [
        "stages[0].config.path: file '/etc/x.csv' is outside the allowed roots (FILE_ROOTS): .",
    ]),
    Case("upwards", source(source="file", path="../x.csv"), [
        "stages[0].config.path: file '../x.csv' is outside the allowed roots (FILE_ROOTS): .",
    ]),
    Case("web address", source(source="file", path="https://h/x.csv"), [
        "stages[0].config.path: 'https://h/x.csv': read web addresses with the http input",
    ]),
    Case("no format", source(source="file", path="data"), [
        "stages[0].config.format: cannot tell the format of 'data' from its name "
        f"(known suffixes: {FORMATS}): set `format`",
    ]),
    Case("options", source(source="file", path="a.csv", format="xlsx", encoding="utf9", separator="||"), [
        "stages[0].config.separator: must be one ASCII character, not '||'",
        "stages[0].config.encoding: unknown encoding 'utf9'",
        "stages[0].config.format: must be one of 'auto', 'csv', 'tsv', 'parquet', 'json', 'ndjson' or 'arrow', "
        'not "xlsx"',
    ]),
    Case("more options", source(source="file", path="a.csv", columns=[], null_values="NA", rows="5x", shcema={}), [
        "stages[0].config.columns: must not be empty",
        'stages[0].config.null_values: must be a list, not "NA"; write ["NA"]',
        'stages[0].config.rows: must be a whole number, not "5x"',
        "stages[0].config.shcema: is not a known field; did you mean 'schema'?",
    ]),
    Case("types", source(source="file", path="a.csv", schema={"x": "integr", "y": 3}), [
        "stages[0].config.schema.x: unknown type 'integr'; did you mean 'integer' or 'int' or 'category'?",
        'stages[0].config.schema.y: must be text, not 3; write "3"',
    ]),
    Case("records", source(source="api", data=[{"x": 1}, 3, "y"]), [
        "stages[0].config.data[1]: must be a mapping, not 3",
        'stages[0].config.data[2]: must be a mapping, not "y"',
    ]),
    Case("connection", source(source="sql", connection="warehose", query="SELECT 1"), [
        "stages[0].config.connection: unknown connection 'warehose'; did you mean 'warehouse'?",
    ]),
    Case("query with a variable", source(source="sql", connection="warehouse", query="SELECT ${day}"), [
        "stages[0].config.query: does not accept ${...}: pass values in `parameters`",
    ]),
    Case("parameters", source(source="sql", connection="warehouse", query="SELECT :a", parameters={"b": 1}), [
        "stages[0].config.parameters: has no value for :a in the query",
        "stages[0].config.parameters.b: the query has no :b",
    ]),
    Case("scheme", source(source="http", url="ftp://x"), ["stages[0].config.url: must be an http:// or https:// URL"]),
    Case("private address", source(source="http", url="http://127.0.0.1/x"), [
        "stages[0].config.url: 127.0.0.1 is a private or reserved address; list the host in HTTP_ALLOWED_HOSTS to "
        "allow it",
    ]),
    Case("pagination", source(source="http", url="https://x", pagination={"type": "pag"}), [
        "stages[0].config.pagination.type: must be one of 'link', 'cursor', 'page', not \"pag\"",
    ]),
    Case("pages", source(source="http", url="https://x", pagination={"type": "page"}), [
        "stages[0].config.pagination.param: is required",
    ]),
    Case("secret", source(source="http", url="https://x", headers={"Authorization": {"secrt": "X"}, "b": 3}), [
        "stages[0].config.headers.Authorization.secret: is required",
        "stages[0].config.headers.Authorization.secrt: is not a known field; did you mean 'secret'?",
        "stages[0].config.headers.b: must be text or a mapping, not 3",
    ]),
]  # fmt: skip
"""Configs of inputs."""

TRANSFORMS = [
    Case("both ways", transform(operation="select"), ["stages[1].config: give either 'columns' or 'exclude'"]),
    Case("columns", transform(operation="select", columns="x"), [
        'stages[1].config.columns: must be a list, not "x"; write ["x"]',
    ]),
    Case("nothing to rename", transform(operation="rename", columns={}), [
        "stages[1].config.columns: must not be empty",
    ]),
    Case("cast", transform(operation="cast", columns={"x": "intt"}, on_error="skip"), [
        "stages[1].config.columns.x: unknown type 'intt'; did you mean 'int'?",
        "stages[1].config.on_error: must be 'fail' or 'null', not \"skip\"",
    ]),
    Case("expression", transform(operation="derive", columns={"y": "x +", "z": 3}), [
        'stages[1].config.columns.z: must be text, not 3; write "3"',
    ]),
    Case("expressions", transform(operation="derive", columns={"y": "x +", "z": " "}), [
        "stages[1].config.columns.y: cannot be parsed as an SQL expression: 'x +'",
        "stages[1].config.columns.z: the expression is empty",
    ]),
    Case("files in SQL", transform(operation="filter", where="read_csv('/etc/passwd')"), [
        "stages[1].config.where: READ_CSV is not allowed in SQL: read files with an input stage: "
        "\"read_csv('/etc/passwd')\"",
    ]),
    Case("field", transform(operation="filter", wher="x"), [
        "stages[1].config.where: is required",
        "stages[1].config.wher: is not a known field; did you mean 'where'?",
    ]),
    Case("no fields", transform(operation="passthrough", x=1), [
        "stages[1].config.x: is not a known field; there are none",
    ]),
    Case("aggregations", transform(operation="aggregate", by=3, aggregations={}), [
        "stages[1].config.by: must be a list, not 3",
        "stages[1].config.aggregations: must not be empty",
    ]),
    Case("aggregation", transform(operation="aggregate", aggregations={
        "p": 3, "q": {"col": "x"}, "r": {"column": "x", "function": "quantile", "quantile": 90},
    }), [
        "stages[1].config.aggregations.p: must be text or a mapping, not 3",
        "stages[1].config.aggregations.q.column: is required",
        "stages[1].config.aggregations.q.function: is required",
        "stages[1].config.aggregations.q.col: is not a known field; did you mean 'column'?",
        "stages[1].config.aggregations.r.quantile: must be at most 1, not 90",
    ]),
    Case("keys", two_inputs(operation="join"), [
        "stages[2].config: give either 'on' or both 'left_on' and 'right_on'",
    ]),
    Case("side", two_inputs(operation="join", on="x", left="zz"), [
        "stages[2].config.left: 'zz' is not a dependency of this stage; dependencies are 'a', 'c'",
    ]),
    Case("alias", two_inputs(operation="join", on="x", how="outer", validte="1:1"), [
        "stages[2].config.how: must be one of 'inner', 'left', 'right', 'full', 'semi', 'anti' or 'cross', "
        'not "outer"',
        "stages[2].config.validte: is not a known field; did you mean 'validate'?",
    ]),
    Case("directions", transform(operation="sort", by=["x", "y"], descending=[True]), [
        "stages[1].config: 'descending' and 'by' must have the same length, not 1 and 2",
    ]),
    Case("direction", transform(operation="sort", by="x", descending="x"), [
        'stages[1].config.descending: must be true or false or a list, not "x"',
    ]),
    Case("NaN", transform(operation="fill_missing", columns={"x": math.nan}), [
        "stages[1].config.columns.x: is NaN, which JSON cannot represent; use null or text",
    ]),
    Case("filling", transform(operation="fill_missing", columns={"x": [1]}), [
        "stages[1].config.columns.x: must be true or false, a number or text, not [1]",
    ]),
    Case("expression of 5 MB", transform(operation="filter", where="x > " + "y" * 5_000_000 + " >"), [
        f"stages[1].config.where: cannot be parsed as an SQL expression: 'x > {'y' * 956}...",
    ]),
    Case("not a query", transform(operation="sql", query="DELETE FROM a"), [
        "stages[1].config.query: must be one SELECT, or WITH ... SELECT",
    ]),
    Case("table", transform(operation="sql", query="SELECT * FROM aa"), [
        "stages[1].config.query: unknown table 'aa'; did you mean 'a'? tables: 'a'",
    ]),
    Case("module", transform(operation="python", function="os:system"), [
        "stages[1].config.function: module 'os' is not allowed: add it to PYTHON_MODULES "
        "('package.*' allows a whole package)",
    ]),
    Case("function", transform(operation="python", function="steps.clean", arguments=[1]), [
        "stages[1].config.function: must be 'module:function', such as 'steps:clean', not \"steps.clean\"",
        "stages[1].config.arguments: must be a mapping, not [1]",
    ]),
    Case("function by variable", transform(operation="python", function="steps:${f}"), [
        "stages[1].config.function: does not accept ${...}: pass values in `arguments`",
    ]),
]  # fmt: skip
"""Configs of transforms."""

VALIDATIONS = [
    Case("rules", rules(schema={"x": "integr"}, ranges={"x": {"min": 5, "max": 1}}, rows={"min": -1}), [
        "stages[1].config.schema.x: unknown type 'integr'; did you mean 'integer' or 'int' or 'category'?",
        "stages[1].config.ranges.x: 'min' 5 is above 'max' 1",
        "stages[1].config.rows.min: must be at least 0, not -1",
    ]),
    Case("ranges", rules(ranges={"x": {}, "y": {"mn": 1}, "z": 3, "w": {"min": [1]}}), [
        "stages[1].config.ranges.x: give 'min', 'max' or both",
        "stages[1].config.ranges.y.mn: is not a known field; did you mean 'min'?",
        "stages[1].config.ranges.z: must be a mapping, not 3",
        "stages[1].config.ranges.w.min: must be a number or text, not [1]",
    ]),
    Case("lists", rules(required="x", allowed={"x": 1}, schma={}), [
        'stages[1].config.required: must be a list, not "x"; write ["x"]',
        "stages[1].config.allowed.x: must be a list, not 1",
        "stages[1].config.schma: is not a known field; did you mean 'schema'?",
    ]),
    Case("pattern and check", rules(patterns={"x": "(a"}, checks={"c": "x >"}), [
        "stages[1].config.checks.c: cannot be parsed as an SQL expression: 'x >'",
        "stages[1].config.patterns.x: unclosed group: '(a'",
    ]),
]  # fmt: skip
"""Configs of validations."""

OUTPUTS = [
    Case("connection", output(destination="database", connection="warehose"), [
        "stages[1].config.connection: unknown connection 'warehose'; did you mean 'warehouse'?",
    ]),
    Case("upsert without key", output(destination="database", table="t", mode="upsert"), [
        "stages[1].config.key: is required for upsert: name the columns that identify a row",
    ]),
    Case("mode", output(destination="database", tabel="t", mode="merge", key="id", batch_size=0), [
        "stages[1].config.mode: must be one of 'append', 'replace' or 'upsert', not \"merge\"",
        'stages[1].config.key: must be a list, not "id"; write ["id"]',
        "stages[1].config.batch_size: must be at least 1, not 0",
        "stages[1].config.tabel: is not a known field; did you mean 'table'?",
    ]),
    Case("our own table", output(destination="database", table="flexiroaster_effects"), [
        "stages[1].config.table: 'flexiroaster_effects' is reserved for FlexiRoaster's own tables; choose another name",
    ]),
    Case("file outside", output(destination="file", path="/elsewhere/x.csv"), [
        "stages[1].config.path: file '/elsewhere/x.csv' is outside the allowed roots (FILE_ROOTS): .",
    ]),
    Case("our own folder", output(destination="file", path=".flexiroaster/x.csv"), [
        "stages[1].config.path: '.flexiroaster/x.csv' is in .flexiroaster, which is reserved for FlexiRoaster; "
        "choose another folder",
    ]),
    Case("compression", output(destination="file", path="x.csv", compression="lz4"), [
        "stages[1].config.compression: csv does not support lz4; it supports gzip, uncompressed, zstd",
    ]),
    Case("separator", output(destination="file", path="x.csv", separator=";;"), [
        "stages[1].config.separator: must have at most 1 character, not 2",
    ]),
]  # fmt: skip
"""Configs of outputs."""

SEVERAL = [
    Case("everything at once", {
        "nam": "x",
        "stages": [
            {"id": "load", "type": "input", "config": {"source": "file", "path": "a.csv", "separator": "||"}},
            {"id": "clean", "type": "transform", "config": {"operation": "agregate"}, "dependencies": ["laod"]},
            {"id": "late", "type": "transform", "config": {"operation": "filter", "where": "x >"}, "timeout": 0},
            {"id": "save", "type": "output", "config": {"destination": "database", "mode": "upsert"}},
        ],
    }, [
        "name: is required",
        "stages[2].timeout: must be greater than 0, not 0",
        "nam: is not a known field; did you mean 'name'?",
        "stages[1].dependencies[0]: unknown stage 'laod'; did you mean 'load'?",
        "stages[0].config.separator: must be one ASCII character, not '||'",
        "stages[1].config.operation: unknown operation 'agregate'; did you mean 'aggregate' or 'rename'?",
        "stages[2].dependencies: 'filter' needs one input table, found 0",
        "stages[2].config.where: cannot be parsed as an SQL expression: 'x >'",
        "stages[3].dependencies: 'database' needs one input table, found 0",
        "stages[3].config.key: is required for upsert: name the columns that identify a row",
    ]),
]  # fmt: skip
"""Many problems of many kinds in one answer."""

CASES = [*WHOLE, *STAGES, *OPERATORS, *INPUTS, *TRANSFORMS, *VALIDATIONS, *OUTPUTS, *SEVERAL]
