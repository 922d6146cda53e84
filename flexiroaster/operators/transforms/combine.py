"""The multi-table transforms `join` and `concat`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Self

import polars as pl
from polars.exceptions import DuplicateError, PolarsError, SchemaError
from pydantic import Field, model_validator

from flexiroaster.errors import Problem, data_error, first_line
from flexiroaster.model.pipeline import StageType
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.operators.base import SOME, Access, Arity, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.tables import ColumnNames, describe_input, listed, missing_columns, require_columns

__all__ = ["Concat", "Join"]

_ROWS = "__flexiroaster_rows"


class JoinConfig(OperatorConfig):
    """Use `on` for keys with equal names, `left_on` and `right_on` for different names, and neither for `cross`."""

    left: str | None = Field(default=None, description="Stage id of the left table; default: the first dependency.")
    right: str | None = Field(default=None, description="Stage id of the right table; default: the other dependency.")
    on: ColumnNames | None = Field(
        default=None, min_length=1, description="Key columns with the same names on both sides."
    )
    left_on: ColumnNames | None = Field(default=None, min_length=1, description="Key columns of the left table.")
    right_on: ColumnNames | None = Field(default=None, min_length=1, description="Key columns of the right table.")
    how: Literal["inner", "left", "right", "full", "semi", "anti", "cross"] = Field(
        default="inner", description="The join type; semi and anti keep left rows with or without a match."
    )
    suffix: str = Field(
        default="_right", min_length=1, description="Suffix for columns of the right table whose name is already taken."
    )
    validate_: Literal["m:m", "1:m", "m:1", "1:1"] = Field(
        default="m:m", alias="validate", description="'1' requires unique keys on that side (left:right)."
    )

    @model_validator(mode="after")
    def _keys_match(self) -> Self:
        sides = (self.left_on, self.right_on)
        if self.how == "cross":
            if self.on or any(sides):
                raise ValueError("a cross join takes no keys")
        elif (self.on is None) == (self.left_on is None) or (self.left_on is None) != (self.right_on is None):
            raise ValueError("give either 'on' or both 'left_on' and 'right_on'")
        elif self.left_on and self.right_on and len(self.left_on) != len(self.right_on):
            raise ValueError(f"'left_on' has {len(self.left_on)} columns, 'right_on' {len(self.right_on)}")
        return self


class Join(Operator[JoinConfig]):
    """Join two tables on equal keys.

    `how` is inner, left, right, full, semi (left rows with a match), anti (left rows without a match), or cross. A
    missing key matches nothing. Rows are in the order of the left table, with `right` in the order of the right table.
    """

    stage_type = StageType.TRANSFORM
    name = "join"
    config_model = JoinConfig
    arity = Arity(2, 2)

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem if `left` or `right` is not a dependency, or if both are the same."""
        for field, stage_id in (("left", self.config.left), ("right", self.config.right)):
            if stage_id is not None and stage_id not in dependencies:
                hint = suggestion_hint(stage_id, dependencies) or f"; dependencies are {listed(dependencies)}"
                yield Problem(field, f"{stage_id!r} is not a dependency of this stage{hint}", "unknown_dependency")
        if self.config.left is not None and self.config.left == self.config.right:
            yield Problem("right", f"is the same table as 'left', {self.config.left!r}", "same_table")

    def run(self, context: StageContext) -> Result:
        """Return the joined table. Raises StageError (data) if keys are missing, not comparable or not unique."""
        left, right = self._sides(context)
        left_on = self.config.on or self.config.left_on or []
        right_on = self.config.on or self.config.right_on or []
        for stage_id, keys in ((left, left_on), (right, right_on)):
            require_columns(keys, context.inputs[stage_id].collect_schema(), describe_input(context, stage_id))
        joined = self._joined(context, left, right, left_on, right_on)
        for stage_id, keys, wanted in zip(
            (left, right), (left_on, right_on), self.config.validate_.split(":"), strict=True
        ):
            if wanted == "1":
                _require_unique(context.inputs[stage_id], keys, stage_id, self.config.validate_)
        if self.config.how == "left" and self.config.validate_ in {"m:1", "1:1"}:  # each left row gives exactly one row
            present = context.inputs[left].collect_schema()
            changed = [name for name, dtype in joined.collect_schema().items() if present.get(name) != dtype]
            return Result(table=joined, row_aligned_with=left, changed_columns=changed)
        return Result(table=joined)

    def _sides(self, context: StageContext) -> tuple[str, str]:
        ids = list(context.inputs)
        left = self.config.left or next(stage_id for stage_id in ids if stage_id != self.config.right)
        return left, self.config.right or next(stage_id for stage_id in ids if stage_id != left)

    def _joined(
        self, context: StageContext, left: str, right: str, left_on: list[str], right_on: list[str]
    ) -> pl.LazyFrame:
        config = self.config
        cross = config.how == "cross"
        joined = context.inputs[left].join(
            context.inputs[right],
            how=config.how,
            left_on=None if cross else left_on,
            right_on=None if cross else right_on,
            suffix=config.suffix,
            coalesce=left_on == right_on if config.how == "full" else None,
            maintain_order="right_left" if config.how == "right" else "left_right",  # makes results reproducible
        )
        try:
            joined.collect_schema()
        except SchemaError as error:
            raise data_error(_key_types(context, left, right, left_on, right_on)) from error
        except DuplicateError as error:
            raise data_error(f"{first_line(error)}; choose a 'suffix' other than {config.suffix!r}") from error
        return joined


