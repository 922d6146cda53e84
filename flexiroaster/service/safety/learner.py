"""Background learning: updates the risk states soon after runs end, and trains the model when due, in a child process.

Insights about anomalies do not wait for the end of the run.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from tempfile import TemporaryFile
from time import monotonic
from typing import IO, TYPE_CHECKING

from flexiroaster.config import Settings
from flexiroaster.errors import StoreError
from flexiroaster.model.event import ENDS, Event, EventType, utc_now
from flexiroaster.service.safety.insight_messages import anomaly_of_event
from flexiroaster.store.database import Database
from flexiroaster.store.executions import LARGE, executions_by_id
from flexiroaster.store.safety import insights, risk
from flexiroaster.threads import SupervisedThread, Threads

if TYPE_CHECKING:
    from flexiroaster.service.safety.risk_state_cache import RiskStateCache

__all__ = ["LIMIT_SECONDS", "Learner", "Trainer", "TrainingProcess"]


logger = logging.getLogger(__name__)

FOLD_SECONDS = 0.2
"""The minimum time between two folds; executions that end in between are folded together."""

POLL_SECONDS = 30.0
"""The interval between checks for executions that other processes left unprocessed."""

TRAINING_SECONDS = 0.25
"""The interval between checks of a training in progress."""

RETRY_SECONDS = 5.0

LIMIT_SECONDS = 600
"""The time limit of a training; 100,000 runs take about 20 s of CPU."""

PAUSE = 5.0
"""The pause after a training, as a multiple of its duration, so that training never occupies a core permanently."""

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0
"""The seconds before a failed training is retried; doubled with each failure, up to the longest."""

BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from flexiroaster.service.safety.training import main; main()"
MAX_OUTPUT = 4096


class Learner:
    """The background learning thread. It is optional: readers catch up themselves, but rarely find anything to do."""

    def __init__(
        self,
        database: Database,
        risk_state: Callable[[], RiskStateCache],
        settings: Settings,
        owner: str,
        threads: Threads | None = None,
    ) -> None:
        self._database = database
        self._risk_state = risk_state
        self._settings = settings
        self._owner = owner
        self._fold_pending = True
        self._folded_at = float("-inf")
        self._ended = threading.Event()
        self._anomalies: deque[Event] = deque()  # those that still need an insight
        self._closing = threading.Event()
        self._trainer: Trainer | None = None
        self._thread = SupervisedThread(
            self._turn,
            name="flexiroaster-learner",
            closed=self._closing,
            threads=threads,
            purpose="background learning from finished executions is interrupted",
            expected=(StoreError,),
            pause=RETRY_SECONDS,
        )
        self._thread.start()

    def on_committed(self, events: Sequence[Event]) -> None:
        """React to committed events of the driver: ended executions and anomalies. Never blocks."""
        self._anomalies.extend(event for event in events if event.type is EventType.STAGE_ANOMALY)
        if self._anomalies or any(event.type in ENDS for event in events):
            self._ended.set()

    def close(self, timeout: float = 5.0) -> None:
        """Stop the thread and a training in progress. Idempotent."""
        self._closing.set()
        self._ended.set()
        self._thread.join(timeout)

    def _turn(self) -> bool:
        """Learn from new runs, then wait for more; return whether to continue."""
        if self._closing.is_set():
            self._close_trainer()
            return False
        try:
            risk_state = self._risk_state()  # loaded here because its imports are not needed by workers
        except StoreError:  # closed before it began
            return False
        if self._trainer is None:
            self._trainer = Trainer(self._database, risk_state, self._settings, self._owner)
        self._record_insights()
        self._fold(risk_state)
        self._trainer.poll()
        self._thread.report_success()
        self._wait(TRAINING_SECONDS if self._trainer.busy else POLL_SECONDS)
        return True

    def _close_trainer(self) -> None:
        try:
            if self._trainer is not None:
                self._trainer.close()
        except StoreError as error:
            logger.warning("cannot release the training lease; it will expire on its own: %s", error)

    def _record_insights(self) -> None:
        """Record insights about anomalies in running executions. The fold after their end catches any missed here."""
        events = [self._anomalies.popleft() for _ in range(len(self._anomalies))]
        if not events:
            return
        rows = executions_by_id(self._database, {event.execution_id for event in events}, LARGE)
        with self._database.write() as connection:
            for event in events:
                data = {**(event.data or {}), "stage_id": event.stage_id}
                pipeline_id = rows[event.execution_id].pipeline_id
                if (finding := anomaly_of_event(pipeline_id, event.execution_id, data)) is not None:
                    insights.record(connection, finding, utc_now())

    def _fold(self, risk_state: RiskStateCache) -> None:
        """Fold one batch if there may be new runs. Only one, because starts in this process wait meanwhile."""
        if self._ended.is_set():
            self._ended.clear()
            self._fold_pending = True
        if self._fold_pending or monotonic() - self._folded_at >= POLL_SECONDS:
            self._fold_pending = True  # also if this fails
            self._folded_at = monotonic()
            self._fold_pending = risk_state.catch_up(batches=1)

    def _wait(self, seconds: float) -> None:
        if not self._fold_pending:
            self._ended.wait(seconds)
        if self._fold_pending or self._ended.is_set():
            self._closing.wait(max(0.0, self._folded_at + FOLD_SECONDS - monotonic()))


class Trainer:
    """The training supervisor; only one process of the installation trains at a time.

    One thread calls `poll` repeatedly; each call takes no longer than one statement. The claim is a lease like those of
    executions. It is renewed while the child process runs. If this process dies, the lease expires and the child ends
    too.
    """

    def __init__(self, database: Database, risk_state: RiskStateCache, settings: Settings, owner: str) -> None:
        self._database = database
        self._risk_state = risk_state
        self._settings = settings
        self._owner = owner
        self._lease = settings.execution_lock_ttl
        self._process: TrainingProcess | None = None
        self._began_at = self._renewed_at = 0.0
        self._not_before = 0.0
        self._failures = 0
        self._last_failure = ""

    @property
    def busy(self) -> bool:
        """Whether this process has a training in progress."""
        return self._process is not None

    def poll(self) -> None:
        """Start a training if due as of the last `catch_up`, or check the one in progress. Raises StoreError."""
        every = self._settings.ai_train_every
        if self._process is not None:
            self._watch(self._process)
        elif every != 0 and self._risk_state.training_due(every) and monotonic() >= self._not_before:
            self._begin()

    def close(self) -> None:
        """Stop a training in progress; another process can start one at once. Raises StoreError."""
        if self._process is not None:
            self._end(0.0)

    def _begin(self) -> None:
        self._not_before = monotonic() + self._lease / 3  # when to ask again if another process trains
        model_id = self._risk_state.version[1]
        if not risk.claim_training(self._database, self._owner, model_id=model_id, lease_seconds=self._lease):
            return
        self._began_at = self._renewed_at = monotonic()
        try:
            self._process = TrainingProcess(self._settings, LIMIT_SECONDS)
        except OSError as error:
            self._failed(f"cannot start the training process: {error}")

    def _watch(self, process: TrainingProcess) -> None:
        if process.ended:
            failure = process.result()
            if failure is None:
                self._succeeded()
            else:
                self._failed(failure)
        elif (now := monotonic()) - self._renewed_at > self._lease / 3:
            if risk.renew_training(self._database, self._owner, lease_seconds=self._lease):
                self._renewed_at = now
            else:
                logger.warning("stopped a training of the risk model: its lease has expired")
                self._end(0.0)

    def _succeeded(self) -> None:
        seconds = monotonic() - self._began_at
        logger.info("The risk model was trained in %.1f s.", seconds)
        self._failures, self._last_failure = 0, ""
        self._end(PAUSE * seconds)

    def _failed(self, reason: str) -> None:
        """Log the failure as a warning, and repetitions of the same reason at debug level."""
        pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._failures += 1
        level, self._last_failure = logging.DEBUG if reason == self._last_failure else logging.WARNING, reason
        logger.log(level, "a training of the risk model failed; the next attempt is in %.0f s: %s", pause, reason)
        self._end(pause)

    def _end(self, pause: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()
        self._not_before = monotonic() + pause
        risk.release_training(self._database, self._owner, pause_seconds=pause)


class TrainingProcess:
    """A training in a child process, because it computes for 20 s. Not thread-safe."""

    def __init__(self, settings: Settings, limit_seconds: int) -> None:
        """Start the child process; it ends itself after `limit_seconds`. Raises OSError."""
        self._output: IO[bytes] = TemporaryFile()  # noqa: SIM115 - it stays open as long as the process
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOTSTRAP, *map(str, sys.path)],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal must reach only the parent, which ends the child
            )
        except OSError:
            self._output.close()
            raise
        assert self._process.stdin is not None  # noqa: S101 - for mypy: Popen was given a pipe
        self._stdin = self._process.stdin
        request = {"settings": settings.model_dump(mode="json"), "limit_seconds": limit_seconds}
        with suppress(OSError):  # if the child has died, `ended` and `result` report it
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether the child process has ended."""
        return self._process.poll() is not None

    def result(self) -> str | None:
        """Return why an ended training failed, in one line; None if it succeeded."""
        code = self._process.wait()
        if code == 0:
            return None
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - MAX_OUTPUT))
        lines = self._output.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        status = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return last if code == 1 and last else status

    def end(self) -> None:
        """Kill the child process if it still runs, and release its resources."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # the child may not have read all of its input
            self._stdin.close()
        self._output.close()
