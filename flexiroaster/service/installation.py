"""The installation as one process uses it: its settings, its database, and the driver that runs executions."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from selectors import BaseSelector
from typing import TYPE_CHECKING

from flexiroaster.config import HOME, Settings, load_settings, psycopg_url, secrets_from
from flexiroaster.errors import StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.operators.base import Access
from flexiroaster.store import commands, leases, pipelines
from flexiroaster.store import database as migrate
from flexiroaster.store.database import Database, open_database
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
    from flexiroaster.service.tracing.execution import Tracing
    from flexiroaster.workers.local_runner import Runner
    from flexiroaster.workers.protocol import Message

__all__ = ["Installation", "access_of", "open_installation"]


# Stage access: the files, hosts, connections, modules and secrets that the settings let stages reach.
def access_of(settings: Settings) -> Access:
    """Build the access rules of stages from the settings."""
    file = _database_file(settings)
    return Access(
        file_roots=settings.file_roots,
        connections={name: psycopg_url(url) for name, url in settings.connections.items()},
        output_url=_output_url(settings, file),
        python_modules=settings.python_modules,
        http_hosts=settings.http_allowed_hosts,
        secrets=secrets_from(),
        own_tables=_OwnTables(),
        own_file=str(file) if file else "",
    )


class _OwnTables(Collection[str]):
    """The names of FlexiRoaster's own tables, loaded on first use because most checks do not need SQLAlchemy."""

    @cached_property
    def _names(self) -> tuple[str, ...]:
        from flexiroaster.store.tables import OWN_TABLES

        return OWN_TABLES

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _database_file(settings: Settings) -> Path | None:
    """The path of the installation's SQLite file, which may not exist yet; None on PostgreSQL."""
    url = psycopg_url(settings.database_url)
    if url.startswith("postgresql"):
        return None
    return (Path(url.removeprefix("sqlite:///")) if url else HOME / "flexiroaster.db").resolve()


def _output_url(settings: Settings, file: Path | None) -> str:
    """The URL that database outputs write to when they name no connection.

    On PostgreSQL this is the installation's own database. SQLite has a single writer, and a long output would block
    every state change, so there outputs go to a separate file next to the database.
    """
    if settings.output_database_url:
        return psycopg_url(settings.output_database_url)
    if file is None:
        return psycopg_url(settings.database_url)
    return f"sqlite:///{file.with_name(f'{file.stem}-output.db')}"


EXECUTIONS_PER_PROCESS = 4
"""How many executions a worker claims per stage process: enough to have another one ready while one waits."""


