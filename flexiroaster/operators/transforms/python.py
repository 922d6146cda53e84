"""The `python` transform: calls a user's function from an allowed module."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Literal, get_origin

from pydantic import Field, field_validator

from flexiroaster.errors import Problem, code_error, configuration_error
from flexiroaster.model.pipeline import StageType
from flexiroaster.model.validation_messages import shown, suggestion_hint
from flexiroaster.operators.base import ANY, Access, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.tables import listed, table_from_return_value, to_pandas

__all__ = ["Python", "is_allowed"]


_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_ALL_TABLES = frozenset({"tables", "inputs"})
_MAPPING = re.compile(r"(?:[\w.]*\.)?(?:dict|Dict|Mapping)\b")
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
        function = _load(name, context.access)
        signature = _signature_of(function, name)
        call = _plan_call(name, signature, context.inputs, self.config.arguments)
        bound = call.bind(lambda stage_id, p: self._table(context, stage_id, p), context.inputs, context)
        returned = function(*bound.args, **bound.kwargs)
        if returned is None:
            if signature.return_annotation in (None, "None", type(None)):
                return Result()
            raise code_error(f"{name} returned None, expected a table; annotate it '-> None' if it returns no table")
        return Result(table=table_from_return_value(returned, name))

    def _table(self, context: StageContext, stage_id: str, parameter: Parameter) -> object:
        table = context.inputs[stage_id]
        if self.config.frames == "polars":
            return table if "LazyFrame" in str(parameter.annotation) else table.collect()
        return to_pandas(table.collect())


def is_allowed(module: str, access: Access) -> bool:
    """Return whether stages may call functions of a module: `pkg.mod` allows one module, `pkg.*` the whole package."""
    for allowed in access.python_modules:
        package = allowed.removesuffix(".*")
        if module == package or (package != allowed and module.startswith(f"{package}.")):
            return True
    return False


def _load(reference: str, access: Access) -> Callable[..., Any]:
    """Import the function of `module:function`.

    The function must also be defined in an allowed module, so imports in a module (`from os import system`) are not
    callable. Raises StageError: configuration if the function is not allowed, code if it cannot be loaded.
    """
    module_name, _, attribute = reference.partition(":")
    reason = _refusal(module_name, access)
    if reason:
        raise configuration_error(f"function: {reason}")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise code_error(f"cannot import {module_name!r}: {error}") from error
    found = getattr(module, attribute, None)
    if found is None:
        hint = suggestion_hint(attribute, [name for name in vars(module) if not name.startswith("_")])
        raise code_error(f"module {module_name!r} has no function {attribute!r}{hint}")
    if not callable(found):
        raise code_error(f"{reference} is {type(found).__name__}, not a function")
    home = getattr(found, "__module__", None) or type(found).__module__
    if not is_allowed(home, access):
        raise configuration_error(f"function: {reference} is defined in {home!r}: {_refusal(home, access)}")
    function: Callable[..., Any] = found
    return function


def _refusal(module: str, access: Access) -> str | None:
    if is_allowed(module, access):
        return None
    return f"module {module!r} is not allowed: add it to PYTHON_MODULES ('package.*' allows a whole package)"


# --- argument binding ---


@dataclass(frozen=True, slots=True)
class _Call:
    """The argument binding of a function.

    `tables` maps parameters to stage ids. `all_tables` is the parameter that gets all tables. `context` is true if the
    function takes the context. `values` are the arguments of the config.
    """

    signature: inspect.Signature
    tables: Mapping[str, str]
    all_tables: str | None
    context: bool
    values: Mapping[str, Any]

    def bind(self, table_of: Callable[[str, Parameter], object], stage_ids: Iterable[str], context: object) -> Any:  # noqa: ANN401 - BoundArguments of anything
        """Return the bound arguments; `table_of(stage id, parameter)` is called only for the tables that are needed."""
        parameters = self.signature.parameters
        given = {name: table_of(stage_id, parameters[name]) for name, stage_id in self.tables.items()}
        if self.all_tables:
            given[self.all_tables] = {i: table_of(i, parameters[self.all_tables]) for i in stage_ids}
        if self.context:
            given["context"] = context
        named = {p.name for p in parameters.values() if p.kind not in _VARIABLE}
        given |= {name: value for name, value in self.values.items() if name in named}
        keywords = [p.name for p in parameters.values() if p.kind is Parameter.VAR_KEYWORD]
        for name in keywords:
            given[name] = {key: value for key, value in self.values.items() if key not in named}
        bound = self.signature.bind_partial()
        bound.arguments |= {name: given[name] for name in parameters if name in given}  # in the signature's order
        return bound


def _signature_of(function: Callable[..., object], name: str) -> inspect.Signature:
    """Return the signature of a plain function.

    Raises StageError (code) for coroutine functions, generators and functions without a readable signature.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise code_error(f"{name} is asynchronous: use a plain function")
    if inspect.isgeneratorfunction(function):
        raise code_error(f"{name} is a generator: return a table instead of yielding rows")
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise code_error(f"{name} has no readable signature: wrap it in a function") from error


