"""Moves traffic: reads what happened, lets `decide` decide, writes the routes. Only IO.

Each tick of a task, in this order:
1. make `routes.json` what the document says (a verb may have changed it, or we were killed);
2. a loading release: load and verify its adapter, or end it as an error;
3. a ramping one: per group of metrics, the quick first: score, count closed units, decide;
4. else a watched promotion: the same, against the version before; back to it on harm;
5. empty the outbox into the lake, then into the registry; keep adapters warm on every replica.

- Harm flips the routes before anything else is written.
- Everything it knows stands in the document and in `release_units`: after kill -9 it goes on where
  it was, and no unit counts twice.
- A task without a document is left alone: the gateway answers with the base model.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import msgspec

from everlearn.clock import Clock, SystemClock
from everlearn.config import Service
from everlearn.errors import ConfigError, EverlearnError, RegistryError, ServingError
from everlearn.lake.ducklake import open_lake
from everlearn.state import StateConflict, open_state
from everlearn.task import Task, load_task, running_tasks, tasks_stamp
from registry.versions import Registry
from serving.release import observations
from serving.release.accounts import Accounts
from serving.release.adapters import keep_warm, place
from serving.release.book import Book
from serving.release.cost import rates
from serving.release.decide import Decision, Evidence, decide
from serving.release.failures import FAILURES, OF
from serving.release.lease import Lease, holder
from serving.release.metrics import FAILED, LEADS, ROUND
from serving.release.raters import Raters
from serving.release.routing import put_route, render, sync_route
from serving.release.states import (
    Phase,
    Release,
    Traffic,
    change,
    revert,
    unwatch,
    watching,
)
from serving.release.watch import Watched, announcement, at_epoch, verdict

log = logging.getLogger(__name__)

LOAD_ATTEMPTS = 5
"""Ticks in a row in which a replica may be out of reach before a version is given up."""
WARM_SECONDS = 10.0
REGISTRY_PAUSE_SECONDS = 15.0
"""After MLflow did not answer."""
RESCAN_SECONDS = 5.0
GLANCE_SECONDS = 0.5
"""Between two looks at failures alone; a look at none costs a few milliseconds."""
ROUNDING_SECONDS = 0.001
"""Times of the lake are microseconds, ours are floats."""


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
        self._counting = threading.RLock()
        """Held while units are counted and the accounts read: a round and a glance share them."""
        self._accounts: tuple[str, Accounts | Watched] | None = None
        self._raters = Raters()
        """Of that release too."""
        self._counted: dict[str, tuple[float, int]] = {}
        """When each metric of the release in `_accounts` was last counted, at which snapshot."""
        self._past: tuple[str, dict[str, float]] | None = None
        """Rewards by unit before the release of that id."""

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
            elif phase is Phase.RAMPING:
                self._judge(traffic, revision, glance=glance)
            elif phase is not Phase.LOADING:
                self._watch(traffic, revision, glance=glance)
        except StateConflict as conflict:
            log.info("%s: decided again next round: %s", name, conflict)
            with self._counting:
                self._accounts = None

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
        begun = self._baseline(traffic, release)
        rules = begun.parsed_rules
        missing = unknown(begun)
        if missing is not None:
            self._move(change(traffic, Phase.ERROR, missing, now), revision)
            return
        left_out = [each for each in release.parsed_rules.metrics if each not in rules.metrics]
        reason = f"loaded and verified on every replica: first step, {rules.steps[0]:g} %"
        if left_out:
            reason += (
                f"; not watched: {', '.join(left_out)} (too few answers of the champion before)"
            )
        ready = msgspec.structs.replace(traffic, release=begun)
        self._move(change(ready, Phase.RAMPING, reason, now), revision)

    def _baseline(self, traffic: Traffic, release: Release) -> Release:
        """What the comparison needs of the time before, fixed for the whole release."""
        name, before = self._task.task, release.created_at
        rules = release.parsed_rules
        prices = rates(self._service, self._task, traffic)
        found = observations.reference(
            self._lake, name, traffic.champion.version, before, prices.get("champion")
        )
        known = {
            "latency_p95": found is not None,
            "cost": found is not None and found.cost_mean is not None and "challenger" in prices,
        }
        guardrails = [each for each in rules.guardrails if known.get(each, True)]
        return msgspec.structs.replace(
            release,
            rules={**release.rules, "guardrails": guardrails},
            latency_reference_ms=found and found.latency_p95_ms,
            latency_ratio=self._task.gate.max_latency_ratio,
            latency_mean_ms=found and found.latency_mean_ms,
            cost_mean=found and found.cost_mean,
            prices=prices,
            answer_seconds=observations.answer_seconds(rules, found),
            cuts=observations.history_cuts(self._lake, name, rules.primary, before),
        )

    def _judge(self, traffic: Traffic, revision: int, *, glance: bool) -> None:
        """Step 3."""
        release = traffic.release
        assert release is not None
        rules = release.parsed_rules
        problem = None
        decision = Decision(release.phase, release.reason, release.stage)
        for names in self._groups(release, glance=glance):
            problem = self._stale(release, names) or problem
            evidence = self._evidence(release, problem)
            decision = decide(release, evidence, rules, self._clock.now())
            if decision.phase is not Phase.RAMPING:
                break
        if glance and decision.phase is not Phase.ROLLED_BACK:
            return  # the rest of the evidence may be stale
        if (decision.phase, decision.stage) != (release.phase, release.stage):
            self._apply(traffic, revision, decision)

    def _stale(self, release: Release, names: tuple[str, ...]) -> str | None:
        """Score what is new and count; why that could not be done, if so."""
        try:
            now, snapshots = self._clock.now(), self._scored(release, names)
            with self._counting:
                self._count(release, now, snapshots)
        except StateConflict:
            raise
        except EverlearnError as error:
            problem = f"{', '.join(names)}: {error}"
            log.error("%s: evidence is stale: %s", self._task.task, problem)
            return problem
        return None

    def _watch(self, traffic: Traffic, revision: int, *, glance: bool) -> None:
        """Step 4: of a champion, against the version before it."""
        watch = watching(traffic)
        if watch is None:
            return
        found = problem = None
        for names in self._groups(watch, glance=glance):
            problem = self._stale(watch, names) or problem
            found = verdict(watch, self._evidence(watch, problem), self._clock.now())
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
        with self._counting:
            summary = self._account(watch).summary()
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
        with self._counting:
            accounts = self._account(release)
            assert isinstance(accounts, Accounts)
            summary = accounts.summary(with_interval=final)
        evidence = msgspec.structs.replace(moved.events[-1], evidence=summary)
        self._move(msgspec.structs.replace(moved, events=(*moved.events[:-1], evidence)), revision)

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

    def _groups(self, release: Release, *, glance: bool) -> Iterator[tuple[str, ...]]:
        """Metrics in the order of their speed, so that a slow judge does not hide an error."""
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

    def _evidence(self, release: Release, problem: str | None) -> Evidence:
        with self._counting:
            return self._account(release).evidence(problem)

    def _scored(self, release: Release, names: tuple[str, ...]) -> dict[str, int]:
        """By metric, the snapshot of the lake whose answers are scored now: a judge may take
        minutes, and nothing waits for it that need not."""
        # Imported late: the graders' libraries take a second.
        from evaluators.run import evaluate

        snapshots = {}
        for name in names:
            snapshots[name] = self._lake.snapshot_id()
            if name not in (*observations.LIVE, FAILURES):
                since = datetime.fromtimestamp(release.created_at, UTC)
                evaluate(self._service, self._task, self._lake, grader=name, since=since)
        return snapshots

    def _count(self, release: Release, now: float, snapshots: dict[str, int]) -> None:
        """Freeze the units that closed, fold them into the accounts."""
        accounts, raters = self._account(release), self._raters
        rows: list[observations.Counted] = []
        counted: dict[str, tuple[float, int]] = {}
        for name, snapshot in snapshots.items():
            wanted = observations.metric(self._task, release, name)
            window = self._window(release, wanted, now, snapshot)
            counted[name] = (now, snapshot)
            if math.isinf(window.since):
                continue
            due = observations.closed_units(self._lake, self._task.task, release, wanted, window)
            past = self._rewards(release) if due else {}
            new = observations.count(due, wanted, release, accounts.rows + len(rows), past)
            rows += raters.limited(self._lake, self._task, due=due, rows=new)
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
                self._lake, release.release_id, seen, snapshot, failed=failed
            )
            since = max(since, late if failed else min(last - wanted.close_seconds, late))
        return observations.Window(now, since - ROUNDING_SECONDS, snapshot)

    def _rewards(self, release: Release) -> dict[str, float]:
        """By unit, of the time before the release; read once."""
        if release.cuts is None:
            return {}
        if self._past is None or self._past[0] != release.release_id:
            primary, before = release.parsed_rules.primary, release.created_at
            found = observations.rewards(self._lake, self._task.task, primary, before)
            self._past = (release.release_id, found)
        return self._past[1]

    def _account(self, release: Release) -> Accounts | Watched:
        """The accounts of this release, from the frozen rows where they are not in memory."""
        if self._accounts is None or self._accounts[0] != release.release_id:
            rows = observations.frozen(self._lake, release.release_id)
            self._counted = {}
            kind = Watched if release.watch else Accounts
            self._accounts = (release.release_id, kind(release.parsed_rules, rows))
            self._raters = Raters(rows)
        return self._accounts[1]

    def _report(self) -> None:
        """Step 5: the outbox; MLflow may be away for a while without holding traffic up."""
        name = self._task.task
        self._book.tell_lake(name, self._lake)
        if self._clock.now() < self._registry_after:
            return
        try:
            self._book.tell_registry(name, self.registry)
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
        except ConfigError as error:
            log.error("%s: task file kept as it was: %s", self._task.task, error)


def unknown(release: Release) -> str | None:
    """Why what a `not_worse` release must win cannot be measured, if so."""
    wins = release.parsed_rules.wins
    reference = release.cost_mean if wins == "cost" else release.latency_mean_ms
    if wins is None or reference is not None:
        return None
    counts = " with token counts" if wins == "cost" else ""
    return (
        f"release.wins {wins}: there is nothing to compare with: the champion needs at least "
        f"{observations.MIN_LATENCIES} good answers{counts} before the start"
    )


def run(service: Service, stop: threading.Event) -> None:
    """Every task of the config, each in its own thread, until `stop`; new files are taken in.

    Of several controllers on one state store one leads, the others follow its routes. An error that
    nobody foresaw stops all and is raised: a supervisor starts the process again.
    """
    threads: dict[str, threading.Thread] = {}
    crashes: list[Exception] = []
    seen: tuple[object, ...] | None = None
    state = open_state(service)
    lease = Lease(state, holder(service))
    while not stop.is_set():
        if not lease.try_renew():
            log.info("%s leads", lease.leader)
        LEADS.set(lease.held)
        stamp = tasks_stamp(service)
        if stamp != seen:
            seen = stamp
            for name, task in running_tasks(service).items():
                if name not in threads:
                    arguments = (partial(TaskLoop, service, task), lease, stop, crashes)
                    threads[name] = threading.Thread(target=_forever, args=arguments, name=name)
                    threads[name].start()
        stop.wait(RESCAN_SECONDS)
    for thread in threads.values():
        thread.join()
    lease.give_up()
    state.close()
    if crashes:
        raise crashes[0]


def _forever(
    make: Callable[[], TaskLoop],
    lease: Lease,
    stop: threading.Event,
    crashes: list[Exception],
) -> None:
    """Tick until `stop`; what may pass is said and tried again."""
    try:
        loop = make()
        arguments = (loop, lease, stop, crashes)
        glances = threading.Thread(target=_glances, args=arguments, name=f"{loop.name} failures")
        glances.start()
        while not stop.is_set():
            try:
                loop.reload()
                loop.tick() if lease.held else loop.follow()
                ROUND.labels(loop.name).set_to_current_time()
            except (EverlearnError, OSError) as error:
                FAILED.labels(loop.name).inc()
                log.error("%s: %s", loop.name, error)
            stop.wait(loop.tick_seconds)
        glances.join()
        loop.close()
    except Exception as error:
        crashes.append(error)
        stop.set()


def _glances(loop: TaskLoop, lease: Lease, stop: threading.Event, crashes: list[Exception]) -> None:
    """Look at failures until `stop`, whatever a round waits for: a judge, the registry."""
    try:
        while not stop.wait(GLANCE_SECONDS):
            try:
                if lease.held:
                    loop.glance()
            except (EverlearnError, OSError) as error:
                log.error("%s: %s", loop.name, error)
    except Exception as error:
        crashes.append(error)
        stop.set()
