"""Moves traffic: reads what happened, lets `decide` decide, writes the routes. Only IO.

Each tick of a task, in this order:
1. make `routes.json` what the document says (a verb may have changed it, or we were killed);
2. a loading release: load and verify its adapter, or end it as an error;
3. one that answers in the shadow: have its pairs judged, decide (`pairing.py`, `pairs.py`);
4. a ramping one: per group of metrics, the quick first: score, count closed units, decide;
5. else a watched promotion: the same, against the version before; back to it on harm;
6. empty the outbox into the lake, then into the registry; keep adapters warm on every replica.

- Harm flips the routes before anything else is written.
- Everything it knows stands in the document and in `release_units`: after kill -9 it goes on where
  it was, and no unit counts twice.
- A task without a document is left alone: the gateway answers with the base model.
"""

import logging

import msgspec

from everlearn.clock import Clock, SystemClock
from everlearn.config import Service
from everlearn.errors import ConfigError, RegistryError, ServingError
from everlearn.lake.ducklake import open_lake
from everlearn.state import StateConflict, open_state
from everlearn.task import Task, load_task
from registry.page import describe
from registry.versions import Registry
from serving.release import pairs
from serving.release.accounts import Accounts
from serving.release.adapters import keep_warm, place
from serving.release.baseline import baseline, left_out, opening, unknown
from serving.release.book import Book
from serving.release.counting import Counting
from serving.release.decide import Decision, decide
from serving.release.pairing import Pairing
from serving.release.routing import put_route, render, sync_route
from serving.release.states import Phase, Traffic, change, revert, unwatch, watching
from serving.release.votes import Votes
from serving.release.watch import announcement, at_epoch, verdict

log = logging.getLogger(__name__)

LOAD_ATTEMPTS = 5
"""Ticks in a row in which a replica may be out of reach before a version is given up."""
WARM_SECONDS = 10.0
REGISTRY_PAUSE_SECONDS = 15.0
"""After MLflow did not answer."""


