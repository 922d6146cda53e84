"""Argument binding: which arguments a user's function is called with.

A parameter with the name of an input stage (underscores for dashes and dots) gets that stage's table. `context` gets
the StageContext. Parameters named in the config's `arguments` get those values. If no parameter has the name of a
stage, the first parameter without a value gets the single input table. With several tables, that parameter gets a dict
of all tables by stage id if its name is `tables` or `inputs` or its annotation is a dict or Mapping. A parameter with
such an annotation gets a dict of a single table, too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, get_origin

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.pipeline import near
from flexiroaster.operators.schemas import listed

__all__ = ["Call", "plan_call", "returns_nothing", "signature_of"]

_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_ALL_TABLES = frozenset({"tables", "inputs"})
_MAPPING = re.compile(r"(?:[\w.]*\.)?(?:dict|Dict|Mapping)\b")


@dataclass(frozen=True, slots=True)
class Call:
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


def signature_of(function: Callable[..., object], name: str) -> inspect.Signature:
    """Return the signature of a plain function.

    Raises StageError (code) for coroutine functions, generators and functions without a readable signature.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise StageError(f"{name} is asynchronous: use a plain function", ErrorClass.CODE)
    if inspect.isgeneratorfunction(function):
        raise StageError(f"{name} is a generator: return a table instead of yielding rows", ErrorClass.CODE)
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise StageError(f"{name} has no readable signature: wrap it in a function", ErrorClass.CODE) from error


def returns_nothing(signature: inspect.Signature) -> bool:
    """Return whether the return annotation is `None`, also as text."""
    return signature.return_annotation in (None, "None", type(None))


def plan_call(name: str, signature: inspect.Signature, stage_ids: Iterable[str], arguments: Mapping[str, Any]) -> Call:
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
            raise StageError(_which_table(name, first.name, stages), ErrorClass.CODE)
    if left:
        raise StageError(_nothing_for(name, left[0].name, stages, arguments), ErrorClass.CODE)
    return Call(signature, tables, all_tables, context, arguments)


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
            hint = near(argument, known) or f"; it has {listed(known)}"
            raise StageError(f"{name} has no parameter {argument!r}, given in 'arguments'{hint}", ErrorClass.CODE)


def _refuse_ambiguous(name: str, arguments: Mapping[str, Any], reserved: set[str]) -> None:
    for argument in arguments:
        if argument in reserved:
            what = "the stage's context" if argument == "context" else "an input table"
            message = f"parameter {argument!r} of {name} gets {what}: remove it from 'arguments'"
            raise StageError(message, ErrorClass.CODE)


def _which_table(name: str, parameter: str, stages: Mapping[str, str]) -> str:
    return (
        f"parameter {parameter!r} of {name} could be any of {len(stages)} tables: name parameters after the input "
        f"stages ({listed(stages)}), or name it 'tables' to get a dict of all tables"
    )


def _nothing_for(name: str, parameter: str, stages: Mapping[str, str], arguments: Mapping[str, Any]) -> str:
    return (
        f"parameter {parameter!r} of {name} gets no value: it is neither an input stage ({listed(stages)}) "
        f"nor in 'arguments' ({listed(arguments)})"
    )