def _key_types(context: StageContext, left: str, right: str, left_on: list[str], right_on: list[str]) -> str:
    ours, theirs = (context.inputs[stage_id].collect_schema() for stage_id in (left, right))
    pairs = [
        f"{a!r} is {ours[a]} in {left!r}, {b!r} is {theirs[b]} in {right!r}"
        for a, b in zip(left_on, right_on, strict=True)
        if ours[a] != theirs[b]
    ]
    return f"join keys have different types: {'; '.join(pairs)}; cast one of them first"


def _require_unique(table: pl.LazyFrame, keys: list[str], stage_id: str, wanted: str) -> None:
    """Raise StageError (data) if keys repeat.

    Polars' `validate` would fail only when the result is written, and does not name the key.
    """
    counted = table.select(keys).drop_nulls().group_by(keys, maintain_order=True).agg(pl.len().alias(_ROWS))
    repeated = counted.filter(pl.col(_ROWS) > 1).collect(engine="streaming")
    if repeated.is_empty():
        return
    example = ", ".join(f"{key}={value!r}" for key, value in zip(keys, repeated.row(0)[:-1], strict=True))
    raise data_error(
        f"keys {listed(keys)} are not unique in {stage_id!r}, but 'validate: {wanted}' requires it: "
        f"{repeated.height} repeated, such as {example} ({repeated.row(0)[-1]} times)"
    )


class ConcatConfig(OperatorConfig):
    """How tables are combined."""

    how: Literal["vertical", "diagonal", "horizontal"] = Field(
        default="vertical", description="Stack rows; stack rows with any columns; or put columns side by side."
    )
    relaxed: bool = Field(default=False, description="Convert columns of different types to a common type.")
    stage_column: str | None = Field(
        default=None, min_length=1, description="Name of a new column with the stage id of each row."
    )

    @model_validator(mode="after")
    def _stage_column_needs_rows(self) -> Self:
        if self.how == "horizontal" and self.stage_column is not None:
            raise ValueError("'stage_column' cannot be used with 'how: horizontal': each row comes from all tables")
        return self


