"""The evidence of a task's release, or of its watch, kept up with the lake. No decision, no route.

- A metric is scored, its closed units are frozen in `release_units`, and folded into the accounts;
  what is in memory can be made again from the frozen rows.
- A round and a glance count at once: the lock is held while they do, not while a judge is asked.
"""

import logging
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from evaluators.fill import label_salt
from everlearn.clock import Clock
from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.lake.store import Lake
from everlearn.state import StateConflict
from everlearn.task import Task
from serving.release import observations
from serving.release.accounts import Accounts
from serving.release.decide import Evidence
from serving.release.failures import FAILURES, OF
from serving.release.labelled import labelled
from serving.release.observations import CLOCK_SECONDS
from serving.release.raters import Raters
from serving.release.states import Release
from serving.release.watch import Watched

log = logging.getLogger(__name__)

ROUNDING_SECONDS = 0.001
"""Times of the lake are microseconds, ours are floats."""


class Counting:
    """Of one task; remembers the accounts of the release that it was last asked about."""

    def __init__(self, service: Service, task: Task, lake: Lake, clock: Clock) -> None:
        self.task = task
        """As its file is now."""
        self._service, self._lake, self._clock = service, lake, clock
        self.lock = threading.RLock()
        """Held while units are counted and the accounts read: a round and a glance share them."""
        self._accounts: tuple[str, Accounts | Watched] | None = None
        self._raters = Raters()
        """Of that release too."""
        self._counted: dict[str, tuple[float, int]] = {}
        """When each metric of the release in `_accounts` was last counted, at which snapshot."""
        self._past: tuple[str, dict[str, float]] | None = None
        """Rewards by unit before the release of that id."""
        self._salt = ""
        """Of what chance decides about labels; read when first needed."""

    def account(self, release: Release) -> Accounts | Watched:
        """The accounts of this release, from the frozen rows where they are not in memory."""
        if self._accounts is None or self._accounts[0] != release.release_id:
            rows = observations.frozen(self._lake, release.release_id)
            self._counted = {}
            kind = Watched if release.watch else Accounts
            self._accounts = (release.release_id, kind(release.parsed_rules, rows))
            self._raters = Raters(rows)
        return self._accounts[1]

    def forget(self) -> None:
        """Begin again from the frozen rows: somebody else has counted."""
        with self.lock:
            self._accounts = None

    def evidence(self, release: Release, problem: str | None) -> Evidence:
        """What a decision looks at."""
        with self.lock:
            return self.account(release).evidence(problem)

    def groups(self, release: Release, *, glance: bool) -> Iterator[tuple[str, ...]]:
        """Metrics in the order of their speed, so that a slow judge does not hide an error; at a
        glance failures alone."""
        rules = release.parsed_rules
        if OF in (rules.primary, *rules.metrics):
            yield (FAILURES,)
        if glance:
            return
        live = tuple(name for name in rules.metrics if name in observations.LIVE)
        if live:
            yield live
        for name in rules.metrics:
            if name not in observations.LIVE:
                yield (name,)
        yield (rules.primary,)

    def count(self, release: Release, names: tuple[str, ...]) -> str | None:
        """Score what is new and count; why that could not be done, if so. StateConflict if somebody
        else counts too."""
        try:
            now, snapshots = self._clock.now(), self._scored(release, names)
            with self.lock:
                self._count(release, now, snapshots)
        except StateConflict:
            raise
        except EverlearnError as error:
            problem = f"{', '.join(names)}: {error}"
            log.error("%s: evidence is stale: %s", self.task.task, problem)
            return problem
        return None

    def _scored(self, release: Release, names: tuple[str, ...]) -> dict[str, int]:
        """By metric, the snapshot of the lake whose answers are scored now: a judge may take
        minutes, and nothing waits for it that need not."""
        # Imported late: the graders' libraries take a second.
        from evaluators.run import evaluate

        # Of the days in the shadow nothing is scored: those answers are no units.
        begin = release.ramp_since - CLOCK_SECONDS if release.paired else release.created_at
        since = datetime.fromtimestamp(max(begin, release.created_at), UTC)
        snapshots = {}
        for name in names:
            snapshots[name] = self._lake.snapshot_id()
            if name not in (*observations.LIVE, FAILURES):
                evaluate(self._service, self.task, self._lake, grader=name, since=since)
        return snapshots

    def _count(self, release: Release, now: float, snapshots: dict[str, int]) -> None:
        """Freeze the units that closed, fold them into the accounts."""
        accounts, raters = self.account(release), self._raters
        rows: list[observations.Counted] = []
        counted: dict[str, tuple[float, int]] = {}
        for name, snapshot in snapshots.items():
            wanted = observations.metric(self.task, release, name)
            window = self._window(release, wanted, now, snapshot)
            counted[name] = (now, snapshot)
            if math.isinf(window.since):
                continue
            due = observations.closed_units(self._lake, self.task.task, release, wanted, window)
            past = self._rewards(release) if due else {}
            new = observations.count(due, wanted, release, accounts.rows + len(rows), past)
            if wanted.label_share is not None:
                self._salt = self._salt or label_salt(self._service)
                told = (self._lake, self.task, self._salt)
                rows += labelled(*told, due=due, rows=new, wanted=wanted)
                continue
            rows += raters.limited(self._lake, self.task, due=due, rows=new)
        observations.freeze(self._lake, release.release_id, rows, now)
        accounts.fold(rows)
        raters.fold(rows)
        self._counted |= counted

    def _window(
        self, release: Release, wanted: observations.Metric, now: float, snapshot: int
    ) -> observations.Window:
        """Everything of the release at first, then what was not closed at the last count and what
        has come since, however old: a count that goes on finds what one from the start would. Of
        failures what has come, for none waits; infinity: nothing has."""
        since = release.created_at
        if wanted.name in self._counted:
            last, seen = self._counted[wanted.name]
            failed = wanted.name == FAILURES
            late = observations.oldest_since(
                self._lake, release.drawn_as, seen, snapshot, failed=failed
            )
            since = max(since, late if failed else min(last - wanted.close_seconds, late))
        return observations.Window(now, since - ROUNDING_SECONDS, snapshot)

    def _rewards(self, release: Release) -> dict[str, float]:
        """By unit, of the time before the release; read once."""
        if release.cuts is None:
            return {}
        if self._past is None or self._past[0] != release.release_id:
            primary, before = release.parsed_rules.primary, release.created_at
            found = observations.rewards(self._lake, self.task.task, primary, before)
            self._past = (release.release_id, found)
        return self._past[1]
