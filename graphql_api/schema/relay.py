"""Global ids: `Type:key` in base64, opaque to clients. Arguments also accept a plain key, which is easier to type."""

from __future__ import annotations

import base64
import binascii

from flexiroaster.errors import InputError

__all__ = ["bare", "decode", "encode", "key_of"]


def encode(kind: str, *keys: str) -> str:
    """Return the global id of an object from its type and the parts of its key, which are joined by `/`."""
    return base64.urlsafe_b64encode(f"{kind}:{'/'.join(keys)}".encode()).decode()


def decode(global_id: str) -> tuple[str, str]:
    """Return the type and the key of a global id. Raises InputError."""
    try:
        kind, colon, key = base64.b64decode(global_id, altchars=b"-_", validate=True).decode().partition(":")
    except (binascii.Error, UnicodeError) as error:
        raise InputError(f"Not a global id: {global_id!r}", argument="id") from error
    if not colon or not kind.isalpha() or not key:
        raise InputError(f"Not a global id: {global_id!r}", argument="id")
    return kind, key


def key_of(kind: str, given: str) -> str:
    """Return the key from a global id of this type, or the argument itself. Raises InputError (id of another type)."""
    try:
        found, key = decode(given)
    except InputError:
        return given
    if found == kind:
        return key
    if found in KINDS:
        raise InputError(f"{given!r} is the id of a {found}, not of a {kind}", argument="id")
    return given


def bare(given: str) -> str:
    """Return the key from a global id of any type, or the argument itself."""
    try:
        kind, key = decode(given)
    except InputError:
        return given
    return key if kind in KINDS else given


KINDS = frozenset({"Pipeline", "PipelineRevision", "Execution", "StageRun", "Event", "Decision"})
"""The types that have global ids."""