class Concat(Operator[ConcatConfig]):
    """Stack tables in the order of the dependencies, or put them side by side.

    `vertical` requires the same columns in all tables, in any order. `diagonal` fills missing columns with null.
    `horizontal` requires equal row counts and different column names. Tables without columns are ignored.
    """

    stage_type = StageType.TRANSFORM
    name = "concat"
    config_model = ConcatConfig
    arity = SOME

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the combined table. Raises StageError (data) if the tables do not match."""
        tables: Mapping[str, pl.LazyFrame] = {i: table for i, table in context.inputs.items() if table.collect_schema()}
        for stage_id in missing_columns(context.inputs, tables):
            context.logger.warning("%s is empty: it has no columns and no rows", describe_input(context, stage_id))
        if not tables:
            return pl.LazyFrame()
        if self.config.how == "horizontal":
            return _side_by_side(tables)
        if self.config.how == "vertical":
            tables = _same_columns(tables)
        tables = self._labelled(tables)
        if not self.config.relaxed:
            _require_same_types(tables)
        return _stack(tables, vertical=self.config.how == "vertical", relaxed=self.config.relaxed)

    def _labelled(self, tables: Mapping[str, pl.LazyFrame]) -> Mapping[str, pl.LazyFrame]:
        label = self.config.stage_column
        if label is None:
            return tables
        for stage_id, table in tables.items():
            if label in table.collect_schema():
                raise data_error(f"stage_column: the table of stage {stage_id!r} already has a column {label!r}")
        return {stage_id: table.with_columns(pl.lit(stage_id).alias(label)) for stage_id, table in tables.items()}


def _same_columns(tables: Mapping[str, pl.LazyFrame]) -> Mapping[str, pl.LazyFrame]:
    """Return the tables with the columns in the order of the first. Raises StageError (data) if columns differ."""
    first_id, first = next(iter(tables.items()))
    wanted = first.collect_schema().names()
    for stage_id, table in tables.items():
        names = table.collect_schema().names()
        lacks, more = missing_columns(wanted, names), missing_columns(names, wanted)
        differences = [f"lacks {listed(lacks)}"] * bool(lacks) + [f"also has {listed(more)}"] * bool(more)
        if differences:
            raise data_error(
                f"the table of stage {stage_id!r} differs from that of {first_id!r}: it {' and '.join(differences)}; "
                "'how: diagonal' allows it"
            )
    return {stage_id: table.select(wanted) for stage_id, table in tables.items()}


def _require_same_types(tables: Mapping[str, pl.LazyFrame]) -> None:
    seen: dict[str, tuple[str, pl.DataType]] = {}
    for stage_id, table in tables.items():
        for name, dtype in table.collect_schema().items():
            first_id, first = seen.setdefault(name, (stage_id, dtype))
            if first != dtype:
                raise data_error(
                    f"column {name!r} is {first} in stage {first_id!r}, {dtype} in stage {stage_id!r}; "
                    "'relaxed: true' finds a common type"
                )


def _stack(tables: Mapping[str, pl.LazyFrame], *, vertical: bool, relaxed: bool) -> pl.LazyFrame:
    stacked = (
        pl.concat(tables.values(), how="vertical_relaxed" if relaxed else "vertical")
        if vertical
        else pl.concat(tables.values(), how="diagonal_relaxed" if relaxed else "diagonal")
    )
    try:
        stacked.collect_schema()
    except PolarsError as error:
        raise data_error(f"the tables do not match: {first_line(error)}") from error
    return stacked


def _side_by_side(tables: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    owner: dict[str, str] = {}
    for stage_id, table in tables.items():
        for name in table.collect_schema():
            if name in owner:
                raise data_error(
                    f"column {name!r} is in stage {owner[name]!r} and in stage {stage_id!r}; rename one of them"
                )
            owner[name] = stage_id
    lengths = {
        stage_id: table.select(pl.len()).collect(engine="streaming").item() for stage_id, table in tables.items()
    }
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{stage_id!r} {rows}" for stage_id, rows in lengths.items())
        raise data_error(f"'how: horizontal' requires equal row counts, found {counts}")
    return pl.concat(tables.values(), how="horizontal")
