"""Adapters of a task's arms on the model servers: loaded, verified, kept there.

- An adapter that a replica did not have is verified on it before anybody is sent there.
- Room is made by what no arm of the task needs: first what never was champion, the longest loaded
  first, then former champions, the furthest back first.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from everlearn import tls
from everlearn.config import Service, Upstream
from everlearn.errors import ServingError
from everlearn.task import Task
from gateway.routes import ArmRoute
from registry.versions import BASE, Registry
from serving.fleet import Fleet, authorization
from serving.release.challengers import running
from serving.release.states import Traffic, chain
from serving.verify import Probe, Tolerance, measure, verify, verify_beside

MIXED_UP = (
    "this server mixes adapters up in a batch (vLLM on the CPU does where every slot is taken: "
    "give --max-loras one more than adapters are loaded)"
)


def arms(traffic: Traffic) -> tuple[ArmRoute, ...]:
    """Every arm whose adapter must stay warm: who answers, may answer, or is gone back to."""
    candidates = (each.candidate for each in running(traffic))
    found = (traffic.champion, traffic.holdback, traffic.last_good, *candidates)
    return tuple(arm for arm in found if arm is not None and arm.version != BASE)


def place(
    service: Service,
    task: Task,
    traffic: Traffic,
    candidate: ArmRoute,
    registry: Callable[[], Registry],
) -> str | None:
    """Load a version on every replica and verify it; why it must not be served, if so.

    ServingError: a replica could not be asked; that says nothing about the version.
    """
    upstream = service.upstreams[task.upstream]
    if upstream.kind != "vllm":
        return f"upstream {task.upstream} is of kind {upstream.kind}: it cannot load adapters"
    if candidate.version == BASE:
        return None
    path = folder(service, task, candidate, registry)
    with Fleet(upstream) as fleet:
        former = [arm.model for arm in chain(traffic)]
        _make_room(fleet, task, (*arms(traffic), candidate), former, upstream.max_adapters)
        fleet.load(candidate.model, path)
        for address in fleet.addresses:
            problem = _verify(address, task, candidate.model, path, upstream)
            if problem is not None:
                fleet.unload(candidate.model)
                return problem
    return None


def ready(
    service: Service,
    task: Task,
    traffic: Traffic,
    arm: ArmRoute,
    registry: Callable[[], Registry],
) -> str | None:
    """Load and verify a former champion; why it cannot answer again, if so."""
    if arm.version == BASE or arm.upstream is not None:
        return None
    return place(service, task, traffic, arm, registry)


def _verify(address: str, task: Task, name: str, path: Path, upstream: Upstream) -> str | None:
    options: dict[str, Any] = {"headers": authorization(upstream), "tls": tls.verify(upstream)}
    try:
        tolerance = Tolerance(upstream.verify_tolerance) if upstream.verify_tolerance else None
        base = _probes(path / "base_probes.json")
        if tolerance is None and base:
            tolerance = measure(address, task.base_name, base, **options)
        options["tolerance"] = tolerance or Tolerance()
        own = _probes(path / "probes.json")
        found = verify(address, name, own, **options)
        if found.ok and base:
            beside = verify_beside(address, (task.base_name, name), base, own, **options)
            if not beside.ok:
                problem = f"{task.base_name} does not verify while {name} answers"
                return f"{problem}: {MIXED_UP}: {beside.reason}"
    except (KeyError, TypeError, IndexError) as error:
        return f"{name}: probes.json or the answer of {address} is malformed: {error!r}"
    return None if found.ok else f"{name} does not verify: {found.reason}"


def _probes(path: Path) -> Sequence[Probe]:
    found: list[Probe] = json.loads(path.read_text()) if path.exists() else []
    return found


def keep_warm(
    service: Service, task: Task, traffic: Traffic, registry: Callable[[], Registry]
) -> None:
    """Load and verify what a replica lost, as by its restart.

    ServingError names what could not be loaded; an adapter that does not verify is unloaded from
    that replica again, so that the gateway asks the others.
    """
    upstream = service.upstreams[task.upstream]
    warm = arms(traffic) if upstream.kind == "vllm" else ()
    paths = {arm.model: folder(service, task, arm, registry) for arm in warm}
    if not paths:
        return

    def check(address: str, name: str) -> None:
        problem = _verify(address, task, name, paths[name], upstream)
        if problem is not None:
            raise ServingError(problem)

    with Fleet(upstream) as fleet:
        fleet.ensure(paths, check)


def folder(service: Service, task: Task, arm: ArmRoute, registry: Callable[[], Registry]) -> Path:
    """The adapter's folder on this machine, fetched if need be."""
    path = service.data_path / "adapters" / arm.model
    if not path.exists():
        registry().get(task.task, arm.version)
    if not path.exists():
        raise ServingError(f"adapter folder {path} of version {arm.version} does not exist")
    return path


def is_of(task: str, name: str) -> bool:
    """Whether the adapter is one of this task: `sql-0123456789ab` is none of `sql-pro`."""
    return re.fullmatch(rf"{re.escape(task)}-[0-9a-f]{{12}}", name) is not None


def _make_room(
    fleet: Fleet,
    task: Task,
    needed: Sequence[ArmRoute],
    former: Sequence[str],
    max_adapters: int | None,
) -> None:
    """Unload this task's adapters that no arm needs, the least likely to be gone back to first.

    Where the number of slots is known, only as many as must go: what is still there is warm for a
    rollback further back.
    """
    keep = {arm.model for arm in needed}
    for address in fleet.addresses:
        loaded = fleet.loaded_on(address)
        spare = [name for name in loaded if is_of(task.task, name) and name not in keep]
        # (In the order of loading, but for former champions; `former` has the latest first.)
        spare.sort(key=lambda name: -former.index(name) if name in former else -len(former))
        missing = len(keep - set(loaded))
        if max_adapters is not None:
            spare = spare[: max(0, len(loaded) + missing - max_adapters)]
        for name in spare:
            fleet.unload_from(address, name)
