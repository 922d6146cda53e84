"""Pipeline definitions: reading them from files, validating them before they are stored, and the defaults of fields.

Nothing here needs the database, so checking a file starts fast.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flexiroaster.config import Settings
from flexiroaster.errors import DefinitionError, Problem
from flexiroaster.model.json_values import NOT_FINITE, unstorable
from flexiroaster.model.pipeline import Pipeline, Stage, parse_pipeline, placeholders
from flexiroaster.model.validation_messages import quoted
from flexiroaster.operators.base import Access
from flexiroaster.operators.registry import check_stage
from flexiroaster.service.safety.config import policy_problems, risk_problems

if TYPE_CHECKING:
    import yaml

__all__ = [
    "MAX_BYTES",
    "check",
    "check_variables",
    "read_definition",
    "unset_variables",
    "with_defaults",
    "with_stable_id",
]

MAX_BYTES = 64 * 1024**2
"""Maximum size of a definition file."""


def check(raw: object, access: Access, variables: Mapping[str, Any] | None = None) -> Pipeline:
    """Validate a definition completely and return its pipeline.

    `variables` override the definition's own. A config that uses a variable without a value is not checked yet.
    Raises DefinitionError with every problem found: structure, operators, configs.
    """
    problems = _unstorable_variables(variables or {})
    if problems:
        raise DefinitionError(problems)
    try:
        pipeline = parse_pipeline(raw)
    except DefinitionError as error:
        problems = list(error.problems)
        if not any(problem.code == "depth" for problem in problems):
            _check_readable_stages(raw, access, problems)
        raise DefinitionError(problems) from error
    known = {**pipeline.variables, **(variables or {})}
    for i, stage in enumerate(pipeline.stages):
        problems += check_stage(i, stage, known, access)
    problems += risk_problems(pipeline)
    problems += policy_problems(pipeline)
    if problems:
        raise DefinitionError(problems)
    return pipeline


def check_variables(pipeline: Pipeline, access: Access, variables: Mapping[str, Any]) -> None:
    """Check the variables of an otherwise valid definition: every `${name}` has a value that its config accepts.

    Raises DefinitionError with every problem found.
    """
    problems = _unstorable_variables(variables)
    if problems:
        raise DefinitionError(problems)
    for i, stage in enumerate(pipeline.stages):
        if any(placeholders(stage.config)):
            missing = dict.fromkeys(name for name in placeholders(stage.config) if name not in variables)
            path = f"stages[{i}].config"
            problems += [Problem(path, f"variable {name!r} has no value", "missing_variable") for name in missing]
            problems += check_stage(i, stage, variables, access)
    if problems:
        raise DefinitionError(problems)


def unset_variables(pipeline: Pipeline, variables: Mapping[str, Any] | None = None) -> list[str]:
    """List the variables that stages use and that have no value yet, in the order of their first use."""
    known = {**pipeline.variables, **(variables or {})}
    used = (name for stage in pipeline.stages for name in placeholders(stage.config))
    return list(dict.fromkeys(name for name in used if name not in known))


def with_stable_id(raw: object) -> object:
    """Return the definition with an id derived from its name, if it has none.

    With a stable id, running a file again creates the next revision of its pipeline instead of another pipeline. The id
    is the name in lower case with `-` between words: names that differ only in case, spaces and punctuation denote the
    same pipeline.
    """
    if isinstance(raw, Pipeline):
        return raw if raw.id is not None else raw.model_copy(update={"id": _slug(raw.name)})
    if not isinstance(raw, Mapping) or raw.get("id") is not None or not isinstance(raw.get("name"), str):
        return raw
    return {**raw, "id": _slug(raw["name"])}


def with_defaults(pipeline: Pipeline, settings: Settings) -> Pipeline:
    """Return the pipeline with the installation's limits where its stages set none, so that a revision is complete."""
    defaults = {
        "timeout": settings.executor_stage_timeout,
        "max_retries": settings.executor_max_retries,
        "retry_delay": settings.executor_retry_delay,
        "retry_backoff": settings.executor_retry_backoff,
    }

    def fill(stage: Stage) -> Stage:
        missing = {field: value for field, value in defaults.items() if getattr(stage, field) is None}
        return stage.model_copy(update={**missing, "name": stage.title})

    return pipeline.model_copy(update={"stages": tuple(map(fill, pipeline.stages))})


def _check_readable_stages(raw: object, access: Access, problems: list[Problem]) -> None:
    """In a definition with an invalid structure, check the stages that can still be read against their operators."""
    stages = raw.get("stages") if isinstance(raw, Mapping) else None
    variables = raw.get("variables") if isinstance(raw, Mapping) else None
    known = variables if isinstance(variables, Mapping) else {}
    reported = {problem.path for problem in problems}
    for i, item in enumerate(stages if isinstance(stages, list | tuple) else ()):
        stage = _stage_for_operator_check(item)
        if stage is not None:
            problems += [problem for problem in check_stage(i, stage, known, access) if problem.path not in reported]


def _stage_for_operator_check(item: object) -> Stage | None:
    """Build a stage from its type, config and dependencies alone; None if one of these is invalid."""
    if isinstance(item, Stage):
        return item
    if not isinstance(item, Mapping):
        return None
    fields = {field: item[field] for field in ("type", "config", "dependencies") if field in item}
    try:
        return Stage.model_validate({"id": "unknown", **fields})
    except ValidationError:
        return None


def _unstorable_variables(variables: Mapping[str, Any]) -> list[Problem]:
    """List variables that cannot be stored. NaN is accepted: pandas uses it for null, and it is stored as null."""
    return [problem for problem in unstorable(variables, ("variables",)) if problem.code != NOT_FINITE]


def _slug(name: str) -> str:
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", name).casefold()).strip("-")
    return words[:255] or f"pipeline-{hashlib.sha256(name.encode()).hexdigest()[:12]}"  # the name is punctuation only


# --- definition files ------------------------------------------------------------------------------------------------


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
        character = text.splitlines()[mark.line][mark.column : mark.column + 1]
        if character == "\t":
            return mark, "indent with spaces, not tabs"
        return mark, f"text that begins with {character} must be in quotes"
    if problem.startswith("mapping values are not allowed"):
        return mark, "a mapping cannot begin here: wrong indentation, or text with ': ' that must be in quotes"
    if problem == "but found another document":
        return mark, "a second document begins here: a file must contain exactly one pipeline"
    return mark, problem


def _lower(message: str) -> str:
    return f"{message[:1].lower()}{message[1:]}"


def _invalid(message: str, code: str) -> DefinitionError:
    return DefinitionError([Problem("", message, code)])
