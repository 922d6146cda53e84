"""python: which functions may be called, with what, and what they may give back."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pandas as pd
import polars as pl
import pytest

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.base import Access, Result
from flexiroaster.operators.tables import to_pandas
from flexiroaster.operators.transforms.python import is_allowed
from tests.unit.operators.attempts import attempt, problems, transform

STEPS = "tests.unit.operators.user_steps"
ACCESS = Access(python_modules=(STEPS,))
TABLE = {"k": ["a", "b"], "x": [1, 2]}


def config(function, arguments=None, **more):
    return {"operation": "python", "function": f"{STEPS}:{function}", "arguments": arguments or {}, **more}


def call(function, arguments=None, inputs=None, **more) -> pl.DataFrame:
    given = {"load-data": TABLE} if inputs is None else inputs
    return transform(config(function, arguments, **more), access=ACCESS, **given)


def failure(function, arguments=None, inputs=None, **more) -> StageError:
    with pytest.raises(StageError) as caught:
        call(function, arguments, inputs, **more)
    return caught.value


# --- what may be called ---


@pytest.mark.parametrize(
    ("allowed", "module", "expected"),
    [
        (("steps",), "steps", True),
        (("steps",), "steps.clean", False),
        (("steps",), "steps2", False),
        (("steps.*",), "steps", True),
        (("steps.*",), "steps.clean.deep", True),
        (("steps.*",), "steps2", False),
        (("a", "b.*"), "b.c", True),
        ((), "steps", False),
        (("*",), "os", False),
        ((".*",), "os", False),
    ],
)
def test_modules_are_allowed_one_by_one_or_as_a_package(allowed, module, expected):
    assert is_allowed(module, Access(python_modules=allowed)) is expected


def test_a_module_that_is_not_allowed_is_refused_with_the_definition_and_at_the_run():
    message = "module 'os' is not allowed: add it to PYTHON_MODULES ('package.*' allows a whole package)"
    wanted = {"operation": "python", "function": "os:getcwd"}
    assert problems(wanted, access=ACCESS) == [f"stages[0].config.function: {message}"]
    with pytest.raises(StageError) as caught:
        attempt(wanted, {"a": TABLE}, access=ACCESS)
    assert caught.value.error_class is ErrorClass.CONFIGURATION
    assert caught.value.message == f"function: {message}"
    assert problems(config("double"), access=ACCESS) == []


def test_what_an_allowed_module_imported_cannot_be_called():
    error = failure("getcwd", inputs={})
    assert error.error_class is ErrorClass.CONFIGURATION
    assert error.message == (
        f"function: {STEPS}:getcwd is defined in 'posix': module 'posix' is not allowed: add it to PYTHON_MODULES "
        "('package.*' allows a whole package)"
    )


@pytest.mark.parametrize("name", ["steps", "steps:", ":f", "steps:a.b", "steps:f()", "../steps:f", "a b:f", "1a:f"])
def test_a_reference_is_module_and_function(name):
    (problem,) = problems({"operation": "python", "function": name}, access=ACCESS)
    shown = f"must be 'module:function', such as 'steps:clean', not \"{name}\""
    assert problem == f"stages[0].config.function: {shown}"


def test_a_reference_takes_no_variables():
    assert problems({"operation": "python", "function": "${module}:f"}, access=ACCESS)[0] == (
        "stages[0].config.function: does not accept ${...}: pass values in `arguments`"
    )


def test_a_decorated_function_is_at_home_where_it_was_written():
    assert call("cached", inputs={}).rows() == [(1,)]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("dubble", f"module '{STEPS}' has no function 'dubble'; did you mean 'double'"),
        ("SETTING", f"{STEPS}:SETTING is int, not a function"),
        ("asynchronous", f"{STEPS}:asynchronous is asynchronous: use a plain function"),
        ("generator", f"{STEPS}:generator is a generator: return a table instead of yielding rows"),
    ],
)
def test_what_is_no_function_to_call(function, message):
    error = failure(function)
    assert error.error_class is ErrorClass.CODE
    assert error.message.startswith(message)


def test_a_module_that_cannot_be_imported():
    access = Access(python_modules=("no_such_module_here",))
    with pytest.raises(StageError) as caught:
        attempt({"operation": "python", "function": "no_such_module_here:f"}, {}, access=access)
    assert caught.value.error_class is ErrorClass.CODE
    assert caught.value.message == ("cannot import 'no_such_module_here': No module named 'no_such_module_here'")


# --- what it is called with ---

TWO = {"load-data": {"id": [1, 2], "v": [3, 4]}, "names": {"id": [2, 1], "n": ["b", "a"]}}


def test_the_only_table_goes_to_the_first_parameter():
    assert call("double")["x"].to_list() == [2, 4]
    assert call("double", {"factor": 5})["x"].to_list() == [5, 10]


def test_tables_go_to_parameters_named_like_stages():
    assert call("by_name", {"limit": 1}, TWO).rows() == [(1, 3, "a")]


@pytest.mark.parametrize("function", ["all_of_them", "annotated_as_dict", "annotated_as_builtin"])
def test_all_tables_go_to_one_parameter_as_a_dict(function):
    assert call(function, inputs=TWO).rows() == [("load-data", 2), ("names", 2)]


@pytest.mark.parametrize("function", ["annotated_as_dict", "annotated_as_builtin"])
def test_so_annotated_one_table_comes_in_a_dict_too(function):
    assert call(function).rows() == [("load-data", 2)]


def test_the_context_can_be_had():
    assert call("with_context")["stage"].to_list() == ["here", "here"]


def test_positional_only_and_variable_keywords():
    assert call("positional_only", {"suffix": "_z"}).columns == ["k_z", "x_z"]
    assert call("keywords", {"a": 1, "options": 2}).rows() == [("a", 1), ("options", 2)]


def test_a_source_of_its_own_needs_no_table():
    assert call("nothing_needed", inputs={}).rows() == [(1.0, "x"), (2.5, None)]


@pytest.mark.parametrize(
    ("function", "arguments", "inputs", "message"),
    [
        ("double", {"factr": 1}, None, "double has no parameter 'factr', given in 'arguments'; did you mean 'factor'?"),
        ("number", {"q": 1}, None, "number has no parameter 'q', given in 'arguments'; it has 'df'"),
        ("with_context", {"context": 1}, None, "gets the stage's context: remove it from 'arguments'"),
        ("by_name", {"limit": 1, "names": 1}, TWO, "gets an input table: remove it from 'arguments'"),
        (
            "two_needed",
            {},
            None,
            "parameter 'other' of tests.unit.operators.user_steps:two_needed gets no value: it is neither an input "
            "stage ('load_data') nor in 'arguments' (none)",
        ),
        (
            "double",
            {},
            TWO,
            "parameter 'df' of tests.unit.operators.user_steps:double could be any of 2 tables: name parameters after "
            "the input stages ('load_data', 'names'), or name it 'tables' to get a dict of all tables",
        ),
        (
            "double",
            {},
            {},
            "parameter 'df' of tests.unit.operators.user_steps:double gets no value: it is neither an input stage "
            "(none) nor in 'arguments' (none)",
        ),
    ],
)
def test_calls_that_do_not_work_out(function, arguments, inputs, message):
    error = failure(function, arguments, inputs)
    assert error.error_class is ErrorClass.CODE
    assert message in error.message


def test_a_users_own_error_passes_unchanged():
    with pytest.raises(KeyError, match="my own mistake"):
        call("fails")


PROGRAM = """
import sys
from pathlib import Path
import polars as pl
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import Access, StageContext
from flexiroaster.operators.registry import build

