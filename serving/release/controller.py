"""Moves traffic: reads what happened, lets `decide` decide, writes the routes. Only IO.

Each tick of a task, in this order:
1. make `routes.json` what the document says (a verb may have changed it, or we were killed);
2. a loading release: load and verify its adapter, or end it as an error;
3. one that answers in the shadow: have its pairs judged, decide (`pairing.py`, `pairs.py`);
4. a ramping one, of several challengers each by itself: per group of metrics, the quick first:
   score, count closed units, decide (and for all together, `several.py`);
5. else a watched promotion: the same, against the version before; back to it on harm;
6. empty the outbox into the lake, then into the registry; keep adapters warm on every replica.

- Harm flips the routes before anything else is written.
- Everything it knows stands in the document and in `release_units`: after kill -9 it goes on where
  it was, and no unit counts twice.
- A task without a document is left alone: the gateway answers with the base model.
"""

import logging
from collections.abc import Mapping
from typing import Any

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
from serving.release.challengers import facing, running, settled
from serving.release.counting import Counting
from serving.release.decide import Decision, decide
from serving.release.pairing import Pairing
from serving.release.routing import put_route, render, sync_route
from serving.release.several import Weighed, together
from serving.release.states import Phase, Release, Traffic, change, revert, unwatch, watching
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
        self._beside: dict[int, Counting] = {}
        """Of other challengers, by their place in the draw."""
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
            for each in (self.counting, *self._beside.values()):
                each.forget()
            self._pairing.forget()

    def _load(self, traffic: Traffic, revision: int) -> None:
        """Step 2: nothing is routed to a version that did not verify on every replica."""
        problems = self._place(traffic)
        if problems is None:
            return
        now = self._clock.now()
        for name, problem in problems.items():
            traffic = self._open(facing(traffic, name), problem, now)
        self._move(settled(traffic), revision, told=len(problems))

    def _place(self, traffic: Traffic) -> dict[str, str | None] | None:
        """By release why its version must not be served, if so; None: to be tried again."""
        problems: dict[str, str | None] = {}
        away = False
        for each in running(traffic):
            args = (self._service, self._task, traffic, each.candidate, self.registry)
            try:
                problems[each.release_id] = place(*args)
            except (ServingError, RegistryError, OSError, ValueError) as error:
                away = True
                problems[each.release_id] = f"not loaded after {LOAD_ATTEMPTS} attempts: {error}"
                attempt = self._attempts + 1
                log.warning("%s: loading, attempt %d: %s", self._task.task, attempt, error)
        self._attempts = self._attempts + 1 if away else 0
        if away and self._attempts < LOAD_ATTEMPTS:
            return None
        self._attempts = 0
        return problems

    def _open(self, traffic: Traffic, problem: str | None, now: float) -> Traffic:
        """At the first step, or ended as an error."""
        release = traffic.release
        assert release is not None
        if problem is not None:
            return change(traffic, Phase.ERROR, problem, now)
        begun = baseline(self._service, self._task, self._lake, traffic)
        missing = unknown(begun)
        if missing is not None:
            return change(traffic, Phase.ERROR, missing, now)
        phase, first = opening(begun)
        reason = f"loaded and verified on every replica: {first}{left_out(release, begun)}"
        ready = msgspec.structs.replace(traffic, release=begun)
        return change(ready, phase, reason, now)

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
        self._apply(traffic, revision, {release.release_id: decision})

    def _judge(self, traffic: Traffic, revision: int, *, glance: bool) -> None:
        """Step 4. Who is dropped is dropped at once, before the others are looked at."""
        found: list[Weighed] = []
        for release in running(traffic):
            weighed = self._weigh(release, glance=glance)
            phase = weighed.decision.phase
            over = phase is Phase.ROLLED_BACK
            if not glance:
                over = phase not in (Phase.RAMPING, Phase.PROMOTED)
            if over:
                self._apply(traffic, revision, {release.release_id: weighed.decision})
                return
            found.append(weighed)
        if glance:
            return  # the rest of the evidence may be stale
        moved = {
            each.release.release_id: decision
            for each, decision in zip(found, together(found), strict=True)
            if (decision.phase, decision.stage) != (each.release.phase, each.release.stage)
        }
        if moved:
            self._apply(traffic, revision, moved)
        else:
            problems = [each.evidence.problem for each in found if each.evidence.problem]
            self._hold(traffic, revision, problems[0] if problems else None)

    def _weigh(self, release: Release, *, glance: bool) -> Weighed:
        """What one challenger's evidence comes to; at a glance that of failures alone."""
        rules, counting = release.parsed_rules, self._counting(release)
        problem = None
        if not glance:
            problem = self._votes.lost(self._task, release.drawn_as, rules, self._clock.now())
        decision = Decision(release.phase, release.reason, release.stage)
        evidence = counting.evidence(release, problem)
        for names in counting.groups(release, glance=glance):
            problem = counting.count(release, names) or problem
            evidence = counting.evidence(release, problem)
            decision = decide(release, evidence, rules, self._clock.now())
            if decision.phase is not Phase.RAMPING:
                break
        return Weighed(release, evidence, decision)

    def _counting(self, release: Release) -> Counting:
        if release.which == 0:
            return self.counting
        if release.which not in self._beside:
            made = Counting(self._service, self._task, self._lake, self._clock)
            self._beside[release.which] = made
        return self._beside[release.which]

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

    def _apply(self, traffic: Traffic, revision: int, decisions: Mapping[str, Decision]) -> None:
        """By release; the one that is promoted last, to stay in front."""
        now, former = self._clock.now(), traffic.champion.version
        there = [each for each in running(traffic) if each.release_id in decisions]
        there.sort(key=lambda each: decisions[each.release_id].phase is Phase.PROMOTED)
        moved = traffic
        for release in there:
            decision = decisions[release.release_id]
            reason = decision.reason
            if decision.phase is Phase.PROMOTED and release.parsed_rules.watch_seconds > 0:
                reason += f"; {announcement(release.parsed_rules, former)}"
            front = facing(moved, release.release_id)
            moved = change(front, decision.phase, reason, now, stage=decision.stage)
        moved = settled(moved)
        phases = {decision.phase for decision in decisions.values()}
        if Phase.PROMOTED not in phases and phases != {Phase.RAMPING}:
            put_route(self._service.routes_path, self._task.task, render(moved))
        events = list(moved.events)
        for number, release in enumerate(there, len(events) - len(there)):
            final = decisions[release.release_id].phase is not Phase.RAMPING
            summary = self._summary(release, final=final)
            events[number] = msgspec.structs.replace(events[number], evidence=summary)
        changed = msgspec.structs.replace(moved, events=tuple(events))
        self._move(changed, revision, told=len(there))

    def _summary(self, release: Release, *, final: bool) -> dict[str, Any]:
        counting = self._counting(release)
        with counting.lock:
            accounts = counting.account(release)
            assert isinstance(accounts, Accounts)
            return accounts.summary(with_interval=final)

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

    def _move(self, traffic: Traffic, revision: int, *, told: int = 1) -> None:
        """Save, then route, then say so: the last so many events."""
        name = self._task.task
        self._book.write(name, traffic, revision)
        sync_route(self._service.routes_path, name, lambda: self._book.traffic(name))
        for event in traffic.events[-told:]:
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
            self._task = load_task(self._service, self._task.task)
            for each in (self.counting, *self._beside.values()):
                each.task = self._task
        except ConfigError as error:
            log.error("%s: task file kept as it was: %s", self._task.task, error)
