"""The installation's id, which separates the keys of two installations that share one Redis."""

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
    """Return twelve characters that identify the database, the same for every process and spelling of the address.

    Raises StoreError when the database does not answer.
    """
    try:
        parts = _sqlite_file(database) if database.is_sqlite else _postgres_database(database)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot identify the database: {error}") from error
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=6).hexdigest()


def _postgres_database(database: Database) -> tuple[object, ...]:
    with database.read() as connection:
        return ("postgresql", *connection.execute(text(_POSTGRES)).one())


def _sqlite_file(database: Database) -> tuple[object, ...]:
    """Identify the file by its inode: containers may use different paths for it, and cloned machines the same path.

    A new file can reuse the inode of a deleted one; a number in the file's header tells them apart.
    """
    number = _number_in_header(database)
    path = Path(database.engine.url.database or "")
    try:
        status = path.stat()
    except OSError:
        return ("sqlite", _machine(), os.getpid(), id(database))  # in memory: private to this process
    return ("sqlite", _machine(), status.st_dev, status.st_ino, number)


def _number_in_header(database: Database) -> int:
    """Return SQLite's `user_version`, which has no other use here. The first process draws it at random."""
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
