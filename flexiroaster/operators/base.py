"""What an operator is: a config (a pydantic model), and a `run` from tables to a table.

    class Limit(Operator[LimitConfig]):
        '''Keep the first rows.'''

        stage_type = StageType.TRANSFORM
        name = "limit"
        config_model = LimitConfig
        arity = ONE

        def run(self, context: StageContext) -> pl.LazyFrame:
            return context.table.head(self.config.rows)

Operators run in a worker process. They get lazy frames and give a lazy frame (or a frame, or None): the engine writes
it, streaming, to an artifact. They raise `StageError` with the class of the failure where they know it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from flexiroaster.errors import ErrorClass, Problem, StageError
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
    "reveal",
]


class OperatorConfig(BaseModel):
    """The base of every operator's config: frozen, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretRef(OperatorConfig):
    """`{"secret": "NAME"}`: a value that is looked up when the stage runs and never stored."""

    secret: str


class Arity(NamedTuple):
    """How many input tables an operator takes; `most` None: any number."""

    least: int
    most: int | None


NONE, ONE, SOME, ANY = Arity(0, 0), Arity(1, 1), Arity(1, None), Arity(0, None)


@dataclass(frozen=True, slots=True)
class Access:
    """What this installation lets stages reach. Plain JSON values: it travels to the worker processes.

    `file_roots` are folders or URL prefixes that files may lie under; `connections` maps a name to an SQLAlchemy URL;
    `output_url` is the database that outputs write to when no connection is named; `python_modules` are the modules,
    or packages with a trailing `.*`, that a python stage may call; `http_hosts` are hosts allowed although their
    address is private. `own_tables` are the tables of FlexiRoaster itself, and `own_file` the SQLite file they are in:
    out of reach wherever they are.
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
    """All a stage attempt knows: who it is, its input tables by stage id (in the order of `dependencies`), and
    what it may reach. `workdir` is a scratch folder that is removed after the attempt. `in_memory` says that the input
    tables together are small enough to be held in memory, a few times over.
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
        """The only input table; for operators of arity ONE."""
        (frame,) = self.inputs.values()
        return frame


@dataclass(frozen=True, slots=True)
class Result:
    """What an attempt gives back, where it is more than a table.

    `table` goes to the stages downstream; `unchanged` names the input stage whose table is handed on as it is (no
    copy is written). `report` is JSON, stored in the stage's output. `side_tables` become artifacts of their own
    (a quarantine, say). `effect` (JSON) describes what an output did, enough to undo it.

    `beside` names the input stage whose rows those of `table` are, one for one and in the same order: all columns but
    the `fresh` ones are there under the same name, with the same values. The engine then need not write them again.
    With `kept`, a boolean for each row of that input, `table` is all its columns in the rows for which it is true.

    `file`, instead of a table, is one written already: an uncompressed Arrow IPC file in `workdir`. It is moved away.
    """

    table: pl.LazyFrame | pl.DataFrame | None = None
    unchanged: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    side_tables: Mapping[str, pl.LazyFrame | pl.DataFrame] = field(default_factory=dict)
    effect: Mapping[str, Any] | None = None
    beside: str | None = None
    fresh: Collection[str] = ()
    kept: pl.Series | None = None
    file: Path | None = None


C = TypeVar("C", bound=OperatorConfig)


class Operator(ABC, Generic[C]):
    """One thing a stage can do. The class docstring is its documentation; its first line the summary in lists.

    `example`, if given, is a stage that uses it, as a definition has it: it is shown with the documentation.
    """

    stage_type: ClassVar[StageType]
    name: ClassVar[str]
    config_model: ClassVar[type[OperatorConfig]]
    arity: ClassVar[Arity] = ONE
    example: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: C) -> None:
        self.config = config

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - for overriding
        """Problems that the config model alone cannot see, with paths relative to the config; none by default.

        Runs when a definition is checked: it must not touch data, files or the network.
        """
        yield from ()

    @abstractmethod
    def run(self, context: StageContext) -> pl.LazyFrame | pl.DataFrame | Result | None:
        """Do the work of one attempt; raises StageError (or anything) when it cannot."""


class OutputOperator(Operator[C]):
    """An operator with an effect outside. Its `run` takes effect once for (execution, stage), however often it is
    attempted, and returns a `Result` with the `effect`; `undo` reverts that effect and may be repeated as well.
    """

    @abstractmethod
    def run(self, context: StageContext) -> Result:
        """Take effect, once."""

    @abstractmethod
    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Revert the effect; a sentence on what was done. Raises StageError where it cannot be reverted."""

    def forget(self, effect: Mapping[str, Any], context: StageContext) -> None:
        """Drop what is kept outside for an undo only; afterwards the effect cannot be undone. May be repeated."""


def reveal(value: str | SecretRef, access: Access) -> str:
    """The string itself, or the secret it refers to. Raises StageError (configuration) when there is none."""
    if isinstance(value, str):
        return value
    try:
        return access.secrets[value.secret]
    except KeyError as error:
        message = f"no secret {value.secret!r}: set FLEXIROASTER_SECRET_{value.secret}"
        raise StageError(message, ErrorClass.CONFIGURATION) from error
