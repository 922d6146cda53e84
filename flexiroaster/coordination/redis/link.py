"""The link to Redis: one connection pool, timeouts on every call, and a circuit breaker.

Redis reduces database load and is optional. Every call therefore has a default for when Redis is unavailable (`call`).
The first failure opens the circuit. While it is open, calls return their default at once, and a thread of the link
probes Redis once a second, with a real write, until it answers. A dead Redis costs one timeout, not one per call.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from flexiroaster.config import Settings
from flexiroaster.coordination.outbox import Outbox
from flexiroaster.coordination.redis.server import RedisServer
from flexiroaster.model.event import utc_now
from flexiroaster.threads import SupervisedThread, Threads

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["LUA_NOW", "RedisLink", "RedisState"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[["Redis"], object]

PROBE_INTERVAL = 1.0
"""Seconds between two probes of an unavailable Redis."""

PROBE_TIMEOUT = 1.0
"""Limit for connecting, and for the reply to one write (s); a smaller `REDIS_SOCKET_TIMEOUT` replaces it."""

QUEUE_LIMIT = 10_000
"""The maximum number of queued operations; more are dropped."""

LUA_NOW = "local time = redis.call('TIME'); local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
"""The beginning of a script that needs `now`, the milliseconds of the clock of Redis."""


@dataclass(frozen=True, slots=True)
class RedisState:
    """The state of Redis. In `fallback_mode` the database does its work.

    `since` is the start of this state, None before the first use. `last_error` is one line without credentials;
    `latency_ms` is that of the last `ping` or probe.
    """

    configured: bool
    available: bool
    fallback_mode: bool
    since: datetime | None = None
    last_error: str | None = None
    latency_ms: float | None = None


class RedisLink:
    """This process's link to Redis. Thread-safe; a forked child gets connections of its own.

    The constructor only validates `REDIS_URL` (SettingsError). The first use connects, and imports the client library
    only if a server listens at the address. `namespace` separates installations that share one Redis.
    """

    def __init__(self, settings: Settings, namespace: str = "", threads: Threads | None = None) -> None:
        self.namespace = namespace
        self.configured = bool(settings.redis_url)
        self._server = RedisServer(settings, PROBE_TIMEOUT) if self.configured else None
        self._closed = threading.Event()
        self._threads = threads
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._up = threading.Event()
        self._probed = threading.Event()  # the first probe has finished
        self._client: Redis | None = None
        self._period = 0  # number of outages so far
        self._prober: SupervisedThread | None = None
        self._suspected_at = float("-inf")
        self._since: datetime | None = None
        self._last_error: str | None = None
        self._latency: float | None = None
        self._outbox: Outbox[Operation] | None = None

    # --- use ---------------------------------------------------------------------------------------------------

    def call(self, operation: Callable[[Redis], T], default: T) -> T:
        """Return the operation's result, or `default` when Redis is unavailable. Redis failures never raise.

        Redis may have executed an operation that failed. An operation must not block on purpose (BLPOP).
        """
        period = self._period
        client = self._usable()
        if client is None:
            return default
        from redis.exceptions import DataError, MaxConnectionsError, RedisError, ResponseError

        started = monotonic()
        try:
            result = operation(client)
        except DataError:
            raise  # a defect of the caller; nothing was sent to Redis
        except MaxConnectionsError:
            return default  # this process is too busy, not Redis
        except ResponseError as error:  # Redis rejects this operation, or perhaps all of them: probe it
            self.probe_after(error)
            return default
        except (RedisError, OSError) as error:
            self._report_failure(error, period)
            return default
        if monotonic() - started > self._slow_reply_seconds:
            self._report_failure(TimeoutError(f"a reply took {monotonic() - started:.1f} s"), period)
        return result

    def script(self, source: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Any:  # noqa: ANN401 - what the script returns
        """Run a Lua script by its digest and return its result; None when Redis is unavailable. Survives a flush."""
        return self.call(lambda client: client.register_script(source)(keys=keys, args=arguments), None)

    def enqueue(self, operation: Callable[[Redis], object]) -> None:
        """Queue an operation for the link's own thread. Never blocks.

        The operation is dropped when Redis is unavailable or the queue is full.
        """
        if not self.configured:
            return
        if os.getpid() != self._pid:
            self._reset()
        with self._lock:
            if self._outbox is None:
                name = "flexiroaster-redis-later"
                self._outbox = Outbox(self._run_queued, name=name, limit=QUEUE_LIMIT, threads=self._threads)
            outbox = self._outbox
        outbox.put(operation)

    def ping(self) -> float | None:
        """Return the milliseconds of one round trip; None when Redis is unavailable."""
        started = monotonic()
        if not self.call(lambda client: bool(client.ping()), default=False):
            return None
        self._latency = (monotonic() - started) * 1000
        return self._latency

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` (s) until Redis is available; return whether it is."""
        return self._usable() is not None or (self._up.wait(timeout) and self.available)

    def probe_after(self, error: Exception) -> None:
        """Probe Redis at once after an error that it may have caused; the circuit stays closed meanwhile."""
        reason = self._describe(error)
        with self._lock:
            recently = monotonic() - self._suspected_at < PROBE_INTERVAL
            if recently or not self.available or self._prober is not None:
                return
            self._suspected_at = monotonic()
            known, self._last_error = self._last_error, reason
            self._start_prober()
        if reason != known:
            logger.warning("Redis at %s: %s", self._address, reason)

    @property
    def available(self) -> bool:
        """Whether the circuit is closed, so that calls go to Redis."""
        return self._up.is_set() and not self._closed.is_set()

    @property
    def state(self) -> RedisState:
        """The last known state; sends nothing to Redis."""
        available = self.available
        return RedisState(
            configured=self.configured,
            available=available,
            fallback_mode=not available,
            since=self._since,
            last_error=self._last_error,
            latency_ms=self._latency if available else None,
        )

    def key(self, kind: str, name: str) -> str:
        """Return the key for a globally unique name, such as an execution's id."""
        return f"flexiroaster:{kind}:{name}"

    def scoped_key(self, kind: str, name: str = "") -> str:
        """Return the key for a name that other installations on this Redis may also use, such as a pipeline's id."""
        return ":".join(part for part in ("flexiroaster", self.namespace, kind, name) if part)

    def close(self) -> None:
        """Run the queued operations, then close all connections. Later calls return their default."""
        if os.getpid() == self._pid and self._outbox is not None:
            self._outbox.close()
        with self._lock:
            self._closed.set()
            self._probed.set()
            prober, self._prober = self._prober, None
            client, self._client = self._client, None
        if prober is not None:
            prober.join(2 * PROBE_TIMEOUT)
        if client is not None:
            client.connection_pool.disconnect()

    # --- the circuit -------------------------------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return self._server.address if self._server else "nowhere"

    @property
    def _slow_reply_seconds(self) -> float:
        return self._server.probe_timeout if self._server else PROBE_TIMEOUT

    def _describe(self, error: Exception) -> str:
        return self._server.describe(error) if self._server else str(error)

    def _usable(self) -> Redis | None:
        """Return the client if the circuit is closed. The first callers wait for the first probe, for one timeout."""
        if os.getpid() != self._pid:
            self._reset()
        if not self._up.is_set():
            if self._probed.is_set() or not self.configured:
                return None
            with self._lock:
                if not self._probed.is_set() and self._prober is None:
                    self._start_prober()
            self._probed.wait(self._slow_reply_seconds)
        return self._client if self.available else None

    def _start_prober(self) -> None:
        """Start the probing thread. The caller holds the lock."""
        self._prober = SupervisedThread(
            self._probe_once, name="flexiroaster-redis-probe", closed=self._closed, threads=self._threads
        ).start()

    def _probe_once(self) -> bool:
        """Probe Redis; return whether to probe again."""
        error = self._probe()
        with self._lock:
            if self._closed.is_set():
                return False
            if error is None:
                self._prober = None
                self._close_circuit()
                return False
            self._open_circuit(error)
        self._closed.wait(PROBE_INTERVAL)
        return True

    def _probe(self) -> Exception | None:
        """Write to Redis over a separate connection; return the error, if any."""
        assert self._server is not None  # noqa: S101 - only a configured link starts a probe
        try:
            if self._client is None:
                self._client = self._server.open()
            elif not self._up.is_set():
                self._client.connection_pool.disconnect(inuse_connections=False)  # their state is unknown
            self._latency = self._server.probe(self._client, self.scoped_key("probe"))
        except Exception as error:  # noqa: BLE001 - any error makes Redis unavailable and is reported as the reason
            return error
        return None

    def _report_failure(self, error: Exception, period: int) -> None:
        with self._lock:
            if period != self._period or not self._up.is_set():
                return  # another thread has reported this outage, and Redis may be available again
            self._open_circuit(error)
            if self._prober is None and not self._closed.is_set():
                self._start_prober()

    def _open_circuit(self, error: Exception) -> None:
        """Open the circuit. The caller holds the lock. Logs once per outage, not at each probe."""
        first = not self._probed.is_set()
        self._last_error = self._describe(error)
        if first or self._up.is_set():
            self._since = utc_now()
            level = logging.INFO if first else logging.WARNING
            logger.log(level, "Redis at %s is unavailable, using the database: %s", self._address, self._last_error)
        if self._up.is_set():
            self._period += 1
        self._up.clear()
        self._probed.set()

    def _close_circuit(self) -> None:
        """Close the circuit. The caller holds the lock."""
        if self._up.is_set():
            return  # the probe followed a mere suspicion
        if self._probed.is_set():
            logger.info("Redis at %s is available again", self._address)
        self._since = utc_now()
        self._last_error = None
        self._up.set()
        self._probed.set()

    def _run_queued(self, operations: Sequence[Operation]) -> bool:
        for operation in operations:
            self.call(operation, None)
        return True
