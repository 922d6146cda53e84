"""Exceptions as the rest of the system sees them: their class, and their description as JSON."""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import polars as pl
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
import sqlalchemy.exc

from flexiroaster.errors import ErrorClass, FlexiRoasterError, StageError
from flexiroaster.workers.error_classes import StageCancelled, classify, clean, describe


def raised(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is tested
        return error
    raise AssertionError("nothing was raised")


def on_sqlite(statement: str) -> BaseException:
    with sa.create_engine("sqlite://").connect() as connection:
        return raised(lambda: connection.execute(sa.text(statement)))


def http_status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://example.org")
    return httpx.HTTPStatusError(str(code), request=request, response=httpx.Response(code, request=request))


def from_cause(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


FRAME = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
C = ErrorClass

CLASSES: list[tuple[ErrorClass, BaseException]] = [
    (C.TIMEOUT, StageError("late", ErrorClass.TIMEOUT)),
    (C.UNKNOWN, StageError("strange")),
    (C.CANCELLED, StageCancelled()),
    (C.RESOURCE, MemoryError()),
    (C.RESOURCE, OSError(errno.ENOSPC, "No space left on device")),
    (C.RESOURCE, OSError(errno.EMFILE, "Too many open files")),
    (C.TRANSIENT, OSError(errno.EHOSTUNREACH, "No route to host")),
    (C.TRANSIENT, ConnectionResetError()),
    (C.TRANSIENT, TimeoutError()),
    (C.TRANSIENT, socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")),
    (C.UNKNOWN, socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
    (C.TRANSIENT, httpx.ConnectTimeout("slow")),
    (C.TRANSIENT, httpx.RemoteProtocolError("half an answer")),
    (C.CONFIGURATION, httpx.UnsupportedProtocol("ftp")),
    (C.TRANSIENT, http_status(503)),
    (C.TRANSIENT, http_status(429)),
    (C.CONFIGURATION, http_status(404)),
    (C.CODE, on_sqlite("SELECT * FROM absent")),
    (C.CODE, on_sqlite("SELEC 1")),
    (C.TRANSIENT, sqlite3.OperationalError("database is locked")),
    (C.RESOURCE, sqlite3.OperationalError("database or disk is full")),
    (C.CONFIGURATION, sqlite3.OperationalError("unable to open database file")),
    (C.TRANSIENT, sa.exc.OperationalError("SELECT 1", {}, psycopg.OperationalError("server closed the connection"))),
    (C.RESOURCE, sa.exc.OperationalError("INSERT", {}, psycopg.errors.DiskFull("disk full"))),
    (C.CODE, sa.exc.ProgrammingError("SELECT", {}, psycopg.errors.UndefinedTable("absent"))),
    (C.CONFIGURATION, sa.exc.ProgrammingError("SELECT", {}, psycopg.errors.InsufficientPrivilege("no"))),
    (C.DATA, sa.exc.IntegrityError("INSERT", {}, psycopg.errors.UniqueViolation("twice"))),
    (C.TRANSIENT, sa.exc.TimeoutError("the pool is empty")),
    (C.DATA, raised(lambda: FRAME.select("absent"))),
    (C.DATA, raised(lambda: FRAME.select(pl.col("b").cast(pl.Int64)))),
    (C.DATA, raised(lambda: pl.DataFrame({"a": [1], "b": [1, 2]}))),
    (C.CODE, raised(lambda: FRAME.sql("SELEC"))),
    (C.DATA, raised(lambda: pa.array(["x"], type=pa.int64()))),
    (C.DATA, raised(b"\xff".decode)),
    (C.CODE, raised(lambda: compile("a b", "s", "exec"))),
    (C.CODE, ModuleNotFoundError("No module named 'absent'")),
    (C.CODE, NameError("name 'absent' is not defined")),
    (C.CODE, AttributeError("absent")),
    (C.CODE, TypeError("wrong")),
    (C.CODE, NotImplementedError()),
    (C.CODE, RecursionError()),
    (C.CODE, SystemExit(1)),
    (C.CONFIGURATION, FileNotFoundError(errno.ENOENT, "No such file or directory", "absent.csv")),
    (C.CONFIGURATION, PermissionError(errno.EACCES, "Permission denied", "secret.csv")),
    (C.UNKNOWN, ValueError("wrong")),
    (C.UNKNOWN, KeyError("absent")),
    (C.UNKNOWN, KeyboardInterrupt()),
    (C.UNKNOWN, RuntimeError("failed")),
    (C.TRANSIENT, from_cause(RuntimeError("failed"), ConnectionResetError())),
    (C.CODE, from_cause(TypeError("wrong"), ConnectionResetError())),
    (C.TRANSIENT, ExceptionGroup("both", [ConnectionResetError(), TimeoutError()])),
    (C.UNKNOWN, ExceptionGroup("mixed", [ConnectionResetError(), TypeError()])),
]


@pytest.mark.parametrize(("expected", "error"), CLASSES, ids=[f"{e!r}"[:60] for _, e in CLASSES])
def test_classes(expected: ErrorClass, error: BaseException) -> None:
    assert classify(error) is expected


def test_a_cause_that_is_its_own_ends() -> None:
    error = RuntimeError("failed")
    error.__cause__ = error
    assert classify(error) is ErrorClass.UNKNOWN


def test_asking_imports_nothing() -> None:
    heavy = "polars", "httpx", "sqlalchemy"
    code = f"import sys, flexiroaster.workers.error_classes; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"


def test_a_stage_error() -> None:
    error = StageError("try later", ErrorClass.TRANSIENT, retry_after=7.5, column="age", rows=[1, 2])
    assert describe(error) == {
        "type": "flexiroaster.errors.StageError",
        "message": "try later",
        "class": "transient",
        "traceback": "",
        "retry_after": 7.5,
        "details": {"column": "age", "rows": [1, 2]},
    }


def test_an_ordinary_exception() -> None:
    described = describe(raised(lambda: [][1]))
    assert described["type"] == "IndexError"
    assert described["message"] == "list index out of range"
    assert described["retry_after"] is None
    assert described["details"] == {}
    assert described["traceback"].startswith("Traceback (most recent call last):\n")
    assert described["traceback"].endswith("IndexError: list index out of range\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("absent"), "KeyError: 'absent'"),
        (RuntimeError(), "RuntimeError"),
        (MemoryError(), "out of memory"),
        (SystemExit(3), "the stage's code called sys.exit(3)"),
        (SystemExit(), "the stage's code called sys.exit()"),
        (SystemExit("bye"), "the stage's code called sys.exit('bye')"),
        (StageCancelled(), "the stage was cancelled"),
        (ValueError("nul\0 and \udc80"), "nul\\x00 and \\udc80"),
    ],
)
def test_messages(error: BaseException, message: str) -> None:
    assert describe(error)["message"] == message


def test_frames_of_ours_are_left_out_before_others() -> None:
    namespace: dict[str, Any] = {}
    source = "def theirs(action):\n    return action()\n"
    exec(compile(source, "/somewhere/else/steps.py", "exec"), namespace)  # noqa: S102 - a function in another file
    ours = __import__("flexiroaster.model.pipeline", fromlist=["graph"])
    described = describe(raised(lambda: namespace["theirs"](lambda: ours.topological_order(None))))
    assert "/somewhere/else/steps.py" in described["traceback"]
    only_ours = describe(StageError("x").with_traceback(raised(lambda: ours.topological_order(None)).__traceback__))
    assert "topological_order" in only_ours["traceback"]


def test_long_texts_are_cut() -> None:
    def fail() -> None:
        raise ValueError("ä" * 20_000)

    described = describe(raised(fail))
    assert described["message"] == "ä" * 2048 + " … [35,904 bytes cut]"
    assert len(described["traceback"].encode()) < 16 * 1024 + 100
    assert " bytes cut] … " in described["traceback"][:40]
    assert described["traceback"].endswith("ä\n")


def test_cutting_does_not_halve_a_character() -> None:
    assert clean("aää", 4) == "aä … [1 bytes cut]"
    assert clean("aää", 3, keep_end=True) == "[2 bytes cut] … ä"


def test_objects_that_cannot_be_shown() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    described = describe(raised(lambda: (_ for _ in ()).throw(BrokenError())))
    assert described["message"] == "(the message is not available: RuntimeError('no text'))"


def test_details_are_json() -> None:
    details = describe(StageError("x", path=json, big=1 << 80))["details"]
    assert set(details) == {"omitted"}
    assert describe(StageError("x", path=json))["details"]["path"].startswith("<module 'json'")
    assert describe(StageError("x", text="x" * 100_000))["details"] == {
        "omitted": "the details have 100,011 bytes, at most 65,536 are kept"
    }
    orjson.dumps(describe(FlexiRoasterError("x", a=1)))
