"""sql."""

from __future__ import annotations

import polars as pl
import pytest

from flexiroaster.errors import ErrorClass, StageError
from tests.unit.operators.attempts import attempt, problems, transform

LOAD = {"id": [1, 2, 3], "amount": [10, 20, 30]}
NAMES = {"id": [1, 2], "name": ["a", "b"]}


def sql(query, **inputs):
    return transform({"operation": "sql", "query": query}, **(inputs or {"load-data": LOAD, "names.v1": NAMES}))


def failure(query, **inputs) -> StageError:
    with pytest.raises(StageError) as caught:
        sql(query, **inputs)
    return caught.value


@pytest.mark.parametrize(
    "query",
    [
        'SELECT n.name, d.amount FROM "load-data" d JOIN "names.v1" n ON d.id = n.id ORDER BY n.name',
        "SELECT n.name, d.amount FROM load_data d JOIN names_v1 n ON d.id = n.id ORDER BY n.name",
        "-- a comment\n/* another */ WITH n AS (SELECT * FROM names_v1) "
        "SELECT n.name, d.amount FROM load_data d JOIN n ON d.id = n.id ORDER BY n.name",
    ],
)
def test_tables_go_by_the_ids_of_their_stages(query):
    assert sql(query).to_dict(as_series=False) == {"name": ["a", "b"], "amount": [10, 20]}


def test_an_exact_id_goes_before_another_spelled_alike():
    assert sql("SELECT x FROM a_b", **{"a-b": {"x": [1]}, "a_b": {"x": [2]}})["x"].to_list() == [2]
    assert sql("SELECT x FROM a_b", **{"a-b": {"x": [1]}, "a.b": {"x": [2]}})["x"].to_list() == [1]
    assert sql('SELECT x FROM "a.b"', **{"a-b": {"x": [1]}, "a.b": {"x": [2]}})["x"].to_list() == [2]


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE load_data",
        "DELETE FROM load_data",
        "CREATE TABLE x AS SELECT 1",
        "EXPLAIN SELECT 1",
        "SHOW TABLES",
        "TRUNCATE load_data",
        "",
        " -- SELECT 1",
    ],
)
def test_only_queries(query):
    assert problems({"operation": "sql", "query": query}) == [
        "stages[0].config.query: must be one SELECT, or WITH ... SELECT"
    ]
    error = failure(query)
    assert error.error_class is ErrorClass.CODE
    assert error.message == "query: must be one SELECT, or WITH ... SELECT"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{path}')",
        "SELECT * FROM \"READ_CSV\" ('{path}')",
        "SELECT 1 UNION SELECT * FROM Read_CSV('{path}')",
    ],
)
def test_files_are_out_of_reach(query, tmp_path):
    path = tmp_path / "secret.csv"
    path.write_text("secret\n1\n")
    query = query.format(path=path)
    message = "READ_CSV is not allowed in SQL: read files with an input stage"
    assert problems({"operation": "sql", "query": query}) == [f"stages[0].config.query: {message}"]
    assert failure(query).message == f"query: {message}"


def test_python_variables_of_this_process_are_no_tables():
    secret = pl.DataFrame({"x": [1]})
    assert failure("SELECT * FROM secret").message.startswith("query: unknown table 'secret'")
    assert secret.height == 1


def test_syntax_is_checked_with_the_definition():
    assert problems({"operation": "sql", "query": "SELECT a FROM load_data WHERE"})[0].startswith(
        "stages[0].config.query: sql parser error: "
    )
    assert problems({"operation": "sql", "query": "SELECT 1; SELECT 2"}) == [
        "stages[0].config.query: one (and only one) statement can be parsed at a time"
    ]
    error = failure("SELECT a FROM load_data WHERE")
    assert error.error_class is ErrorClass.CODE


def test_tables_are_checked_with_the_definition():
    assert problems({"operation": "sql", "query": "SELECT a FROM load_dat"}) == [
        "stages[0].config.query: unknown table 'load_dat'; did you mean 'load_data' or 'load-data'? tables: 'load-data'"
    ]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT whatever + 1 AS y FROM load_data WHERE z > 0 GROUP BY a HAVING SUM(b) > 1 ORDER BY c",
        "SELECT a.*, b.x FROM load_data a LEFT JOIN load_data b USING (id)",
        "SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY d) AS n FROM load_data",
    ],
)
def test_columns_cannot_be_judged_with_the_definition(query):
    assert problems({"operation": "sql", "query": query}) == []


def test_an_unknown_column_is_named():
    error = failure("SELECT amonut FROM load_data")
    assert error.error_class is ErrorClass.DATA
    assert error.message.startswith('query: unable to find column "amonut"; valid columns: ["id", "amount"]')


def test_a_query_takes_no_variables():
    assert problems({"operation": "sql", "query": "SELECT ${column} FROM load_data"}) == [
        "stages[0].config.query: does not accept ${...}"
    ]


def test_the_result_is_lazy():
    assert isinstance(attempt({"operation": "sql", "query": "SELECT * FROM a"}, {"a": LOAD}), pl.LazyFrame)
