"""Adapters of a task's arms on the model servers: loaded, verified, kept there."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from everlearn import tls
from everlearn.config import Service, Upstream
from everlearn.errors import ServingError
from everlearn.task import Task
from gateway.routes import ArmRoute
from registry.versions import BASE, Registry
from serving.fleet import Fleet, authorization
from serving.release.states import Traffic
from serving.verify import Probe, verify


def arms(traffic: Traffic) -> tuple[ArmRoute, ...]:
    """Every arm whose adapter must stay warm: who answers, may answer, or is gone back to."""
    release = traffic.release
    candidate = release.candidate if release is not None and release.active else None
    found = (traffic.champion, traffic.holdback, traffic.last_good, candidate)
    return tuple(arm for arm in found if arm is not None and arm.version != BASE)


def prepare(
    service: Service, task: Task, traffic: Traffic, registry: Callable[[], Registry]
) -> str | None:
    """Load the candidate on every replica and verify it; why it must not be served, if so.

    ServingError: a replica could not be asked; that says nothing about the version.
    """
    release = traffic.release
    assert release is not None
    upstream = service.upstreams[task.upstream]
    if upstream.kind != "vllm":
        return f"upstream {task.upstream} is of kind {upstream.kind}: it cannot load adapters"
    if release.candidate.version == BASE:
        return None
    name = release.candidate.model
    path = folder(service, task, release.candidate, registry)
    probes = json.loads((path / "probes.json").read_text())
    with Fleet(upstream) as fleet:
        _make_room(fleet, task, traffic)
        fleet.load(name, path)
        for address in fleet.addresses:
            problem = _verify(address, name, probes, upstream)
            if problem is not None:
                fleet.unload(name)
                return problem
    return None


def _verify(address: str, name: str, probes: Sequence[Probe], upstream: Upstream) -> str | None:
    try:
        found = verify(
            address, name, probes, headers=authorization(upstream), tls=tls.verify(upstream)
        )
    except (KeyError, TypeError, IndexError) as error:
        return f"{name}: probes.json or the answer of {address} is malformed: {error!r}"
    return None if found.ok else f"{name} does not verify: {found.reason}"


def keep_warm(
    service: Service, task: Task, traffic: Traffic, registry: Callable[[], Registry]
) -> None:
    """Load what a replica lost, as by its restart; ServingError names what could not be loaded."""
    upstream = service.upstreams[task.upstream]
    warm = arms(traffic) if upstream.kind == "vllm" else ()
    paths = {arm.model: folder(service, task, arm, registry) for arm in warm}
    if paths:
        with Fleet(upstream) as fleet:
            fleet.ensure(paths)


def folder(service: Service, task: Task, arm: ArmRoute, registry: Callable[[], Registry]) -> Path:
    """The adapter's folder on this machine, fetched if need be."""
    path = service.data_path / "adapters" / arm.model
    if not path.exists():
        registry().get(task.task, arm.version)
    if not path.exists():
        raise ServingError(f"adapter folder {path} of version {arm.version} does not exist")
    return path


def _make_room(fleet: Fleet, task: Task, traffic: Traffic) -> None:
    """Unload this task's adapters that no arm needs any more."""
    needed = {arm.model for arm in arms(traffic)}
    for name in sorted(set().union(*fleet.loaded().values())):
        if name.startswith(f"{task.task}-") and name not in needed:
            fleet.unload(name)
