"""What an operator may ask for: start, abort, roll back. Routes follow within the call."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import msgspec

from evaluators.fill import label_salt
from everlearn.clock import Clock, SystemClock
from everlearn.config import Service
from everlearn.errors import (
    InputError,
    NotEnoughEvidence,
    NotFound,
    RegistryError,
    ReleaseBusy,
    ServingAway,
    ServingError,
)
from everlearn.ids import new_id
from everlearn.lake.ducklake import open_lake
from everlearn.lake.store import Lake
from everlearn.rules import ReleaseRules
from everlearn.state import StateConflict, open_state
from everlearn.task import Task
from gateway.routes import ArmRoute
from gateway.table import first_arm
from registry.record import read as read_record
from registry.states import VersionState
from registry.versions import BASE, ModelVersion, Registry
from serving.release.accounts import Accounts
from serving.release.adapters import ready
from serving.release.book import Book
from serving.release.budget import next_level
from serving.release.challengers import abreast, end_all
from serving.release.decide import last_stage
from serving.release.labelled import Share, known_share
from serving.release.observations import frozen
from serving.release.routing import sync_route
from serving.release.states import Phase, Release, Traffic, begin, change, former, revert, standing
from serving.release.supersede import left_alone, verdict
from serving.release.votes import refuse_unproven

log = logging.getLogger(__name__)

ATTEMPTS = 20
"""To write over what somebody else has just written."""
MOST = 8
"""Challengers at once."""


class Desk:
    """Verbs on one task's traffic."""

    def __init__(self, service: Service, task: Task, clock: Clock | None = None) -> None:
        self._service = service
        self._task = task
        self._clock = clock or SystemClock()
        self._state = open_state(service)
        self.book = Book(self._state)

    def close(self) -> None:
        self._state.close()

    def start(
        self,
        registry: Registry,
        version: str,
        ungated: str | None = None,
        *,
        also: Sequence[str] = (),
        trust_raters: bool = False,
        look: Callable[[Release], None] = lambda _: None,
    ) -> Release:
        """Ask for a release; the controller loads, verifies and ramps. InputError if refused.

        `also`: versions that challenge the champion beside this one. `look`: sees it as it would
        begin, its level known, and may refuse too.
        """
        name, rules = self._task.task, self._task.release_rules
        if trust_raters:
            rules = rules.model_copy(update={"co_primary": None})
        if last_stage(rules) < 0:
            raise InputError(f"task {name}: release.steps needs a step below 100 to compare at")
        if also:
            _refuse_several((version, *also), rules, ungated)
        several = [registry.get(name, each) for each in (version, *also)]
        for found in several:
            _refuse_ungated(found, ungated)
        judged = trust_raters or rules.shadow_pairs is not None
        if self._task.believes_raters and not judged and ungated is None:
            raise InputError(_only_raters(self._task))
        with ExitStack() as stack:

            def lake() -> Lake:
                return stack.enter_context(closing(open_lake(self._service, read_only=True)))

            refuse_unproven(self._service, self._task, lake)
            share = None if rules.labels is None else self._label_share(lake())
        asked = Release(
            release_id=new_id("rel"),
            candidate=arm(several[0]),
            rules=rules.model_dump(mode="json"),
            alpha=0.0,
            created_at=self._clock.now(),
            reason=_why(registry, several[0], ungated),
            ungated=ungated,
            trust_raters=trust_raters,
            label_share=share and share.share,
            label_worth=share.worth if share else 1.0,
        )
        beside = [(arm(each), _why(registry, each, ungated)) for each in several[1:]]
        return self._begin(asked, lambda: champion(registry, self._task), look, beside)

    def _label_share(self, lake: Lake) -> Share:
        """What people label to the end of what chance puts before them; NotEnoughEvidence: too
        little."""
        found = known_share(lake, self._task, label_salt(self._service), self._clock.now())
        if found.share is None:
            raise NotEnoughEvidence(found.refusal(self._task))
        return found

    def _begin(
        self,
        asked: Release,
        first: Callable[[], ArmRoute],
        look: Callable[[Release], None],
        beside: Sequence[tuple[ArmRoute, str]] = (),
    ) -> Release:
        """Write the release, with its level out of the lifetime budget; `beside`: other challengers
        and the reason of each; `first` says who answers where there is no document yet."""
        name, rules = self._task.task, asked.parsed_rules
        for _ in range(ATTEMPTS):
            kept = self.book.read(name)
            traffic = kept[0] if kept else Traffic(champion=first())
            for version in (asked.candidate.version, *(route.version for route, _ in beside)):
                if traffic.champion.version == version:
                    raise InputError(f"version {version} is the champion of {name} already")
            if asked.ungated is None:
                level = next_level(traffic.budget, rules.expected_releases, rules.alpha)
                asked = msgspec.structs.replace(asked, alpha=level)
            lead, *others = abreast(asked, [asked.candidate, *(route for route, _ in beside)])
            others = [
                msgspec.structs.replace(each, reason=reason)
                for each, (_, reason) in zip(others, beside, strict=True)
            ]
            room = self._make_room(traffic, lead)
            begun = begin(room, lead, *others)
            look(lead)
            try:
                self.book.write(name, begun, kept[1] if kept else 0)
            except StateConflict:
                continue  # an outbox was emptied, or another release came first: look again
            if room is not traffic:
                sync_route(self._service.routes_path, name, lambda: self.book.traffic(name))
            return lead
        raise StateConflict(f"task {name}: somebody else kept writing; try again")

    def _make_room(self, traffic: Traffic, asked: Release) -> Traffic:
        """Without the release that runs, where it gives way: both are written at once."""
        running, now = traffic.release, self._clock.now()
        if running is None or not running.active:
            return traffic
        why = left_alone(running, asked, now)
        if why is None:
            with closing(open_lake(self._service, read_only=True)) as lake:
                accounts = Accounts(running.parsed_rules, frozen(lake, running.release_id))
            gives_way, why = verdict(asked, accounts.evidence())
            if gives_way:
                summary = accounts.summary(with_interval=True)
                return change(traffic, Phase.SUPERSEDED, why, now, evidence=summary)
        raise ReleaseBusy(
            f"version {running.candidate.version} is {running.phase} (release "
            f"{running.release_id}): one release at a time; wait, or `everlearn release abort`; "
            f"not superseded: {why}"
        )

    def abort(self, reason: str, *, expect: str | None = None) -> Traffic:
        """End the running release; its version gets no more traffic. `expect`: see `rollback`."""

        def end(traffic: Traffic, now: float) -> Traffic:
            if traffic.release is None or not traffic.release.active:
                raise InputError(f"no release of {self._task.task} is running")
            return end_all(traffic, Phase.ABORTED, reason, now)

        return self._change(end, expect)

    def rollback(self, reason: str, *, to: str | None = None, expect: str | None = None) -> Traffic:
        """Back to the champion before; a running release is ended instead, its champion stays.

        `to`: a former champion by name, whatever runs. ServingError if its adapter is not there any
        more or does not verify; a replica that is away holds only `to` up. `expect`: what the
        traffic stands at (`states.standing`); InputError if somebody else has moved it meanwhile.
        """

        def back(traffic: Traffic, now: float) -> Traffic:
            if traffic.release is not None and traffic.release.active:
                phase = traffic.release.phase
                ended = Phase.ROLLED_BACK if phase is Phase.RAMPING else Phase.ABORTED
                traffic = end_all(traffic, ended, reason, now)
                if to is None:
                    return traffic
            self._ready(traffic, former(traffic, to), named=to is not None)
            return revert(traffic, reason, now, to=to)

        return self._change(back, expect)

    def _ready(self, traffic: Traffic, arm: ArmRoute, *, named: bool) -> None:
        """See to it that the version can answer."""
        try:
            found = ready(self._service, self._task, traffic, arm, lambda: Registry(self._service))
        except ServingAway as error:
            if named:
                raise
            log.warning("%s: gone back to all the same: %s", self._task.task, error)
            return
        except RegistryError as error:
            raise RegistryError(
                f"version {arm.version}: its adapter is not on this machine, and cannot be fetched "
                f"either: {error}"
            ) from error
        if found is not None:
            raise ServingError(f"version {arm.version} cannot be gone back to: {found}")

    def _change(
        self, make: Callable[[Traffic, float], Traffic], expect: str | None = None
    ) -> Traffic:
        """Change the document against whoever else writes it, then the routes."""
        name = self._task.task
        for _ in range(ATTEMPTS):
            found = self.book.read(name)
            if found is None:
                raise NotFound(f"task {name} never had a release: its base model answers")
            if expect not in (None, standing(found[0])):
                raise InputError(
                    f"task {name} stands at {standing(found[0])} by now, not at {expect}: somebody "
                    "else has moved it; look again"
                )
            changed = make(found[0], self._clock.now())
            try:
                self.book.write(name, changed, found[1])
            except StateConflict:
                continue
            sync_route(self._service.routes_path, name, lambda: self.book.traffic(name))
            return changed
        raise StateConflict(f"task {name}: somebody else kept writing; try again")


