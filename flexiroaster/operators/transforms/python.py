"""The `python` transform: calls a user's function from an allowed module."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from inspect import Parameter
from typing import Any, Literal

from pydantic import Field, field_validator

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType, near
from flexiroaster.model.validation_messages import shown
from flexiroaster.operators.base import ANY, Access, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.transforms.calling import plan_call, returns_nothing, signature_of

__all__ = ["Python", "PythonConfig", "is_allowed", "load"]


_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class PythonConfig(OperatorConfig):
    """The function, and its arguments besides the tables."""

    function: str = Field(
        json_schema_extra={"template": False, "pattern": f"^{_REFERENCE.pattern}$"},
        description="module:function; the module must be in PYTHON_MODULES.",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Arguments, passed by name.")
    frames: Literal["pandas", "polars"] = Field(
        default="pandas", description="The type of the tables that the function gets."
    )

    @field_validator("function")
    @classmethod
    def _names_module_and_function(cls, value: str) -> str:
        if not _REFERENCE.fullmatch(value):
            raise ValueError(f"must be 'module:function', such as 'steps:clean', not {shown(value)}")
        return value


class Python(Operator[PythonConfig]):
    """Call a Python function with the input tables and return its result.

    `{"function": "steps:clean", "arguments": {"limit": 3}}` calls `clean(df, limit=3)` of `steps.py`. A parameter with
    the name of an input stage gets that table. Without such a parameter, the first one gets the only table. `tables`
    gets a dict of all tables, and `context` gets the StageContext. Tables are pandas frames, or polars frames with
    `frames: polars` (lazy for the annotation LazyFrame). The function returns a pandas or polars frame, a pyarrow
    Table, a list of dicts or a dict of columns, or None if its annotation is `-> None`.
    """

    stage_type = StageType.TRANSFORM
    name = "python"
    config_model = PythonConfig
    arity = ANY

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem if the module is not allowed; nothing is imported here."""
        reason = _refusal(self.config.function.partition(":")[0], access)
        if reason:
            yield Problem("function", reason, "not_allowed")

    def run(self, context: StageContext) -> Result:
        """Call the function and return its result; the function's own exceptions propagate unchanged.

        Raises StageError: configuration for a module that is not allowed, code for a function that does not exist,
        cannot be called with the available arguments, or does not return a table.
        """
        name = self.config.function
        function = load(name, context.access)
        signature = signature_of(function, name)
        call = plan_call(name, signature, context.inputs, self.config.arguments)
        bound = call.bind(lambda stage_id, p: self._table(context, stage_id, p), context.inputs, context)
        returned = function(*bound.args, **bound.kwargs)
        if returned is None:
            if returns_nothing(signature):
                return Result()
            message = f"{name} returned None, expected a table; annotate it '-> None' if it returns no table"
            raise StageError(message, ErrorClass.CODE)
        from flexiroaster.operators.tables import from_returned

        return Result(table=from_returned(returned, name))

    def _table(self, context: StageContext, stage_id: str, parameter: Parameter) -> object:
        table = context.inputs[stage_id]
        if self.config.frames == "polars":
            return table if "LazyFrame" in str(parameter.annotation) else table.collect()
        from flexiroaster.operators.tables import to_pandas

        return to_pandas(table.collect())


def is_allowed(module: str, access: Access) -> bool:
    """Return whether stages may call functions of a module: `pkg.mod` allows one module, `pkg.*` the whole package."""
    for allowed in access.python_modules:
        package = allowed.removesuffix(".*")
        if module == package or (package != allowed and module.startswith(f"{package}.")):
            return True
    return False


def load(reference: str, access: Access) -> Callable[..., Any]:
    """Import the function of `module:function`.

    The function must also be defined in an allowed module, so imports in a module (`from os import system`) are not
    callable. Raises StageError: configuration if the function is not allowed, code if it cannot be loaded.
    """
    module_name, _, attribute = reference.partition(":")
    reason = _refusal(module_name, access)
    if reason:
        raise StageError(f"function: {reason}", ErrorClass.CONFIGURATION)
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise StageError(f"cannot import {module_name!r}: {error}", ErrorClass.CODE) from error
    found = getattr(module, attribute, None)
    if found is None:
        hint = near(attribute, [name for name in vars(module) if not name.startswith("_")])
        raise StageError(f"module {module_name!r} has no function {attribute!r}{hint}", ErrorClass.CODE)
    if not callable(found):
        raise StageError(f"{reference} is {type(found).__name__}, not a function", ErrorClass.CODE)
    home = getattr(found, "__module__", None) or type(found).__module__
    if not is_allowed(home, access):
        message = f"function: {reference} is defined in {home!r}: {_refusal(home, access)}"
        raise StageError(message, ErrorClass.CONFIGURATION)
    function: Callable[..., Any] = found
    return function


def _refusal(module: str, access: Access) -> str | None:
    if is_allowed(module, access):
        return None
    return f"module {module!r} is not allowed: add it to PYTHON_MODULES ('package.*' allows a whole package)"
