"""Operator base classes: an operator has a config (a pydantic model) and a `run` from input tables to a table.

    class Limit(Operator[LimitConfig]):
        '''Keep the first rows.'''

        stage_type = StageType.TRANSFORM
        name = "limit"
        config_model = LimitConfig

        def run(self, context: StageContext) -> pl.LazyFrame:
            return context.table.head(self.config.rows)

Operators run in a worker process. They receive lazy frames and return a lazy frame, a frame or None. The engine streams
the result to an artifact. Operators raise `StageError` with an error class when they know the cause of a failure.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from flexiroaster.errors import Problem, configuration_error
from flexiroaster.model.pipeline import StageType

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "ANY",
    "NONE",
    "ONE",
    "SOME",
    "Access",
    "Arity",
    "Operator",
    "OperatorConfig",
    "OutputOperator",
    "Result",
    "SecretRef",
    "StageContext",
    "resolve_secret",
]


class OperatorConfig(BaseModel):
    """Base class of operator configs: frozen, rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretRef(OperatorConfig):
    """A secret value, `{"secret": "NAME"}`, which is looked up when the stage runs and is never stored."""

    secret: str


class Arity(NamedTuple):
    """The number of input tables that an operator takes; `maximum` None means no upper limit."""

    minimum: int
    maximum: int | None


NONE, ONE, SOME, ANY = Arity(0, 0), Arity(1, 1), Arity(1, None), Arity(0, None)


@dataclass(frozen=True, slots=True)
class Access:
    """The resources that this installation lets stages use, as plain JSON values for the worker processes.

    `file_roots` are the folders or URL prefixes whose files are allowed. `connections` maps a name to an SQLAlchemy
    URL. `output_url` is the database of outputs that name no connection. `python_modules` are the modules, or packages
    with a trailing `.*`, that a python stage may call. `http_hosts` are hosts that are allowed although their address
    is private. `own_tables` are FlexiRoaster's own tables and `own_file` is the SQLite file that holds them; stages
    have no access to either, in any database.
    """

    file_roots: tuple[str, ...] = ()
    connections: Mapping[str, str] = field(default_factory=dict, repr=False)
    output_url: str = field(default="", repr=False)
    python_modules: tuple[str, ...] = ()
    http_hosts: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    own_tables: Collection[str] = field(default=(), repr=False)
    own_file: str = ""


@dataclass(frozen=True, slots=True)
class StageContext:
    """The context of a stage attempt: its identity, its input tables, and the resources that it may use.

    `inputs` maps stage ids to tables, in the order of `dependencies`. `workdir` is a scratch folder that is removed
    after the attempt. `in_memory` is true if memory can hold all input tables together, a few times over.
    """

    execution_id: str
    pipeline_name: str
    stage_id: str
    attempt: int
    inputs: Mapping[str, pl.LazyFrame]
    workdir: Path
    variables: Mapping[str, Any] = field(default_factory=dict)
    access: Access = field(default_factory=Access)
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("flexiroaster.stage"))
    report_progress: Callable[[float, str], None] = lambda _fraction, _message: None
    in_memory: bool = False

    @property
    def table(self) -> pl.LazyFrame:
        """The single input table, for operators of arity ONE."""
        (frame,) = self.inputs.values()
        return frame


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an attempt that returns more than a table.

    `table` is passed to the downstream stages. `passthrough_stage` names the input stage whose table is passed on
    without a copy. `report` is JSON and is stored in the stage's output. Each of `side_tables`, such as a quarantine,
    becomes an artifact. `effect` (JSON) describes what an output did, in enough detail to undo it.

    `row_aligned_with` names an input stage whose rows match the rows of `table` one to one, in the same order. All
    columns except `changed_columns` have the same names and values in both, so the engine need not write them again.
    With `row_mask`, one boolean for each row of that input, `table` has all columns of the input and only the rows
    where the mask is true.

    `file` replaces `table`: an uncompressed Arrow IPC file in `workdir`, which the engine moves to its place.
    """

    table: pl.LazyFrame | pl.DataFrame | None = None
    passthrough_stage: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    side_tables: Mapping[str, pl.LazyFrame | pl.DataFrame] = field(default_factory=dict)
    effect: Mapping[str, Any] | None = None
    row_aligned_with: str | None = None
    changed_columns: Collection[str] = ()
    row_mask: pl.Series | None = None
    file: Path | None = None


C = TypeVar("C", bound=OperatorConfig)


class Operator(ABC, Generic[C]):
    """Base class of operators. A subclass's docstring is its documentation, and the first line is the summary.

    `example`, if given, is a stage of a definition that uses the operator; the documentation shows it.
    """

    stage_type: ClassVar[StageType]
    name: ClassVar[str]
    config_model: ClassVar[type[OperatorConfig]]
    arity: ClassVar[Arity] = ONE
    example: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: C) -> None:
        self.config = config

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - for overriding
        """Yield the problems that the config model cannot detect, with paths relative to the config; none by default.

        This runs when a definition is checked, so it must not access data, files or the network.
        """
        yield from ()

    @abstractmethod
    def run(self, context: StageContext) -> pl.LazyFrame | pl.DataFrame | Result | None:
        """Do the work of one attempt. Raise StageError, or any exception, on failure."""


class OutputOperator(Operator[C]):
    """Base class of operators with an external effect.

    `run` is idempotent: it takes effect once for each (execution, stage), no matter how many attempts run, and returns
    a `Result` with the `effect`. `undo` reverts that effect and is idempotent, too.
    """

    stage_type = StageType.OUTPUT

    def refuse_problems(self, access: Access) -> None:
        """Raise StageError (configuration) for the first problem that `check` finds."""
        for problem in self.check((), access):
            raise configuration_error(f"config.{problem}")

    @abstractmethod
    def run(self, context: StageContext) -> Result:
        """Apply the effect exactly once."""

    @abstractmethod
    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Revert the effect and return a sentence on what was done. Raises StageError if this is impossible."""

    def discard_undo_data(self, effect: Mapping[str, Any], context: StageContext) -> None:
        """Delete external data kept only for `undo`; the effect can no longer be undone. This is idempotent."""


def resolve_secret(value: str | SecretRef, access: Access) -> str:
    """Return the string or the secret that it names. Raises StageError (configuration) if the secret is not set."""
    if isinstance(value, str):
        return value
    try:
        return access.secrets[value.secret]
    except KeyError as error:
        message = f"secret {value.secret!r} is not set: set FLEXIROASTER_SECRET_{value.secret}"
        raise configuration_error(message) from error
