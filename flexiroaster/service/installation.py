"""The installation as one process uses it: its settings, its database, and the driver that runs executions."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from selectors import BaseSelector
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import SettingsError, StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.operators.base import Access
from flexiroaster.service.stage_access import access_of
from flexiroaster.store import commands, leases, pipelines
from flexiroaster.store.database import Database, open_database, upgrade_schema
from flexiroaster.store.journal.writer import Journal
from flexiroaster.threads import Failure, Threads

if TYPE_CHECKING:
    from flexiroaster.engine.driver import Driver
    from flexiroaster.engine.leases import LeaseKeeper
    from flexiroaster.engine.scheduler import Scheduler
    from flexiroaster.safety.anomaly.watch import Watch
    from flexiroaster.service.safety.learner import Learner
    from flexiroaster.service.safety.risk_state_cache import RiskStateCache, WatchFactory
    from flexiroaster.service.signals import LocalCopies, Signals
    from flexiroaster.service.tracing import Tracing
    from flexiroaster.workers.local_runner import Runner
    from flexiroaster.workers.protocol import Message

__all__ = ["Installation", "from_store", "open_installation"]

P = ParamSpec("P")
T = TypeVar("T")


EXECUTIONS_PER_PROCESS = 4
"""How many executions a worker claims per stage process: enough to have another one ready while one waits."""


class Installation:
    """The runtime of the service in one process. Each part opens on first use, the driver with the first execution.

    Thread-safe. Close it, or use `open_installation`, so that no process is left running.
    """

    def __init__(self, settings: Settings, access: Access | None = None) -> None:
        self.settings = settings
        self.access = access or access_of(settings)
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        """The owner of claimed executions: host, process id and a random suffix that no other process has had."""
        self.threads = Threads()
        """The failures of the threads of this process that must not die."""
        self._lock = threading.RLock()
        self._driver: Driver | None = None
        self._keeper: LeaseKeeper | None = None
        self._scheduler: Scheduler | None = None
        self._learner: Learner | None = None
        self._copies: LocalCopies | None = None
        self._tracing: Tracing | None = None
        self._signals: Signals | None = None
        self._risk_state: RiskStateCache | None = None
        self._watch_factory: WatchFactory | None = None
        self._journal: Journal | None = None
        self._start_journal: Journal | None = None
        self._database: Database | None = None
        self._closed = False

    @property
    def database(self) -> Database:
        """The database, migrated to this release's schema on first use. Raises StoreError."""
        with self._lock:
            if self._closed:
                raise StoreError("the installation is closed: open a new one")
            if self._database is None:
                database = open_database(self.settings)
                upgrade_schema(database)
                self._database = database
            return self._database

    @property
    def journal(self) -> Journal:
        """The writer of execution state."""
        with self._lock:
            if self._journal is None:
                self._journal = Journal(self.database)
            return self._journal

    @property
    def start_journal(self) -> Journal:
        """The writer of new executions.

        On PostgreSQL it is separate from `journal`, so that a start does not wait for the driver's current transaction.
        SQLite has a single writer anyway.
        """
        with self._lock:
            if self._start_journal is None:
                self._start_journal = self.journal if self.database.is_sqlite else Journal(self.database)
            return self._start_journal

    @property
    def driver(self) -> Driver:
        """The driver of this process's executions."""
        with self._lock:
            if self._driver is None:
                self._tracing = self._tracing or self._open_tracing()  # its errors come before processes start
                self._driver = self._start_driver()
                self._keeper = self._start_lease_keeper(self._driver)
                self._copies = self._start_local_copies(self._driver)
                if self._tracing is not None:
                    self._driver.listen(self._tracing.committed)
                if self._signals is not None:
                    self._connect(self._driver, self._signals)
            return self._driver

    def warm_up(self) -> None:
        """Start the processes now instead of with the first execution; they start in the background."""
        _ = self.driver

    @property
    def risk_state(self) -> RiskStateCache:
        """The risk states and the risk model, cached in the memory of this process."""
        from flexiroaster.service.safety.risk_state_cache import RiskStateCache  # outside the lock: the import is slow

        with self._lock:
            if self._risk_state is None:
                self._risk_state = RiskStateCache(self.database, self.settings.ai_anomaly_error_threshold)
            return self._risk_state

    @property
    def watch_factory(self) -> WatchFactory:
        """The factory of watches: each execution driven here gets one."""
        from flexiroaster.service.safety.risk_state_cache import WatchFactory  # outside the lock: the import is slow

        with self._lock:
            if self._watch_factory is None:
                self._watch_factory = WatchFactory(self.database, self.settings)
            return self._watch_factory

    @property
    def healthy(self) -> bool:
        """Whether the driver is alive or not started yet."""
        return self._driver is None or self._driver.alive

    @property
    def failures(self) -> list[Failure]:
        """The threads of this process that are failing now; a failed driver does not recover."""
        driver = self._driver
        if driver is None or driver.failure is None:
            return self.threads.failures
        return [Failure("flexiroaster-driver", driver.failure, essential=True), *self.threads.failures]

    @property
    def is_driving(self) -> bool:
        """Whether this process drives executions."""
        return self._driver is not None

    @property
    def signals(self) -> Signals:
        """The notifications to and from other processes, opened on first use."""
        with self._lock:
            if self._signals is None:
                from flexiroaster.service.signals import Signals

                self._signals = Signals(self.settings, self.database, self.owner, self.threads)
                if self._driver is not None:
                    self._connect(self._driver, self._signals)
            return self._signals

    @property
    def open_signals(self) -> Signals | None:
        """The signals if they are open, as in workers and servers. A process that runs once and ends needs none."""
        return self._signals

    def start_claiming(self) -> None:
        """Start to claim executions that no process drives, as workers and servers do."""
        with self._lock:
            if self._scheduler is None:
                signals = self.signals
                self._scheduler = self._start_scheduler(self.driver)
                self._learner = self._start_learner(self.driver)
                signals.on_work(self._scheduler.wake)

    def claim_and_drive(self, execution_id: str) -> bool:
        """Drive an execution here if it needs a driver and no process drives it.

        Returns whether this process drives it now. Raises NotFoundError, StoreError.
        """
        if not self.signals.try_lock(execution_id):
            return self._is_driven_here(execution_id)
        ttl = self.settings.execution_lock_ttl
        claim = leases.claim_one(self.database, self.owner, execution_id, lease_seconds=ttl)
        if claim is not None:
            from flexiroaster.engine.scheduler import adopt

            adopt(self.driver, claim, self._load, self._watch, self._outline)
        return self._is_driven_here(execution_id)

    def _is_driven_here(self, execution_id: str) -> bool:
        """Check without starting a driver, which is not needed if another process drives the execution."""
        return self._driver is not None and execution_id in self._driver.driven

    def definition(self, pipeline_id: str, revision: int) -> Pipeline:
        """Read the definition of a pipeline at a revision from the database; cached in processes that claim executions.

        Raises NotFoundError, StoreError.
        """
        load = partial(pipelines.definition, self.database, pipeline_id, revision)
        return load() if self._signals is None else self._signals.definitions.get_trusted(pipeline_id, revision, load)

    def _load(self, execution_id: str) -> leases.Stored:
        return leases.load_execution(self.database, execution_id, self.definition)

    def _outline(self, execution_id: str) -> leases.Stored:
        return leases.outline_execution(self.database, execution_id)

    def _watch(self, stored: leases.Stored) -> Watch:
        return self.watch_factory.watch(stored.pipeline, stored.risk_level, stored.model_version)

    def notify_command(self, execution_id: str) -> None:
        """Notify the driver of a stored command: the one in this process, or else that of another process."""
        driver = self._driver
        if driver is not None and execution_id in driver.driven:
            driver.look_for_commands([execution_id])
        else:
            self.signals.command(execution_id)

    def interrupt(self, thread: int) -> None:
        """Cancel the database read that a thread waits for, if any, because its result is no longer needed."""
        if self._database is not None:
            self._database.interrupt(thread)

    def hand_over(self) -> None:
        """Release all executions driven here, so that other processes can resume them at once."""
        with self._lock:
            claiming = (self._scheduler, self._learner)
            self._scheduler = self._learner = None
        _close_all(*claiming)
        if self._driver is not None and (given := self._driver.hand_over()):
            leases.release(self.database, self.owner, given)
            self.signals.publish_released(given)
            failpoints.point("leases.after_release")

    def close(self) -> None:
        """Stop the driver and its processes, and close all connections. Can be called twice."""
        with self._lock:
            self._closed = True
            claiming = (self._scheduler, self._learner, self._keeper)
            driving = (self._driver, self._copies, self._tracing, self._signals)
            journals = {self._journal, self._start_journal}  # on SQLite they are the same one
            database = self._database
            self._scheduler = self._learner = self._keeper = None
            self._driver = self._copies = self._tracing = self._signals = None
            self._journal = self._start_journal = self._database = None
        _close_all(*claiming, *driving, *journals, database)

    @property
    def _processes(self) -> int:
        return self.settings.executor_workers or max(2, os.cpu_count() or 2)

    def _start_lease_keeper(self, driver: Driver) -> LeaseKeeper:
        from flexiroaster.engine.leases import LeaseKeeper

        ttl = self.settings.execution_lock_ttl

        def renew(driven: set[str]) -> set[str]:
            with self.journal.paused():
                return leases.renew(self.database, self.owner, driven, lease_seconds=ttl)

        def renewed(held: set[str]) -> None:
            if self._signals is not None:
                self._signals.publish_leases(held)

        interval = self.settings.heartbeat_interval
        return LeaseKeeper(driver, renew, renewed, ttl=ttl, interval=interval, threads=self.threads)

    def _start_learner(self, driver: Driver) -> Learner:
        from flexiroaster.service.safety.learner import Learner

        learner = Learner(self.database, lambda: self.risk_state, self.settings, self.owner, self.threads)
        driver.listen(learner.on_committed)
        return learner

    @staticmethod
    def _connect(driver: Driver, signals: Signals) -> None:
        """Publish the driver's events to other processes, and pass their commands to the driver."""
        driver.listen(signals.committed)
        signals.on_command(driver.look_for_commands)

    def _start_local_copies(self, driver: Driver) -> LocalCopies | None:
        if "://" not in self.settings.artifacts_url:
            return None
        from flexiroaster.artifacts.store import Artifacts
        from flexiroaster.service.signals import LocalCopies

        copies = LocalCopies(Artifacts(self.settings.artifacts_url), self.threads)
        driver.listen(copies.committed)
        return copies

    def _open_tracing(self) -> Tracing | None:
        if not self.settings.traces_endpoint:
            return None
        try:
            from flexiroaster.service.tracing import Tracing
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "opentelemetry":
                raise
            message = f"{self.settings.traces_variable}: traces need the otel extra: pip install 'flexiroaster[otel]'"
            raise SettingsError(message) from error
        return Tracing(self.settings.traces_endpoint, self.owner, self.database, self.threads)

    def _start_scheduler(self, driver: Driver) -> Scheduler:
        from flexiroaster.engine.scheduler import Scheduler

        def claim(most: int, suspects: bool) -> list[leases.Claim]:
            if not leases.has_claimable(self.database):  # a read costs less than the write lock
                return []
            ttl = self.settings.execution_lock_ttl
            claimed = leases.claim(self.database, self.owner, limit=most, lease_seconds=ttl, suspects=suspects)
            self.signals.publish_leases({claim.execution_id for claim in claimed})
            return claimed

        def give_back(given: Sequence[leases.Claim], failed: str | None) -> None:
            leases.undo_claims(self.database, self.owner, given, failed)
            self.signals.publish_released({claim.execution_id for claim in given})

        return Scheduler(
            driver,
            claim,
            self._load,
            self._watch,
            self._outline,
            give_back,
            capacity=EXECUTIONS_PER_PROCESS * self._processes,
            threads=self.threads,
        )

    def _start_driver(self) -> Driver:
        from flexiroaster.engine.driven_execution import Limits
        from flexiroaster.engine.driver import Driver
        from flexiroaster.workers.local_runner import Runner

        size = self._processes
        artifacts = self.settings.artifacts_url
        if "://" not in artifacts:
            artifacts = str(Path(artifacts).resolve())  # stages may change the working directory

        def start(selector: BaseSelector, deliver: Callable[[Message], None]) -> Runner:
            return Runner(size=size, access=self.access, artifacts_url=artifacts, selector=selector, deliver=deliver)

        limits = Limits(self.settings.executor_default_timeout, self.settings.executor_stop_grace)
        database = self.database  # stays open until the driver has ended, unlike the property
        return Driver(lambda: self.journal, lambda ids: commands.pending(database, ids), start, limits)


class _Closeable(Protocol):
    def close(self) -> None: ...


def _close_all(*parts: _Closeable | None) -> None:
    """Close the parts that are open, in this order."""
    for part in parts:
        if part is not None:
            part.close()


@contextmanager
def open_installation(settings: Settings | None = None, access: Access | None = None) -> Iterator[Installation]:
    """Open an installation for the block and close it at the end; without `settings`, the environment provides them."""
    installation = Installation(settings or load_settings(), access)
    try:
        yield installation
    finally:
        installation.close()


def from_store(function: Callable[Concatenate[Database, P], T]) -> Callable[Concatenate[Installation, P], T]:
    """Return a function of the store that takes an installation in place of its database."""

    @wraps(function)
    def call(installation: Installation, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(installation.database, *args, **kwargs)

    return call
