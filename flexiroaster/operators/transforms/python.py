"""python: a function of the user's, from modules that the installation allows."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from inspect import Parameter
from typing import Any, Literal

from pydantic import Field, field_validator

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType, near
from flexiroaster.operators.base import ANY, Access, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.transforms.calling import plan_call, returns_nothing, signature_of
from flexiroaster.problems import shown

__all__ = ["Python", "PythonConfig", "is_allowed", "load"]


_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class PythonConfig(OperatorConfig):
    """Which function, and what it is called with besides the tables."""

    function: str = Field(
        json_schema_extra={"template": False, "pattern": f"^{_REFERENCE.pattern}$"},
        description="module:function; the module must be in PYTHON_MODULES.",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Passed by name.")
    frames: Literal["pandas", "polars"] = Field(default="pandas", description="What tables the function takes.")

    @field_validator("function")
    @classmethod
    def _names_module_and_function(cls, value: str) -> str:
        if not _REFERENCE.fullmatch(value):
            raise ValueError(f"must be 'module:function', such as 'steps:clean', not {shown(value)}")
        return value


class Python(Operator[PythonConfig]):
    """Call a Python function with the input tables; what it returns is the result.

    `{"function": "steps:clean", "arguments": {"limit": 3}}` calls `clean(df, limit=3)` of `steps.py`. A parameter named
    like an input stage gets that table, a single other one the only table, `tables` a dict of all, `context` the
    StageContext. Tables are pandas frames, or polars ones with `frames: polars` (lazy where annotated LazyFrame). It
    returns a frame of either kind, a pyarrow Table, a list of dicts or a dict of columns, or None if annotated so.
    """

    stage_type = StageType.TRANSFORM
    name = "python"
    config_model = PythonConfig
    arity = ANY

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """A module that is not allowed; nothing is imported here."""
        reason = _refusal(self.config.function.partition(":")[0], access)
        if reason:
            yield Problem("function", reason, "not_allowed")

    def run(self, context: StageContext) -> Result:
        """What the function returned. Its own exceptions pass through unchanged.

        Raises StageError: configuration for a module that is not allowed, code for a function that is not there, that
        cannot be called with what there is, or that returned something else than a table.
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
            message = f"{name} returned None, expected a table; annotate it '-> None' if it has none"
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
    """Whether stages may call functions of a module: `pkg.mod` allows that one, `pkg.*` pkg and all below."""
    for allowed in access.python_modules:
        package = allowed.removesuffix(".*")
        if module == package or (package != allowed and module.startswith(f"{package}.")):
            return True
    return False


def load(reference: str, access: Access) -> Callable[..., Any]:
    """The function of `module:function`.

    It must also be defined in an allowed module: what a module merely imported (`from os import system`) is not
    meant. Raises StageError (configuration) where it is not allowed, code where it cannot be had.
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
    return f"module {module!r} is not allowed: add it to PYTHON_MODULES (a package with all below it as 'package.*')"