class Installation:
    """The runtime of the service layer in one process. The driver and its processes start with the first execution.

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
        self._knowledge: RiskStateCache | None = None
        self._watchers: WatchFactory | None = None
        self._journal: Journal | None = None
        self._intake: Journal | None = None
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
                migrate.upgrade_schema(database)
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
            if self._intake is None:
                self._intake = self.journal if self.database.is_sqlite else Journal(self.database)
            return self._intake

    @property
    def driver(self) -> Driver:
        """The driver of this process's executions."""
        with self._lock:
            if self._driver is None:
                self._tracing = self._tracing or self._open_tracing()  # its errors come before processes start
                self._driver = self._start_driver()
                self._keeper = self._keep_leases(self._driver)
                self._copies = self._start_local_copies(self._driver)
                if self._tracing is not None:
                    self._driver.listen(self._tracing.committed)
                if self._signals is not None:
                    self._tell(self._driver, self._signals)
            return self._driver

    @property
    def knowledge(self) -> RiskStateCache:
        """The safety engine's knowledge of past executions, held in the memory of this process."""
        from flexiroaster.service.safety.risk_state_cache import RiskStateCache  # outside the lock: the import is slow

        with self._lock:
            if self._knowledge is None:
                self._knowledge = RiskStateCache(self.database, self.settings.ai_anomaly_error_threshold)
            return self._knowledge

    @property
    def watch_factory(self) -> WatchFactory:
        """The factory of watches: each execution driven here gets one."""
        with self._lock:
            if self._watchers is None:
                from flexiroaster.service.safety.risk_state_cache import WatchFactory

                self._watchers = WatchFactory(self.database, self.settings)
            return self._watchers

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

    def warm_up(self) -> None:
        """Start the processes now instead of with the first execution; they start in the background."""
        _ = self.driver

    @property
    def signals(self) -> Signals:
        """The notifications to and from other processes, opened on first use."""
        with self._lock:
            if self._signals is None:
                from flexiroaster.service.signals import Signals

                self._signals = Signals(self.settings, self.database, self.owner, self.threads)
                if self._driver is not None:
                    self._tell(self._driver, self._signals)
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
                signals.on_work(self.wake)

    def take_over(self, execution_id: str) -> bool:
        """Drive an execution here if it needs a driver and no process drives it.

        Returns whether this process drives it now. Raises NotFoundError, StoreError.
        """
        if not self.signals.try_lock(execution_id):
            return self._is_driven_here(execution_id)
        ttl = self.settings.execution_lock_ttl
        claim = leases.claim_one(self.database, self.owner, execution_id, lease_seconds=ttl)
        if claim is not None:
            self.go_on(execution_id, claim.token, claim.claims)
        return self._is_driven_here(execution_id)

    def _is_driven_here(self, execution_id: str) -> bool:
        """Check without starting a driver, which is not needed if another process drives the execution."""
        return self._driver is not None and execution_id in self._driver.driven

    def go_on(self, execution_id: str, token: int, times: int = 1) -> None:
        """Drive an execution that this process claimed with that token, from its state in the database."""
        from flexiroaster.engine.scheduler import adopt

        adopt(self.driver, leases.Claim(execution_id, token, times), self._load, self._watch, self._outline)

    def definition(self, pipeline_id: str, revision: int) -> Pipeline:
        """Read the definition of a pipeline at a revision from the database; cached in processes that claim executions.

        Raises NotFoundError, StoreError.
        """
        load = partial(pipelines.definition, self.database, pipeline_id, revision)
        return load() if self._signals is None else self._signals.definitions.stored(pipeline_id, revision, load)

    def _load(self, execution_id: str) -> leases.Stored:
        return leases.load_execution(self.database, execution_id, self.definition)

    def _outline(self, execution_id: str) -> leases.Stored:
        return leases.outline_execution(self.database, execution_id)

    def _watch(self, stored: leases.Stored) -> Watch:
        return self.watch_factory.watch(stored.pipeline, stored.risk_level, stored.model_version)

    def wake(self) -> None:
        """Wake the scheduler, because there may be work for this process."""
        scheduler = self._scheduler
        if scheduler is not None:
            scheduler.wake()

    def announce_execution(self, execution_id: str) -> None:
        """Notify workers and list subscribers of a new execution that has no driver."""
        self.signals.created(execution_id)

    def notify_command(self, execution_id: str) -> None:
        """Notify the driver of a stored command: the one in this process, or else that of another process."""
        if self._driver is not None and execution_id in self._driver.driven:
            self._driver.look_for_commands([execution_id])
        else:
            self.signals.command(execution_id)

    def interrupt(self, thread: int) -> None:
        """Cancel the database read that a thread waits for, if any, because its result is no longer needed."""
        if self._database is not None:
            self._database.interrupt(thread)

    def hand_over(self) -> None:
        """Release all executions driven here, so that other processes can resume them at once."""
        with self._lock:
            helpers = [helper for helper in (self._scheduler, self._learner) if helper is not None]
            self._scheduler = self._learner = None
        for helper in helpers:
            helper.close()
        if self._driver is not None and (given := self._driver.hand_over()):
            leases.release(self.database, self.owner, given)
            self.signals.publish_released(given)
            failpoints.point("leases.after_release")

    def close(self) -> None:
        """Stop the driver and its processes, and close all connections. Can be called twice."""
        with self._lock:
            self._closed = True
            driver, self._driver = self._driver, None
            helpers = [helper for helper in (self._scheduler, self._learner, self._keeper) if helper is not None]
            self._scheduler = self._learner = self._keeper = None
            journals = {j for j in (self._journal, self._intake) if j is not None}
            self._journal = self._intake = None
            database, self._database = self._database, None
            signals, self._signals = self._signals, None
            copies, self._copies = self._copies, None
            tracing, self._tracing = self._tracing, None
        for helper in helpers:
            helper.close()
        if driver is not None:
            driver.close()
        if copies is not None:
            copies.close()
        if tracing is not None:
            tracing.close()
        if signals is not None:
            signals.close()
        for journal in journals:
            journal.close()
        if database is not None:
            database.close()

    @property
    def _processes(self) -> int:
        return self.settings.executor_workers or max(2, os.cpu_count() or 2)

    def _keep_leases(self, driver: Driver) -> LeaseKeeper:
        from flexiroaster.engine.leases import LeaseKeeper

        ttl = self.settings.execution_lock_ttl

        def renew(driven: set[str]) -> set[str]:
            with self.journal.paused():
                return leases.renew(self.database, self.owner, driven, lease_seconds=ttl)

        def renewed(held: set[str]) -> None:
            if self._signals is not None:
                self._signals.holds(held)

        interval = self.settings.heartbeat_interval
        return LeaseKeeper(driver, renew, renewed, ttl=ttl, interval=interval, threads=self.threads)

    def _start_learner(self, driver: Driver) -> Learner:
        from flexiroaster.service.safety.learner import Learner

        learner = Learner(self.database, lambda: self.knowledge, self.settings, self.owner, self.threads)
        driver.listen(learner.committed)
        return learner

    @staticmethod
    def _tell(driver: Driver, signals: Signals) -> None:
        """Connect both ways: other processes hear of the driver's events, the driver of their commands."""
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
        from flexiroaster.service.tracing import open_tracing

        return open_tracing(self.settings, self.owner, self.database, self.threads)

    def _start_scheduler(self, driver: Driver) -> Scheduler:
        from flexiroaster.engine.scheduler import Scheduler

        def claim(most: int, suspects: bool) -> list[leases.Claim]:
            if not leases.waiting(self.database):  # a read costs less than the write lock
                return []
            ttl = self.settings.execution_lock_ttl
            claimed = leases.claim(self.database, self.owner, most=most, lease_seconds=ttl, suspects=suspects)
            self.signals.holds({claim.execution_id for claim in claimed})
            return claimed

        def give_back(given: Sequence[leases.Claim], failed: str | None) -> None:
            leases.give_back(self.database, self.owner, given, failed)
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
        from flexiroaster.engine.driver import Driver, Limits
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


@contextmanager
def open_installation(settings: Settings | None = None, access: Access | None = None) -> Iterator[Installation]:
    """Open an installation for the block and close it at the end; without `settings`, the environment provides them."""
    installation = Installation(settings or load_settings(), access)
    try:
        yield installation
    finally:
        installation.close()
