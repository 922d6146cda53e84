"""The base class of responses, and the error responses."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Answer", "Done", "Failure", "Invalid", "InvalidItem", "Refusal", "Responses"]

Responses = dict[int | str, dict[str, Any]]
"""Status codes with the model and description of each response, for the OpenAPI document."""


class Answer(BaseModel):
    """Base class of response models, built from the attributes of service values."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")


class Done(Answer):
    """The request is done, or stored to be carried out."""

    success: Literal[True] = True
    message: str


class Refusal(Answer):
    """The reason why a request was refused."""

    detail: str


class InvalidItem(Answer):
    """One problem of a request: its location, a message and a stable type."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(Answer):
    """All problems of a request."""

    detail: list[InvalidItem]


class Failure(Answer):
    """A server error."""

    success: Literal[False] = False
    error: str
    detail: str = Field(description="The error id to look up in the server log; with DEBUG, the traceback.")
    timestamp: datetime
