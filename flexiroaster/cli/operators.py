"""`flexiroaster operators`: lists and describes operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiroaster.cli.text import AsJson, UsageError, console, emit_json, one_line, report_errors, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flexiroaster.operators.base import Operator
    from flexiroaster.operators.document import ConfigField

__all__ = ["operators"]


@report_errors
def operators(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An operator, such as `transform.join` or `join`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List all operators, or describe one operator with its fields and an example."""
    if name is None:
        _list(as_json=as_json)
        return
    operator = _find(name)
    if as_json:
        emit_json(_document(operator))
    else:
        _describe(operator)


def _list(*, as_json: bool) -> None:
    from flexiroaster.operators import registry

    found = [(name, _summary_of(name)) for name in registry.names()]
    if as_json:
        emit_json([{"name": name, "summary": summary} for name, summary in found])
        return
    shown = table("operator", "")
    for name, summary in found:
        shown.add_row(name, summary)
    console().print(shown)


def _summary_of(name: str) -> str:
    """Return the first line of the description, or the reason why a third-party operator cannot be loaded."""
    from flexiroaster.errors import NotFoundError
    from flexiroaster.operators import registry
    from flexiroaster.operators.document import description_of

    try:
        return description_of(registry.find(name)).partition("\n")[0]
    except NotFoundError as error:
        return f"cannot be loaded: {one_line(error.details['reason'])}"


def _find(name: str) -> type[Operator[Any]]:
    from flexiroaster.errors import NotFoundError
    from flexiroaster.operators import registry

    candidates = [full for full in registry.names() if name in {full, full.partition(".")[2]}]
    if len(candidates) > 1:
        raise UsageError(f"{name!r} is ambiguous: use one of {', '.join(candidates)}")
    try:
        return registry.find(candidates[0] if candidates else name)
    except NotFoundError as error:
        raise UsageError(error.message if "reason" in error.details else _unknown(name)) from error


def _unknown(name: str) -> str:
    from flexiroaster.model.validation_messages import suggestion_hint
    from flexiroaster.operators import registry

    known = dict.fromkeys(full.partition(".")[2] for full in registry.names())
    return f"unknown operator {name!r}{suggestion_hint(name.rpartition('.')[2], known)}"


def _document(operator: type[Operator[Any]]) -> dict[str, Any]:
    from flexiroaster.operators import document
    from flexiroaster.operators.document import config_schema

    return {
        "name": document.full_name(operator),
        "description": document.description_of(operator),
        "inputs": {"least": operator.arity.minimum, "most": operator.arity.maximum},
        "example": document.example_of(operator) or None,
        "config_schema": config_schema(operator),
    }


def _describe(operator: type[Operator[Any]]) -> None:
    from flexiroaster.operators import document
    from flexiroaster.operators.document import config_schema, fields_of, nested_models

    schema = config_schema(operator)
    typer.echo(f"{document.full_name(operator)}\n\n{document.description_of(operator)}\n")
    typer.echo(f"Takes {document.inputs_of(operator.arity)}.\n")
    _print_fields("config", fields_of(schema))
    if document.notes_of(operator):
        typer.echo(f"{document.notes_of(operator)}\n")
    for name, nested in nested_models(schema):
        _print_fields(name, fields_of(nested, schema["$defs"]))
    if document.example_of(operator):
        typer.echo(document.example_text(operator))


def _print_fields(heading: str, fields: Iterable[ConfigField]) -> None:
    shown = table(heading, "type", "default", "")
    for field in fields:
        shown.add_row(field.name, field.type, _default(field), one_line(field.description))
    console().print(shown)
    typer.echo()


def _default(field: ConfigField) -> str:
    return "required" if field.required else field.default or ""