def _plan_call(
    name: str, signature: inspect.Signature, stage_ids: Iterable[str], arguments: Mapping[str, Any]
) -> _Call:
    """Plan the call of a function. Raises StageError (code) that names the parameter if binding is impossible."""
    stages = {re.sub(r"[-.]", "_", stage_id): stage_id for stage_id in stage_ids}
    named = [p for p in signature.parameters.values() if p.kind not in _VARIABLE]
    _refuse_unknown(name, signature, arguments, named)
    tables = {p.name: stages[p.name] for p in named if p.name in stages}
    context = any(p.name == "context" for p in named) and "context" not in tables
    _refuse_ambiguous(name, arguments, {*tables, *(["context"] if context else ())})
    taken = {*tables, *arguments, *(["context"] if context else ())}
    left = [p for p in named if p.name not in taken and p.default is Parameter.empty]
    all_tables = None
    if left and stages and not tables:
        first = left.pop(0)
        if _wants_all(first, len(stages)):
            all_tables = first.name
        elif len(stages) == 1:
            tables = {first.name: next(iter(stages.values()))}
        else:
            raise code_error(
                f"parameter {first.name!r} of {name} could be any of {len(stages)} tables: name parameters after the "
                f"input stages ({listed(stages)}), or name it 'tables' to get a dict of all tables"
            )
    if left:
        raise code_error(
            f"parameter {left[0].name!r} of {name} gets no value: it is neither an input stage ({listed(stages)}) "
            f"nor in 'arguments' ({listed(arguments)})"
        )
    return _Call(signature, tables, all_tables, context, arguments)


def _wants_all(parameter: Parameter, tables: int) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        annotated = bool(_MAPPING.match(annotation))
    else:
        kind = get_origin(annotation) or annotation
        annotated = kind is not Parameter.empty and isinstance(kind, type) and issubclass(kind, Mapping)
    return annotated or (tables > 1 and parameter.name in _ALL_TABLES)


def _refuse_unknown(
    name: str, signature: inspect.Signature, arguments: Mapping[str, Any], named: list[Parameter]
) -> None:
    if any(p.kind is Parameter.VAR_KEYWORD for p in signature.parameters.values()):
        return
    known = [p.name for p in named]
    for argument in arguments:
        if argument not in known:
            hint = suggestion_hint(argument, known) or f"; it has {listed(known)}"
            raise code_error(f"{name} has no parameter {argument!r}, given in 'arguments'{hint}")


def _refuse_ambiguous(name: str, arguments: Mapping[str, Any], reserved: set[str]) -> None:
    for argument in arguments:
        if argument in reserved:
            what = "the stage's context" if argument == "context" else "an input table"
            raise code_error(f"parameter {argument!r} of {name} gets {what}: remove it from 'arguments'")
