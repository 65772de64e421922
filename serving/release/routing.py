"""`routes.json` of a task from its traffic document."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.routes import ArmRoute, TaskRoute, alone, swap
from serving.release.challengers import running
from serving.release.states import Phase, Release, Traffic, watching


def render(traffic: Traffic) -> TaskRoute:
    """The route that the document stands for."""
    release = traffic.release
    ramping = release is not None and release.phase is Phase.RAMPING
    pairing = release is not None and release.phase is Phase.PAIRING
    several = _several(traffic)
    # One question at a time: a watch waits while another version is compared.
    asked = release if ramping or pairing else watching(traffic)
    holdback, watched = traffic.holdback, 0.0
    if asked is not None and asked.watch:
        holdback, watched = traffic.last_good, asked.parsed_rules.watch_percent
    return TaskRoute(
        champion=traffic.champion,
        challenger=release.candidate if (ramping or pairing) and release and not several else None,
        challengers=several,
        release=asked.drawn_as if asked else None,
        # In the shadow nobody is drawn: those answers are no units of any step.
        stage=asked.stage if asked and not pairing else None,
        **_drawing(asked),
        challenger_share=_share(release) if ramping and release else 0.0,
        holdback=holdback,
        holdback_share=traffic.holdback_percent / 100 if holdback else 0.0,
        watch_share=watched / 100,
        shadow_share=_copied(release) if pairing and release else 0.0,
    )


def _share(release: Release) -> float:
    """Of all challengers together."""
    return release.parsed_rules.steps[release.stage] / 100


def _several(traffic: Traffic) -> tuple[ArmRoute | None, ...]:
    """Challengers by the draw, None where one does not ramp (any more); none of a single one."""
    release = traffic.release
    if release is None or release.challengers == 1 or release.phase is not Phase.RAMPING:
        return ()
    found = {each.which: each.candidate for each in running(traffic)}
    return tuple(found.get(which) for which in range(release.challengers))


def _copied(release: Release) -> float:
    """The share of requests that the candidate answers unseen."""
    asked = release.parsed_rules.shadow_pairs
    return 0.0 if asked is None else asked.share


def _drawing(asked: Release | None) -> dict[str, Any]:
    """Who is drawn, and how often. What began before this could be chosen goes on by user; a watch
    has epochs of its own."""
    if asked is None or "unit" not in asked.rules:
        return {}
    rules = asked.parsed_rules
    epochs = {"epoch_seconds": rules.epoch_seconds, "since": asked.created_at}
    return {"unit": rules.unit, **({} if asked.watch else epochs)}


def put_route(path: Path, task: str, route: TaskRoute) -> bool:
    """Swap the task's route, other tasks' untouched; False if it stood there already."""
    with alone(path):
        return swap(path, {task: route})


def sync_route(path: Path, task: str, read: Callable[[], Traffic | None]) -> bool:
    """Make the route what the document says; without a document nothing is written.

    The document is read while nobody else can write routes: an older one never overwrites a newer.
    """
    with alone(path):
        traffic = read()
        return traffic is not None and swap(path, {task: render(traffic)})
