"""The schema in writing: `graphql_api/schema.graphql`, the table of permissions, and what a change of it breaks.

python -m graphql_api.sdl print > graphql_api/schema.graphql
python -m graphql_api.sdl permissions > docs/graphql-permissions.md
git show HEAD~1:graphql_api/schema.graphql | python -m graphql_api.sdl changes
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby

import strawberry
from graphql import build_schema, find_breaking_changes, find_dangerous_changes, lexicographic_sort_schema, print_schema

from flexiroaster.model.viewer import Role
from graphql_api.permissions import permissions

__all__ = ["changes", "permission_table", "sdl"]

_INTRODUCTION = """\
# Who may use which field

<!-- Written by `python -m graphql_api.sdl permissions`: change the schema's declarations, not this. -->

A document that uses a field above the viewer's role is refused before anything of it runs, with the code `FORBIDDEN`.
Each role may do what those before it may. Fields that every role may use are listed by their type only.
"""


def sdl(schema: strawberry.Schema) -> str:
    """The schema definition, sorted, so that a change of it shows as what it is."""
    plain = build_schema(schema.as_str())  # strawberry's `sort_schema` makes a schema whose unions fail
    return print_schema(lexicographic_sort_schema(plain)) + "\n"


def permission_table(schema: strawberry.Schema) -> str:
    """Role by field, as markdown."""
    table = sorted(permissions(schema).items())
    lines = [_INTRODUCTION, f"| field | {' | '.join(Role)} |", f"|---|{'---|' * len(Role)}"]
    for type_name, fields in groupby(table, key=lambda item: item[0][0]):
        lines += _rows(type_name, {field: needed for (_, field), needed in fields})
    return "\n".join([*lines, ""])


def changes(before: str, schema: strawberry.Schema) -> Iterator[str]:
    """What is different from an earlier definition and may break or surprise a client, a line each."""
    old, new = build_schema(before), schema._schema
    for change in find_breaking_changes(old, new):
        yield f"breaking: {change.description}"
    for risk in find_dangerous_changes(old, new):
        yield f"dangerous: {risk.description}"


def _rows(type_name: str, fields: dict[str, Role]) -> Iterator[str]:
    special = {field: needed for field, needed in fields.items() if needed is not Role.VIEWER}
    if len(special) < len(fields):
        others = f"{type_name}.*" if not special else f"{type_name}: other fields"
        yield _row(others, Role.VIEWER)
    for field, needed in special.items():
        yield _row(f"{type_name}.{field}", needed)


def _row(name: str, needed: Role) -> str:
    return f"| `{name}` | {' | '.join('yes' if role.covers(needed) else 'no' for role in Role)} |"


def main(arguments: list[str]) -> int:
    """Print what is asked for."""
    from graphql_api.schema import schema

    match arguments:
        case ["print"]:
            sys.stdout.write(sdl(schema))
        case ["permissions"]:
            sys.stdout.write(permission_table(schema))
        case ["changes"]:
            for line in changes(sys.stdin.read(), schema):
                sys.stdout.write(f"{line}\n")
        case _:
            sys.stderr.write("one of: print, permissions, changes\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
