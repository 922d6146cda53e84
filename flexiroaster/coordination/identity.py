"""Which installation this is: two that share one Redis must not take each other's keys for their own."""

from __future__ import annotations

import os
import secrets
import socket
from hashlib import blake2b
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.errors import StoreError
from flexiroaster.store.database import Database

__all__ = ["installation_id"]

_POSTGRES = """
SELECT s.system_identifier, d.oid FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()
"""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def installation_id(database: Database) -> str:
    """Twelve characters: the same for every process on this database, however it spells the address, and no other.

    Raises StoreError when the database does not answer.
    """
    try:
        parts = _sqlite_file(database) if database.is_sqlite else _postgres_database(database)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot ask the database who it is: {error}") from error
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=6).hexdigest()


def _postgres_database(database: Database) -> tuple[object, ...]:
    with database.read() as connection:
        return ("postgresql", *connection.execute(text(_POSTGRES)).one())


def _sqlite_file(database: Database) -> tuple[object, ...]:
    """The file itself: containers may see it under different names, and cloned machines under the same.

    A file that was deleted leaves its inode to the next one; a number in the file's header tells them apart.
    """
    number = _number_in_header(database)
    path = Path(database.engine.url.database or "")
    try:
        status = path.stat()
    except OSError:
        return ("sqlite", _machine(), os.getpid(), id(database))  # in memory: nobody else has it
    return ("sqlite", _machine(), status.st_dev, status.st_ino, number)


def _number_in_header(database: Database) -> int:
    """That of SQLite's `user_version`, which nobody else uses here; drawn by who finds none."""
    with database.read() as connection:
        if number := connection.exec_driver_sql("PRAGMA user_version").scalar_one():
            return int(number)
    with database.write() as connection:
        if not connection.exec_driver_sql("PRAGMA user_version").scalar_one():
            connection.exec_driver_sql(f"PRAGMA user_version = {secrets.randbelow(2**31 - 1) + 1:d}")
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


def _machine() -> str:
    try:
        return _BOOT_ID.read_text().strip()  # shared by all containers of one kernel
    except OSError:
        return socket.gethostname()