sys.modules["steps"] = module = type(sys)("steps")
exec("def make(): return {'x': [1]}\\ndef same(df): return df", module.__dict__)
access = Access(python_modules=("steps",))
context = StageContext("e", "p", "s", 1, {"a": pl.LazyFrame({"x": [1]})}, Path("."), access=access)

def run(name, **config):
    config = {"operation": "python", "function": "steps:" + name, **config}
    table = build(StageType.TRANSFORM, config, {}).run(context).table
    assert table.to_dict(as_series=False) == {"x": [1]}
    print(name, "pandas" in sys.modules)

run("make")
run("same", frames="polars")
run("same")
"""


def test_without_pandas_frames_pandas_is_not_imported():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["make False", "same False", "same True"], "")


# --- tables to pandas ---


def test_integers_and_booleans_with_holes_stay_exact():
    table = pl.DataFrame(
        {"id": [2**60 + 1, None], "small": pl.Series([1, None], dtype=pl.Int8), "b": [True, None], "full": [1, 2]}
    )
    frame = to_pandas(table)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "id": "Int64",
        "small": "Int8",
        "b": "boolean",
        "full": "int64",
    }
    assert frame["id"][0] == 2**60 + 1
    assert pl.from_pandas(frame).equals(table)


def test_other_types_are_pandas_ordinary_ones():
    table = {"f": [1.0, None], "s": ["a", None], "d": [dt.date(2024, 1, 1), None], "t": [dt.datetime(2024, 1, 1), None]}
    found = call("dtypes_of", inputs={"a": table})
    assert dict(found.iter_rows()) == {"f": "float64", "s": "str", "d": "datetime64[ms]", "t": "datetime64[us]"}


def test_polars_frames_are_eager_unless_annotated_lazy():
    assert call("polars_frame", frames="polars")["kind"].to_list() == ["DataFrame"] * 2
    assert call("polars_lazy", frames="polars")["kind"].to_list() == ["LazyFrame"] * 2


# --- what it may give back ---


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("columns", {"x": [1.0, 2.5], "y": [None, "b"]}),
        ("empty list", {}),
        ("empty frame", {}),
        ("filtered", {"k": ["b"], "x": [2]}),
        ("sorted", {"k": ["b", "a"], "x": [2, 1]}),
        ("grouped", {"k": ["a", "b"], "total": [1, 2]}),
        ("grouped by two", {"k": ["a", "b"], "x": [1, 2], "total": [1, 2]}),
        ("unnamed text index", {"index": ["p", "q"], "k": ["a", "b"], "x": [1, 2]}),
        ("dates", {"day": [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)], "k": ["a", "b"], "x": [1, 2]}),
        ("nan", {"f": [1.0, None], "s": ["a", None], "i": [1, None]}),
        ("categories", {"c": ["a", "b"]}),
    ],
)
def test_forms_of_a_table(what, expected):
    assert call("returns", {"what": what}).to_dict(as_series=False) == expected


def test_arrow_and_lazy_results():
    assert call("arrow")["x"].to_list() == [1, 2]
    result = attempt(config("polars_lazy_result", frames="polars"), {"load-data": TABLE}, access=ACCESS)
    assert isinstance(result.table, pl.LazyFrame)


def test_nothing_is_a_result_where_it_is_announced():
    assert attempt(config("effect_only"), {"load-data": TABLE}, access=ACCESS) == Result()
    error = failure("forgot_to_return")
    assert error.error_class is ErrorClass.CODE
    assert error.message == (
        f"{STEPS}:forgot_to_return returned None, expected a table; annotate it '-> None' if it returns no table"
    )


@pytest.mark.parametrize(
    ("function", "kind"),
    [("number", "int"), ("some_list", "a list of int"), ("series", "Series; use .to_frame() or .reset_index()")],
)
def test_what_is_no_table(function, kind):
    error = failure(function)
    assert error.error_class is ErrorClass.CODE
    assert error.message == (
        f"{STEPS}:{function} returned {kind}, expected a table "
        "(a pandas or polars DataFrame, a pyarrow Table, a list of dicts or a dict of columns)"
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("numbers as names", "returned a column named 0 (int): column names must be text"),
        ("twice the same name", "returned 2 columns named 'a'"),
        ("index named like a column", "returned 2 columns named 'x'"),
        ("multi columns", "returned a column named ('a', 'b') (tuple): column names must be text"),
        ("number keys", "returned a column named 1 (int): column names must be text"),
        ("scalar column", "returned a dict whose column 'a' is str, expected a list"),
    ],
)
def test_names_no_table_can_have(what, message):
    error = failure("returns", {"what": what})
    assert error.error_class is ErrorClass.CODE
    assert error.message == f"{STEPS}:returns {message}"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "mixed",
            f"column 'mix' of the result of {STEPS}:returns cannot be converted to a table: "
            "Could not convert 'x' with type str: tried to convert to int64",
        ),
        (
            "objects",
            f"column 'o' of the result of {STEPS}:returns cannot be converted to a table: Could not convert <object",
        ),
        (
            "objects in a dict",
            f"column 'o' of the result of {STEPS}:returns holds Python objects: make them text or numbers",
        ),
        (
            "uneven",
            f"the result of {STEPS}:returns cannot be converted to a table: could not create a new DataFrame: height",
        ),
    ],
)
def test_values_no_table_can_hold(what, message):
    error = failure("returns", {"what": what})
    assert error.error_class is ErrorClass.DATA
    assert error.message.startswith(message)


def test_a_pandas_frame_survives_the_round_trip():
    frame = pd.DataFrame({"x": [1, 2], "s": ["a", "b"]})
    assert to_pandas(call("double", inputs={"a": pl.from_pandas(frame)})).equals(frame.assign(x=[2, 4]))