class TaskLoop:
    """One task's traffic."""

    def __init__(self, service: Service, task: Task, clock: Clock | None = None) -> None:
        self._service = service
        self._task = task
        self._clock = clock or SystemClock()
        self._lake = open_lake(service)
        self._state = open_state(service)
        self._book = Book(self._state)
        self._registry: Registry | None = None
        self._registry_after = 0.0
        self._warm_after = 0.0
        self._attempts = 0
        self.counting = Counting(service, task, self._lake, self._clock)
        self._votes = Votes(service, self._lake)
        self._pairing = Pairing(service, self._lake, self._votes)

    def close(self) -> None:
        """Let go of lake and state."""
        self._lake.close()
        self._state.close()

    @property
    def name(self) -> str:
        return self._task.task

    @property
    def tick_seconds(self) -> float:
        return self._service.releases.tick_seconds

    def follow(self) -> None:
        """Step 1 alone: another controller decides."""
        name = self._task.task
        sync_route(self._service.routes_path, name, lambda: self._book.traffic(name))

    def tick(self) -> None:
        """One round; an EverlearnError leaves everything as it is for the next round."""
        self.follow()
        self._look()
        self._report()
        self._keep_warm()

    def glance(self) -> None:
        """Between two rounds: failures alone, which end a release (or a watch) at once."""
        self._look(glance=True)

    def _look(self, *, glance: bool = False) -> None:
        name = self._task.task
        found = self._book.read(name)
        if found is None:
            return
        traffic, revision = found
        phase = traffic.release.phase if traffic.release else None
        try:
            if phase is Phase.LOADING and not glance:
                self._load(traffic, revision)
            elif phase is Phase.PAIRING and not glance:
                self._pair(traffic, revision)
            elif phase is Phase.RAMPING:
                self._judge(traffic, revision, glance=glance)
            elif phase not in (Phase.LOADING, Phase.PAIRING):
                self._watch(traffic, revision, glance=glance)
        except StateConflict as conflict:
            log.info("%s: decided again next round: %s", name, conflict)
            self.counting.forget()
            self._pairing.forget()

    def _load(self, traffic: Traffic, revision: int) -> None:
        """Step 2: nothing is routed to a version that did not verify on every replica."""
        release = traffic.release
        assert release is not None
        try:
            problem = place(self._service, self._task, traffic, release.candidate, self.registry)
        except (ServingError, RegistryError, OSError, ValueError) as error:
            self._attempts += 1
            log.warning("%s: loading, attempt %d: %s", self._task.task, self._attempts, error)
            if self._attempts < LOAD_ATTEMPTS:
                return
            problem = f"not loaded after {LOAD_ATTEMPTS} attempts: {error}"
        self._attempts = 0
        now = self._clock.now()
        if problem is not None:
            self._move(change(traffic, Phase.ERROR, problem, now), revision)
            return
        begun = baseline(self._service, self._task, self._lake, traffic)
        missing = unknown(begun)
        if missing is not None:
            self._move(change(traffic, Phase.ERROR, missing, now), revision)
            return
        phase, first = opening(begun)
        reason = f"loaded and verified on every replica: {first}{left_out(release, begun)}"
        ready = msgspec.structs.replace(traffic, release=begun)
        self._move(change(ready, phase, reason, now), revision)

    def _pair(self, traffic: Traffic, revision: int) -> None:
        """Step 3: nobody has met the candidate, so nothing is in a hurry."""
        release = traffic.release
        assert release is not None
        accounts = self.counting.account(release)
        assert isinstance(accounts, Accounts)
        now = self._clock.now()
        problem = self._pairing.count(self._task, release, accounts, now)
        decision = pairs.decide(release, accounts.pairs.evidence(), problem, now)
        if decision.phase is Phase.PAIRING:
            self._hold(traffic, revision, problem and problem.reason)
            return
        if decision.phase is Phase.RAMPING:
            won = msgspec.structs.replace(release, paired=decision.reason)
            traffic = msgspec.structs.replace(traffic, release=won)
        self._apply(traffic, revision, decision)

    def _judge(self, traffic: Traffic, revision: int, *, glance: bool) -> None:
        """Step 4."""
        release = traffic.release
        assert release is not None
        rules = release.parsed_rules
        problem = None
        if not glance:
            problem = self._votes.lost(self._task, release.release_id, rules, self._clock.now())
        decision = Decision(release.phase, release.reason, release.stage)
        for names in self.counting.groups(release, glance=glance):
            problem = self.counting.count(release, names) or problem
            evidence = self.counting.evidence(release, problem)
            decision = decide(release, evidence, rules, self._clock.now())
            if decision.phase is not Phase.RAMPING:
                break
        if glance and decision.phase is not Phase.ROLLED_BACK:
            return  # the rest of the evidence may be stale
        if (decision.phase, decision.stage) != (release.phase, release.stage):
            self._apply(traffic, revision, decision)
        elif not glance:
            self._hold(traffic, revision, problem)

    def _watch(self, traffic: Traffic, revision: int, *, glance: bool) -> None:
        """Step 5: of a champion, against the version before it."""
        watch = watching(traffic)
        if watch is None:
            return
        found = problem = None
        for names in self.counting.groups(watch, glance=glance):
            problem = self.counting.count(watch, names) or problem
            found = verdict(watch, self.counting.evidence(watch, problem), self._clock.now())
            if found is not None:
                break
        now = self._clock.now()
        if glance and (found is None or not found.harmful):
            return
        if found is None:
            moved = at_epoch(watch, now)
            if moved is not watch:
                self._move(msgspec.structs.replace(traffic, watch=moved), revision)
            return
        with self.counting.lock:
            summary = self.counting.account(watch).summary()
        if found.harmful:
            changed = revert(traffic, found.reason, now, evidence=summary)
            put_route(self._service.routes_path, self._task.task, render(changed))
        else:
            changed = unwatch(traffic, found.reason, now, summary)
        self._move(changed, revision)

    def _apply(self, traffic: Traffic, revision: int, decision: Decision) -> None:
        release = traffic.release
        assert release is not None
        now = self._clock.now()
        reason = decision.reason
        if decision.phase is Phase.PROMOTED and release.parsed_rules.watch_seconds > 0:
            reason += f"; {announcement(release.parsed_rules, traffic.champion.version)}"
        moved = change(traffic, decision.phase, reason, now, stage=decision.stage)
        if decision.phase is not Phase.RAMPING and decision.phase is not Phase.PROMOTED:
            put_route(self._service.routes_path, self._task.task, render(moved))
        final = decision.phase is not Phase.RAMPING
        with self.counting.lock:
            accounts = self.counting.account(release)
            assert isinstance(accounts, Accounts)
            summary = accounts.summary(with_interval=final)
        evidence = msgspec.structs.replace(moved.events[-1], evidence=summary)
        self._move(msgspec.structs.replace(moved, events=(*moved.events[:-1], evidence)), revision)

    def _hold(self, traffic: Traffic, revision: int, problem: str | None) -> None:
        """Keep what the release waits for beside evidence, for people: nothing else changes."""
        release = traffic.release
        assert release is not None
        if release.holding != problem:
            if problem is not None:
                log.error("%s: holding: %s", self._task.task, problem)
            held = msgspec.structs.replace(release, holding=problem)
            self._book.write(
                self._task.task, msgspec.structs.replace(traffic, release=held), revision
            )

    def _move(self, traffic: Traffic, revision: int) -> None:
        """Save, then route, then say so."""
        name = self._task.task
        self._book.write(name, traffic, revision)
        sync_route(self._service.routes_path, name, lambda: self._book.traffic(name))
        for event in traffic.events[-1:]:
            log.info(
                "%s: version %s: %s at %g %%: %s",
                *(name, event.version, event.event, event.percent, event.reason),
            )

    def _report(self) -> None:
        """Step 6: the outbox; MLflow may be away for a while without holding traffic up."""
        name = self._task.task
        self._book.tell_lake(name, self._lake)
        if self._clock.now() < self._registry_after:
            return
        try:
            for version in self._book.tell_registry(name, self.registry):
                describe(self._service, self.registry(), self._lake, name, version)
        except RegistryError as error:
            self._registry_after = self._clock.now() + REGISTRY_PAUSE_SECONDS
            log.warning("%s: the registry is told later: %s", name, error)

    def _keep_warm(self) -> None:
        if self._clock.now() < self._warm_after:
            return
        self._warm_after = self._clock.now() + WARM_SECONDS
        name = self._task.task
        traffic = self._book.traffic(name)
        release = traffic.release if traffic is not None else None
        if traffic is None or (release is not None and release.phase is Phase.LOADING):
            return
        try:
            keep_warm(self._service, self._task, traffic, self.registry)
        except (ServingError, RegistryError) as error:
            log.warning("%s: not every adapter is where it should be: %s", name, error)

    def registry(self) -> Registry:
        """The registry, connected when first needed."""
        if self._registry is None:
            self._registry = Registry(self._service)
        return self._registry

    def reload(self) -> None:
        """Take the task file as it is now; a broken one leaves the task as it was."""
        try:
            self._task = self.counting.task = load_task(self._service, self._task.task)
        except ConfigError as error:
            log.error("%s: task file kept as it was: %s", self._task.task, error)
