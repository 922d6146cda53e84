"""One installation as seen from one process: its settings, its database, and the driver that runs executions."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from selectors import BaseSelector
from typing import TYPE_CHECKING

from flexiroaster import faults
from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import StoreError
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.operators.base import Access
from flexiroaster.service.access import access_of
from flexiroaster.store import claims, commands, definitions, migrate, recovery
from flexiroaster.store.database import Database, open_database
from flexiroaster.store.journal import Journal
from flexiroaster.threads import Failure, Threads

if TYPE_CHECKING:
    from flexiroaster.engine.driver import Driver
    from flexiroaster.engine.leases import LeaseKeeper
    from flexiroaster.engine.messages import Message
    from flexiroaster.engine.runner import Runner
    from flexiroaster.engine.scheduler import Scheduler
    from flexiroaster.safety.watch import Watch
    from flexiroaster.service.knowledge import Knowledge
    from flexiroaster.service.learner import Learner
    from flexiroaster.service.local_copies import LocalCopies
    from flexiroaster.service.signals import Signals
    from flexiroaster.service.tracing.following import Tracing
    from flexiroaster.service.watching import Watchers

__all__ = ["Installation", "access_of", "open_installation"]

EXECUTIONS_PER_PROCESS = 4
"""How many executions a worker claims per stage process: enough to have one ready when another waits."""


class Installation:
    """What the use cases work on. The driver and its processes start with the first execution.

    Thread-safe. Close it, or use `open_installation`, so that no process stays behind.
    """

    def __init__(self, settings: Settings, access: Access | None = None) -> None:
        self.settings = settings
        self.access = access or access_of(settings)
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        """Who claims executions: host, process and a number that no other process had."""
        self.threads = Threads()
        """What is wrong with the threads of this process that must not die."""
        self._lock = threading.RLock()
        self._driver: Driver | None = None
        self._keeper: LeaseKeeper | None = None
        self._scheduler: Scheduler | None = None
        self._learner: Learner | None = None
        self._copies: LocalCopies | None = None
        self._tracing: Tracing | None = None
        self._signals: Signals | None = None
        self._knowledge: Knowledge | None = None
        self._watchers: Watchers | None = None
        self._journal: Journal | None = None
        self._intake: Journal | None = None
        self._database: Database | None = None
        self._closed = False

    @property
    def database(self) -> Database:
        """The database, migrated to this version on first use. Raises StoreError."""
        with self._lock:
            if self._closed:
                raise StoreError("the installation is closed")
            if self._database is None:
                database = open_database(self.settings)
                migrate.upgrade(database)
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
    def intake(self) -> Journal:
        """The writer of new executions.

        On PostgreSQL one of its own, so that a start does not wait for the driver's transaction under way; SQLite has
        a single writer anyway.
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
                self._tracing = self._tracing or self._open_tracing()  # what is wrong with it is told first
                self._driver = self._start_driver()
                self._keeper = self._keep_leases(self._driver)
                self._copies = self._forget_copies(self._driver)
                if self._tracing is not None:
                    self._driver.listen(self._tracing.committed)
                if self._signals is not None:
                    self._tell(self._driver, self._signals)
            return self._driver

    @property
    def knowledge(self) -> Knowledge:
        """What the safety engine knows of the past, as this process has it in memory."""
        from flexiroaster.service.knowledge import Knowledge  # outside the lock: it takes its time

        with self._lock:
            if self._knowledge is None:
                self._knowledge = Knowledge(self.database, self.settings.ai_anomaly_error_threshold)
            return self._knowledge

    @property
    def watchers(self) -> Watchers:
        """What gives each execution that is driven here its watch."""
        with self._lock:
            if self._watchers is None:
                from flexiroaster.service.watching import Watchers

                self._watchers = Watchers(self.database, self.settings)
            return self._watchers

    @property
    def healthy(self) -> bool:
        """Whether the driver, if there is one, is alive."""
        return self._driver is None or self._driver.alive

    @property
    def failures(self) -> list[Failure]:
        """The threads of this process that are failing now; a driver that has failed stays so."""
        driver = self._driver
        if driver is None or driver.failure is None:
            return self.threads.failures
        return [Failure("flexiroaster-driver", driver.failure, essential=True), *self.threads.failures]

    @property
    def drives(self) -> bool:
        """Whether executions are driven in this process."""
        return self._driver is not None

    def warm_up(self) -> None:
        """Start the processes now rather than with the first execution; they start while the caller goes on."""
        _ = self.driver

    @property
    def signals(self) -> Signals:
        """What other processes are told and what is heard from them; opened on first use."""
        with self._lock:
            if self._signals is None:
                from flexiroaster.service.signals import Signals

                self._signals = Signals(self.settings, self.database, self.owner, self.threads)
                if self._driver is not None:
                    self._tell(self._driver, self._signals)
            return self._signals

    @property
    def open_signals(self) -> Signals | None:
        """The same where they are open, as in workers and servers. What runs once and ends needs none."""
        return self._signals

    def take_work(self) -> None:
        """From now on claim executions that nobody drives, as workers and servers do."""
        with self._lock:
            if self._scheduler is None:
                signals = self.signals
                self._scheduler = self._start_scheduler(self.driver)
                self._learner = self._start_learner(self.driver)
                signals.on_work(self.wake)

    def take_over(self, execution_id: str) -> bool:
        """Drive this execution here if it needs a driver and nobody is one; whether it is driven here now.

        Raises NotFoundError, StoreError.
        """
        if not self.signals.may_claim(execution_id):
            return self._is_driven_here(execution_id)
        ttl = self.settings.execution_lock_ttl
        claim = claims.claim_one(self.database, self.owner, execution_id, lease_seconds=ttl)
        if claim is not None:
            self.go_on(execution_id, claim.token, claim.claims)
        return self._is_driven_here(execution_id)

    def _is_driven_here(self, execution_id: str) -> bool:
        """Asked without starting a driver: to find that somebody else drives it takes none."""
        return self._driver is not None and execution_id in self._driver.driven

    def go_on(self, execution_id: str, token: int, times: int = 1) -> None:
        """Drive an execution that this process has claimed with that token, as it stands in the database."""
        from flexiroaster.engine.scheduler import adopt

        adopt(self.driver, claims.Claim(execution_id, token, times), self._load, self._watch, self._outline)

    def definition(self, pipeline_id: str, revision: int) -> Pipeline:
        """What a pipeline was at a revision, as the database has it; read once where executions are claimed.

        Raises NotFoundError, StoreError.
        """
        load = partial(definitions.definition, self.database, pipeline_id, revision)
        return load() if self._signals is None else self._signals.definitions.stored(pipeline_id, revision, load)

    def _load(self, execution_id: str) -> recovery.Stored:
        return recovery.load(self.database, execution_id, self.definition)

    def _outline(self, execution_id: str) -> recovery.Stored:
        return recovery.outline(self.database, execution_id)

    def _watch(self, stored: recovery.Stored) -> Watch:
        return self.watchers.watch(stored.pipeline, stored.risk_level, stored.model_version)

    def wake(self) -> None:
        """There may be work for this process."""
        scheduler = self._scheduler
        if scheduler is not None:
            scheduler.wake()

    def tell_of_work(self, execution_id: str) -> None:
        """Notify workers and list subscribers of a new execution without a driver."""
        self.signals.created(execution_id)

    def tell_of_command(self, execution_id: str) -> None:
        """Somebody has stored a command: have it carried out, here if the execution is driven here."""
        if self._driver is not None and execution_id in self._driver.driven:
            self._driver.look_for_commands([execution_id])
        else:
            self.signals.command(execution_id)

    def interrupt(self, thread: int) -> None:
        """End the read from the database that a thread waits for, if it does: nobody waits for its answer."""
        if self._database is not None:
            self._database.interrupt(thread)

    def hand_over(self) -> None:
        """Give up all executions that are driven here, so that others can go on with them at once."""
        with self._lock:
            helpers = [helper for helper in (self._scheduler, self._learner) if helper is not None]
            self._scheduler = self._learner = None
        for helper in helpers:
            helper.close()
        if self._driver is not None and (given := self._driver.hand_over()):
            claims.release(self.database, self.owner, given)
            self.signals.gave_up(given)
            faults.point("leases.after_release")

    def close(self) -> None:
        """End the driver, its processes and all connections. Closing twice is fine."""
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
                return claims.renew(self.database, self.owner, driven, lease_seconds=ttl)

        def renewed(held: set[str]) -> None:
            if self._signals is not None:
                self._signals.holds(held)

        interval = self.settings.heartbeat_interval
        return LeaseKeeper(driver, renew, renewed, ttl=ttl, interval=interval, threads=self.threads)

    def _start_learner(self, driver: Driver) -> Learner:
        from flexiroaster.service.learner import Learner

        learner = Learner(self.database, lambda: self.knowledge, self.settings, self.owner, self.threads)
        driver.listen(learner.committed)
        return learner

    @staticmethod
    def _tell(driver: Driver, signals: Signals) -> None:
        """Whatever the driver writes, others hear of; whatever commands they store, the driver hears of."""
        driver.listen(signals.committed)
        signals.on_command(driver.look_for_commands)

    def _forget_copies(self, driver: Driver) -> LocalCopies | None:
        if "://" not in self.settings.artifacts_url:
            return None
        from flexiroaster.engine.artifacts import Artifacts
        from flexiroaster.service.local_copies import LocalCopies

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

        def claim(most: int, suspects: bool) -> list[claims.Claim]:
            if not claims.waiting(self.database):  # a look costs less than the write lock
                return []
            ttl = self.settings.execution_lock_ttl
            claimed = claims.claim(self.database, self.owner, most=most, lease_seconds=ttl, suspects=suspects)
            self.signals.holds({claim.execution_id for claim in claimed})
            return claimed

        def give_back(given: Sequence[claims.Claim], failed: str | None) -> None:
            claims.give_back(self.database, self.owner, given, failed)
            self.signals.gave_up({claim.execution_id for claim in given})

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
        from flexiroaster.engine.runner import Runner

        size = self._processes
        artifacts = self.settings.artifacts_url
        if "://" not in artifacts:
            artifacts = str(Path(artifacts).resolve())  # a stage may change its working directory

        def start(selector: BaseSelector, deliver: Callable[[Message], None]) -> Runner:
            return Runner(size=size, access=self.access, artifacts_url=artifacts, selector=selector, deliver=deliver)

        limits = Limits(self.settings.executor_default_timeout, self.settings.executor_stop_grace)
        return Driver(lambda: self.journal, lambda ids: commands.pending(self.database, ids), start, limits)


@contextmanager
def open_installation(settings: Settings | None = None, access: Access | None = None) -> Iterator[Installation]:
    """An installation that is closed at the end of the block; the environment's where no settings are given."""
    installation = Installation(settings or load_settings(), access)
    try:
        yield installation
    finally:
        installation.close()
