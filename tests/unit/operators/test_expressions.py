"""SQL expressions: what is understood, what is refused, and how it is said."""

from __future__ import annotations

import polars as pl
import pytest

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.expressions import dtype_of, find_file_function_error, is_aggregate, parse, parse_for_schema

SCHEMA = pl.Schema({"a": pl.Int64, "select": pl.String, "x y": pl.Float64})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a >", "where: cannot be parsed as an SQL expression: 'a >'"),
        ("", "where: the expression is empty"),
        ("a; DROP TABLE b", "where: invalid expression (found unexpected token ';'): 'a; DROP TABLE b'"),
        ("a, b", "where: invalid expression (found unexpected token ','): 'a, b'"),
        ("lambda(a)", "where: unsupported function 'lambda': 'lambda(a)'"),
        (
            "a IN (SELECT b FROM c)",
            "where: a query inside an expression is not supported: use a stage with the operation 'sql': "
            "'a IN (SELECT b FROM c)'",
        ),
        ("COLUMNS('a.*')", "where: an expression must return one column, this one returns several: \"COLUMNS('a.*')\""),
    ],
)
def test_what_is_not_understood(text, message):
    with pytest.raises(StageError) as caught:
        parse(text, "where")
    assert caught.value.error_class is ErrorClass.CODE
    assert caught.value.message == message


@pytest.mark.parametrize(
    "text",
    [
        "a IN (SELECT a FROM read_csv('/etc/passwd'))",
        "a IN (SELECT a FROM READ_PARQUET('x'))",
        "a IN (SELECT a FROM \"Read_Json\"('x'))",
        "a IN (SELECT a FROM read_ipc/* */('x'))",
        "a IN (SELECT a FROM `read_ndjson`('x'))",
        "SELECT * FROM scan_delta ('x')",
        "SELECT * FROM \"read_anything_new\"('x')",
    ],
)
def test_sql_opens_no_files(text):
    assert "is not allowed in SQL: read files with an input stage" in (find_file_function_error(text) or "")
    with pytest.raises(StageError, match="is not allowed in SQL"):
        parse(text, "where")


@pytest.mark.parametrize("text", ["read_count > 1", "a = 'scan_1'", "already_read_csv = 1", "spread_x(a)"])
def test_harmless_names_are_no_file_functions(text):
    assert find_file_function_error(text) is None


def test_every_table_function_of_this_polars_that_reads_files_is_refused(tmp_path):
    """If polars learns to open files by another name, this shows it: nothing but our refusal stands in between."""
    file = tmp_path / "x.csv"
    file.write_text("a\n1\n")
    for name in ("read_csv", "read_ipc", "read_json", "read_ndjson", "read_parquet", "read_avro", "scan_csv"):
        query = f"SELECT * FROM {name}('{file}')"
        assert find_file_function_error(query) is not None, name
    assert pl.SQLContext(eager=True).execute(f"SELECT * FROM read_csv('{file}')").height == 1


def test_words_in_text_and_quoted_names_are_no_queries():
    assert parse_for_schema("a = 1 OR \"select\" = 'select'", "where", SCHEMA, "the table").meta.root_names() == [
        "a",
        "select",
    ]


def test_an_unknown_column_is_named():
    with pytest.raises(StageError) as caught:
        parse_for_schema("b + 1", "where", SCHEMA, "input of stage 's'")
    assert caught.value.error_class is ErrorClass.DATA
    assert caught.value.message == "column 'b' not found in input of stage 's'; columns: 'a', 'select', 'x y'"


def test_text_in_double_quotes_is_explained():
    with pytest.raises(StageError) as caught:
        parse_for_schema('"select" = "UA"', "where", SCHEMA, "input of stage 's'")
    assert caught.value.message == (
        "column 'UA' not found in input of stage 's'; text is written in single quotes: 'UA'; "
        "columns: 'a', 'select', 'x y'"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SUM(a)", True),
        ("SUM(a) / COUNT(*)", True),
        ("ROUND(AVG(a), 1)", True),
        ("COUNT(DISTINCT a)", True),
        ("1", True),
        ("a", False),
        ("a / SUM(a)", False),
        ("ROUND(a, 1)", False),
        ('SUM(a) OVER (PARTITION BY "select")', False),
    ],
)
def test_aggregates_are_told_from_values(text, expected):
    assert is_aggregate(parse(text, "x"), text, "x", SCHEMA) is expected


def test_the_type_of_an_expression():
    assert dtype_of(parse("a > 1", "x"), "a > 1", "x", SCHEMA) == pl.Boolean
    with pytest.raises(StageError) as caught:
        dtype_of(parse('AVG("select")', "x"), 'AVG("select")', "x", SCHEMA)
    assert caught.value.message == "x: `mean` operation not supported for dtype `str`: 'AVG(\"select\")'"
