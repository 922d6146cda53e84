"""Definition files: read YAML or JSON with a size limit, and report the place of a syntax error."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexiroaster.errors import DefinitionError, Problem
from flexiroaster.model.validation_messages import quoted

if TYPE_CHECKING:
    import yaml

__all__ = ["MAX_BYTES", "read_definition"]

MAX_BYTES = 64 * 1024**2
"""Maximum size of a definition file."""


def read_definition(path: str | Path) -> Any:  # noqa: ANN401 - any content of the file; `check` validates it
    """Parse a YAML or JSON file. Raises DefinitionError that names the file, and the line of a syntax error."""
    text = _text_of(path)
    if not text.strip():
        raise _invalid(f"{path}: the file is empty", "empty")
    return _parse_json(path, text) if str(path).endswith(".json") else _parse_yaml(path, text)


def _text_of(path: str | Path) -> str:
    content = _content_of(path)
    if len(content) > MAX_BYTES:
        raise _invalid(f"{path}: the file exceeds the {MAX_BYTES // 1024**2} MiB limit of a definition", "file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        hint = "; it looks like UTF-16" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else ""
        message = f"{path}: line {line}: is not UTF-8 text (byte 0x{content[error.start]:02x}){hint}"
        raise _invalid(message, "file") from error


def _content_of(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:  # it may be an endless pipe
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _invalid(f"no such file: {path}", "file") from error
    except IsADirectoryError as error:
        raise _invalid(f"{path} is a directory: give the path of a YAML or JSON file", "file") from error
    except (OSError, ValueError) as error:  # ValueError: the name contains NUL
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise _invalid(f"cannot read {str(path)!r}: {reason}", "file") from error


def _parse_json(path: str | Path, text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text, object_pairs_hook=_mapping)
    except json.JSONDecodeError as error:
        message = f"{path}: line {error.lineno}, column {error.colno}: {_lower(error.msg)}"
        raise _invalid(message, "syntax") from error
    except RecursionError as error:
        raise _invalid(f"{path}: is nested too deeply", "syntax") from error
    except ValueError as error:  # a duplicate key, or a number with thousands of digits
        raise _invalid(f"{path}: {_lower(str(error).partition(';')[0])}", "syntax") from error


def _mapping(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {quoted(key)} is given twice")
    return found


def _parse_yaml(path: str | Path, text: str) -> Any:  # noqa: ANN401 - YAML
    import yaml

    from flexiroaster.model import yaml_core

    try:
        return yaml_core.load(text)
    except yaml.MarkedYAMLError as error:
        mark, problem = _explained(error, text)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _invalid(f"{path}: {where}{problem}", "syntax") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"{path}: line {line}: the character U+{ord(text[error.position]):04X} is not allowed"
        raise _invalid(message, "syntax") from error
    except RecursionError as error:  # a long chain of merge keys that refer to each other
        raise _invalid(f"{path}: is nested too deeply", "syntax") from error


def _explained(error: yaml.MarkedYAMLError, text: str) -> tuple[yaml.Mark | None, str]:
    """Return the place and a description of the problem; for common mistakes, it says what to write instead."""
    mark, context, problem = error.problem_mark, error.context or "", error.problem or "is not valid YAML"
    if context.endswith("a quoted scalar") and "end of stream" in problem:
        return error.context_mark, "the quote is not closed"
    if context.endswith("an alias") or problem == "found undefined alias":
        return mark, "text that begins with * must be in quotes (without them it refers to an anchor)"
    if problem == "found character that cannot start any token" and mark is not None:
        found = text.splitlines()[mark.line][mark.column : mark.column + 1]
        return mark, _misplaced(found)
    if problem.startswith("mapping values are not allowed"):
        return mark, "a mapping cannot begin here: wrong indentation, or text with ': ' that must be in quotes"
    if problem == "but found another document":
        return mark, "a second document begins here: a file must contain exactly one pipeline"
    return mark, problem


def _misplaced(character: str) -> str:
    if character == "\t":
        return "indent with spaces, not tabs"
    return f"text that begins with {character} must be in quotes"


def _lower(message: str) -> str:
    return f"{message[:1].lower()}{message[1:]}"


def _invalid(message: str, code: str) -> DefinitionError:
    return DefinitionError([Problem("", message, code)])
