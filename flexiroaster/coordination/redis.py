"""The link to Redis: one pool of connections, time-outs everywhere, and a circuit breaker.

Redis spares the database work and is never needed. So whatever is asked of it comes with the answer to give when it
cannot say (`call`). The first failure opens the circuit: from then on that answer comes at once, and a thread of the
link's own asks Redis once a second, by a real write, until it is back. A dead Redis costs one time-out, not one a call.
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
from flexiroaster.coordination.redis_server import RedisServer
from flexiroaster.model.event import utc_now
from flexiroaster.threads import SupervisedThread, Threads

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RedisLink", "RedisState"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[["Redis"], object]

PROBE_INTERVAL = 1.0
"""Seconds between two attempts to reach a Redis that is away."""

PROBE_TIMEOUT = 1.0
"""Seconds in which a Redis that is of use connects, and answers one write; `REDIS_SOCKET_TIMEOUT` if that is less."""

LATER_LIMIT = 10_000
"""Operations that may wait for `later`; more are dropped."""


@dataclass(frozen=True, slots=True)
class RedisState:
    """How it stands with Redis. `fallback_mode`: the database does its work. `since`: of this state, None: never asked.

    `last_error` is one line without credentials; `latency_ms` that of the last `ping` or probe.
    """

    configured: bool
    available: bool
    fallback_mode: bool
    since: datetime | None = None
    last_error: str | None = None
    latency_ms: float | None = None


class RedisLink:
    """What this process has of Redis. Thread-safe; a forked child gets connections of its own.

    Nothing happens before the first use: `REDIS_URL` is only checked (SettingsError), and the client library is not
    imported before something listens there. `namespace` keeps installations apart that share one Redis.
    """

    def __init__(self, settings: Settings, namespace: str = "", threads: Threads | None = None) -> None:
        self.namespace = namespace
        self.configured = bool(settings.redis_url)
        self._server = RedisServer(settings, PROBE_TIMEOUT) if self.configured else None
        self._closed = threading.Event()
        self._threads = threads
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._up = threading.Event()
        self._settled = threading.Event()  # it is known whether Redis is there
        self._client: Redis | None = None
        self._period = 0  # counts the times Redis went away
        self._prober: SupervisedThread | None = None
        self._suspected_at = float("-inf")
        self._since: datetime | None = None
        self._last_error: str | None = None
        self._latency: float | None = None
        self._later: Outbox[Operation] | None = None

    # --- use ---------------------------------------------------------------------------------------------------

    def call(self, operation: Callable[[Redis], T], default: T) -> T:
        """The operation's result, or `default` when Redis cannot say; never raises because of Redis.

        An operation that failed may have been carried out all the same. It must not wait on purpose (BLPOP).
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
            raise  # a mistake of ours, Redis was not asked
        except MaxConnectionsError:
            return default  # we are too busy, not Redis
        except ResponseError as error:  # it is there and refuses: this once, or everything?
            self.suspect(error)
            return default
        except (RedisError, OSError) as error:
            self._went_away(error, period)
            return default
        if monotonic() - started > self._patience:
            self._went_away(TimeoutError(f"an answer took {monotonic() - started:.1f} s"), period)
        return result

    def script(self, source: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Any:  # noqa: ANN401 - what the script returns
        """Run a Lua script, sent by its digest; what it returns, None when Redis cannot say. Survives a flush."""
        return self.call(lambda client: client.register_script(source)(keys=keys, args=arguments), None)

    def later(self, operation: Callable[[Redis], object]) -> None:
        """Do it soon, on a thread of the link's own; never waits. Dropped when Redis is away or too much waits."""
        if not self.configured:
            return
        if os.getpid() != self._pid:
            self._begin()
        with self._lock:
            if self._later is None:
                name = "flexiroaster-redis-later"
                self._later = Outbox(self._do_later, name=name, limit=LATER_LIMIT, threads=self._threads)
            later = self._later
        later.put(operation)

    def ping(self) -> float | None:
        """Milliseconds of one round trip; None when Redis is away."""
        started = monotonic()
        if not self.call(lambda client: bool(client.ping()), default=False):
            return None
        self._latency = (monotonic() - started) * 1000
        return self._latency

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` (s) until Redis is available; whether it is."""
        return self._usable() is not None or (self._up.wait(timeout) and self.available)

    def suspect(self, error: Exception) -> None:
        """Something is wrong that may or may not be Redis: look at once, without closing it for others."""
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
        """Whether calls go to Redis now."""
        return self._up.is_set() and not self._closed.is_set()

    @property
    def state(self) -> RedisState:
        """How it stands, without asking."""
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
        """The key of something whose name no other installation has, such as an execution's id."""
        return f"flexiroaster:{kind}:{name}"

    def scoped_key(self, kind: str, name: str = "") -> str:
        """The key of something that other installations on the same Redis may have too, such as a pipeline's id."""
        return ":".join(part for part in ("flexiroaster", self.namespace, kind, name) if part)

    def close(self) -> None:
        """Do what waits for `later`, then close all connections. From then on every call gives its default."""
        if os.getpid() == self._pid and self._later is not None:
            self._later.close()
        with self._lock:
            self._closed.set()
            self._settled.set()
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
    def _patience(self) -> float:
        return self._server.probe_timeout if self._server else PROBE_TIMEOUT

    def _describe(self, error: Exception) -> str:
        return self._server.describe(error) if self._server else str(error)

    def _usable(self) -> Redis | None:
        """The client while the circuit is closed; the first to ask wait until it is known, for one time-out at most."""
        if os.getpid() != self._pid:
            self._begin()
        if not self._up.is_set():
            if self._settled.is_set() or not self.configured:
                return None
            with self._lock:
                if not self._settled.is_set() and self._prober is None:
                    self._start_prober()
            self._settled.wait(self._patience)
        return self._client if self.available else None

    def _start_prober(self) -> None:
        """With the lock held."""
        self._prober = SupervisedThread(
            self._probe_once, name="flexiroaster-redis-probe", closed=self._closed, threads=self._threads
        ).start()

    def _probe_once(self) -> bool:
        """Look whether Redis is there; whether to look again."""
        error = self._probe()
        with self._lock:
            if self._closed.is_set():
                return False
            if error is None:
                self._prober = None
                self._came_back()
                return False
            self._mark_away(error)
        self._closed.wait(PROBE_INTERVAL)
        return True

    def _probe(self) -> Exception | None:
        """Write to Redis over a connection of our own; the error, if that does not work."""
        assert self._server is not None  # noqa: S101 - nobody probes what is not configured
        try:
            if self._client is None:
                self._client = self._server.open()
            elif not self._up.is_set():
                self._client.connection_pool.disconnect(inuse_connections=False)  # who knows what state those are in
            self._latency = self._server.probe(self._client, self.scoped_key("probe"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason why Redis is of no use
            return error
        return None

    def _went_away(self, error: Exception, period: int) -> None:
        with self._lock:
            if period != self._period or not self._up.is_set():
                return  # others have noticed before, and it may be back already
            self._mark_away(error)
            if self._prober is None and not self._closed.is_set():
                self._start_prober()

    def _mark_away(self, error: Exception) -> None:
        """With the lock held. Says so once, not at each attempt."""
        first = not self._settled.is_set()
        self._last_error = self._describe(error)
        if first or self._up.is_set():
            self._since = utc_now()
            level = logging.INFO if first else logging.WARNING
            logger.log(level, "Redis at %s is away, the database does its work: %s", self._address, self._last_error)
        if self._up.is_set():
            self._period += 1
        self._up.clear()
        self._settled.set()

    def _came_back(self) -> None:
        """With the lock held."""
        if self._up.is_set():
            return  # it was only suspected
        if self._settled.is_set():
            logger.info("Redis at %s is back", self._address)
        self._since = utc_now()
        self._last_error = None
        self._up.set()
        self._settled.set()

    def _do_later(self, operations: Sequence[Operation]) -> bool:
        for operation in operations:
            self.call(operation, None)
        return True
