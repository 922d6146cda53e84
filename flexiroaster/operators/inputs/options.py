"""Read options: the config fields that all inputs that read files share."""

from __future__ import annotations

import codecs
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from flexiroaster.operators.base import OperatorConfig

__all__ = ["ReadOptions"]

LOSSY = "utf8-lossy"


def _a_type(name: str) -> str:
    from flexiroaster.operators.dtypes import parse_dtype

    parse_dtype(name)
    return name


def _an_encoding(name: str) -> str:
    if name == LOSSY:
        return name
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise ValueError(f"unknown encoding {name!r}") from error


def _one_byte(character: str) -> str:
    if len(character.encode()) != 1:
        raise ValueError(f"must be one ASCII character, not {character!r}")
    return character


Character = Annotated[str, AfterValidator(_one_byte)]


class ReadOptions(OperatorConfig):
    """`schema` sets the types of columns by name; the other types are inferred.

    For csv and tsv, types are inferred from the first `infer_rows` rows (null: from all rows). For ndjson, they are
    inferred from all rows unless `infer_rows` is set. `rows` limits the number of rows read from all files together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    columns: list[str] | None = Field(default=None, min_length=1, description="Columns to read, in this order.")
    schema_: dict[str, Annotated[str, AfterValidator(_a_type)]] | None = Field(default=None, alias="schema")
    separator: Character | None = Field(default=None, description="Default: a comma; for tsv, a tab.")
    has_header: bool = True
    encoding: Annotated[str, AfterValidator(_an_encoding)] = "utf-8"
    quote: Character | None = '"'
    null_values: list[str] = Field(default_factory=list, description="Texts that mean null, besides the empty text.")
    skip_rows: int = Field(default=0, ge=0, description="Lines to skip before the header.")
    infer_rows: int | None = Field(default=10_000, ge=1)
    try_parse_dates: bool = False
    file_column: str | None = Field(default=None, min_length=1, description="Adds a column with the file's name.")
    rows: int | None = Field(default=None, ge=0)