def champion(registry: Registry, task: Task) -> ArmRoute:
    """Who answers the task: the version of that alias, else who the task file says."""
    found = registry.champion(task.task)
    return first_arm(task) if found.version == BASE else arm(found)


def arm(version: ModelVersion) -> ArmRoute:
    """The version as the gateway routes to it."""
    template = None
    if version.path is not None and (version.path / "everlearn.json").exists():
        template = json.loads((version.path / "everlearn.json").read_text()).get("template_hash")
    return ArmRoute(
        version=version.version,
        model=version.model_name,
        adapter_digest=version.digest or None,
        template_hash=template,
    )


def _refuse_ungated(version: ModelVersion, ungated: str | None) -> None:
    if version.version == BASE:
        raise InputError("the base model is no candidate; `everlearn rollback` goes back to it")
    if ungated is None and version.state is not VersionState.GATED:
        raise InputError(
            f"version {version.version} of {version.task} is {version.state}, not gated: run "
            f"`everlearn gate {version.task} {version.version}`, or release it with "
            "--ungated REASON (it can then never be promoted)"
        )
    if ungated is not None and not ungated.strip():
        raise InputError("--ungated wants a reason: it is kept in the record")


def _refuse_several(versions: Sequence[str], rules: ReleaseRules, ungated: str | None) -> None:
    if len(set(versions)) < len(versions):
        raise InputError(f"versions {', '.join(versions)}: name each challenger once")
    if len(versions) > MOST:
        raise InputError(f"{len(versions)} challengers: at most {MOST} share the traffic")
    if ungated is not None:
        raise InputError("an ungated version is never promoted: it is released alone")
    if rules.shadow_pairs is not None:
        raise InputError("release.shadow_pairs compares one version: release them one by one")


def _only_raters(task: Task) -> str:
    return (
        f"task {task.task}: only those who answer decide by {task.release.primary}, and no grader "
        "sees every answer: where the satisfied users of the new version answer 1.2 times as "
        "often, a version that is no better is promoted in 4 of 10 releases. Declare a grader that "
        "needs no person (a string_check, json_schema, execution or python grader) or name a judge "
        "as release.co_primary - or say --trust-raters if your users answer alike whoever served "
        "them"
    )


def _why(registry: Registry, version: ModelVersion, ungated: str | None) -> str:
    if ungated is not None:
        return f"released without a passed gate: {ungated}"
    record = read_record(registry, version, "gate")
    return f"gate passed: {record['reason']}" if record else "gate passed"
