"""Several challengers of one release in a traffic document: values, as in `states.py`.

Each is a release of its own - evidence, phase, reason, events - but drawn under one id at one step.
`states` changes the one in front; while any of them runs, one that does is in front.
"""

from collections.abc import Sequence

import msgspec

from gateway.routes import ArmRoute
from serving.release.states import Note, Phase, Release, Traffic, change, suffix


def abreast(release: Release, candidates: Sequence[ArmRoute]) -> tuple[Release, ...]:
    """The release of one version as that of several at once: each has an equal part of its levels,
    so that the chance that any of them is wrongly promoted, or wrongly dropped for harm, is that of
    the one."""
    count = len(candidates)
    harm = release.parsed_rules.harm_level / count
    return tuple(
        msgspec.structs.replace(
            release,
            release_id=release.release_id + suffix(which),
            candidate=candidate,
            rules={**release.rules, "harm_level": harm},
            alpha=release.alpha / count,
            challengers=count,
            which=which,
        )
        for which, candidate in enumerate(candidates)
    )


def every(traffic: Traffic) -> tuple[Release, ...]:
    """All challengers of the latest release, the one in front first."""
    return () if traffic.release is None else (traffic.release, *traffic.beside)


def running(traffic: Traffic) -> tuple[Release, ...]:
    """Every challenger that has not ended, in the order of the draw."""
    found = (each for each in every(traffic) if each.active)
    return tuple(sorted(found, key=lambda each: each.which))


def facing(traffic: Traffic, release_id: str) -> Traffic:
    """The same with that challenger as `release`, so that it is the one that is changed."""
    front = traffic.release
    for place, each in enumerate(traffic.beside):
        if each.release_id == release_id and front is not None:
            rest = (*traffic.beside[:place], front, *traffic.beside[place + 1 :])
            return msgspec.structs.replace(traffic, release=each, beside=rest)
    return traffic


def settled(traffic: Traffic) -> Traffic:
    """With a challenger in front that still runs, if any does; the registry's alias names it."""
    left = running(traffic)
    if not traffic.beside or not left:
        return traffic
    front = left[0]
    ramping = front.phase is Phase.RAMPING
    alias = Note(kind="alias", name="challenger", version=front.candidate.version)
    turned = facing(traffic, front.release_id)
    return msgspec.structs.replace(turned, notes=(*turned.notes, *([alias] if ramping else [])))


def end_all(traffic: Traffic, phase: Phase, reason: str, now: float) -> Traffic:
    """Every challenger of the release that runs."""
    for each in running(traffic):
        traffic = change(facing(traffic, each.release_id), phase, reason, now)
    return traffic
