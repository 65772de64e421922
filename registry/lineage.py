"""Where a version comes from: version -> run -> snapshot -> rows, and what became of it.

- Rows are counted in the lake; the run's manifest says how many there were. The difference was
  erased since: it is told, and the version still knows it.
- What was logged at registration is shown as logged; nothing is read off today's config.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from everlearn.errors import NotFound
from everlearn.lake.store import Lake
from registry.record import artifact
from registry.rows import count_rows
from registry.versions import BASE, ModelVersion, Registry, ask

_SETTINGS = ("seed", "replay", "batch_size", "max_steps", "epochs", "reasoning", "heldout_grader")
_RELEASES = """
    SELECT release_id, arg_max(event, created_at) AS event, arg_max(phase, created_at) AS phase,
        max(percent) AS percent, arg_max(reason, created_at) AS reason, max(created_at) AS ended_at
    FROM releases WHERE task = ? AND version = ? GROUP BY release_id ORDER BY ended_at
"""


@dataclass(frozen=True)
class Lineage:
    """What a version was made of."""

    task: str
    version: str
    digest: str
    run_id: str | None
    snapshots: tuple[str, ...] = ()
    """Ids of the frozen datasets that were the run's inputs."""
    params: dict[str, str] = field(default_factory=dict)
    """As the trainer logged them: method, seed and so on."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """The whole story of a version, as `everlearn lineage` tells it."""

    task: str
    version: str
    model_name: str
    digest: str
    state: str
    reason: str
    aliases: list[str]
    made_at: str | None
    run_id: str | None
    method: str | None
    settings: dict[str, str]
    base: dict[str, str | None]
    """name, digest and chat template's hash."""
    code: str | None
    libraries: str | None
    parents: dict[str, str | None]
    """adapter: always none, a candidate is a fresh one; replayed: whose answers are rehearsed."""
    snapshots: list[dict[str, Any]]
    rows: dict[str, dict[str, int]]
    """By side and kind."""
    units: dict[str, int]
    """Different units by side."""
    erased: int
    """Rows of the manifest that the lake does not have any more."""
    gate: dict[str, str | None]
    releases: list[dict[str, Any]]


def lineage(registry: Registry, task: str, version: str) -> Lineage:
    """The lineage of a version; the base model has none."""
    found = registry.get(task, version)
    return _lineage(registry, found)


def account(registry: Registry, lake: Lake, task: str, version: str) -> Account:
    """Everything that is known of a version; NotFound with the ones there are."""
    found = registry.get(task, version)
    made = _lineage(registry, found)
    tags = {} if version == BASE else registry.tags(task, version)
    made_of = manifest(registry, found)
    rows, units = count_rows(lake, made.snapshots)
    counted = sum(sum(kinds.values()) for kinds in rows.values())
    erased = max(0, len(made_of) - counted)
    params = made.params
    return Account(
        task=task,
        version=version,
        model_name=found.model_name,
        digest=found.digest,
        state=BASE if version == BASE else str(found.state),
        reason=found.reason,
        aliases=sorted(name for name, who in registry.aliases(task).items() if who == version),
        made_at=_time(found.created_at),
        run_id=found.run_id,
        method=tags.get("method"),
        settings=_settings(params, tags.get("method")),
        base={
            "name": tags.get("base_model") or params.get("base_model") or _base_name(found),
            "digest": tags.get("base_digest"),
            "template": tags.get("template_hash"),
        },
        code=tags.get("code"),
        libraries=tags.get("libraries"),
        parents={"adapter": None, "replayed": params.get("champion")},
        snapshots=_snapshots(lake, made.snapshots),
        rows=rows,
        units=units,
        erased=erased,
        gate={"phase": tags.get("gate"), "reason": tags.get("gate_reason")},
        releases=lake.read(_RELEASES, [task, version]).to_pylist(),
    )


def lines(told: Account) -> list[str]:
    """The account for people; the first line is its head."""
    known = "not known"
    served = f", {' and '.join(told.aliases)}" if told.aliases else ""
    because = f": {told.reason}" if told.reason else ""
    head = f"{told.task} version {told.version} ({told.model_name}), {told.state}{served}{because}"
    base = told.base
    shown = [
        head,
        f"base model {base['name']}, {base['digest'] or 'digest ' + known}, "
        f"chat template {base['template'] or known}",
    ]
    if told.run_id is None:
        return shown
    settings = ", ".join(f"{key} {value}" for key, value in told.settings.items())
    shown += [
        f"made {told.made_at or known} by {told.method or known} ({settings or known})",
        f"code {told.code or known}; {told.libraries or 'libraries ' + known}",
        "a fresh adapter; beside its rows it rehearsed answers of version "
        f"{told.parents['replayed'] or known}",
    ]
    shown += [
        f"snapshot {each['snapshot_id']}, lake snapshot {each['lake_snapshot'] or known}, "
        f"content {str(each['content_hash'] or known)[:12]}"
        for each in told.snapshots
    ]
    for side, kinds in told.rows.items():
        total, listed = sum(kinds.values()), ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        shown.append(f"{side} {total} rows of {told.units[side]} units: {listed}")
    if told.erased:
        shown.append(f"{told.erased} of its rows were erased since: it still knows them; retrain")
    shown.append(f"gate {told.gate['phase'] or 'not held'}: {told.gate['reason'] or '-'}")
    shown += [
        f"release {each['release_id']}: {each['phase'] or each['event']}, at most "
        f"{each['percent'] or 0:g} %: {each['reason']}"
        for each in told.releases
    ]
    return shown


def manifest(registry: Registry, version: ModelVersion) -> list[dict[str, Any]]:
    """What the version's run wrote down of every row: it stays, whatever the lake has lost."""
    try:
        return list(json.loads(artifact(registry, version, "manifest.json"))["rows"])
    except (NotFound, ValueError, KeyError):
        return []


def _lineage(registry: Registry, found: ModelVersion) -> Lineage:
    if found.run_id is None:
        return Lineage(found.task, found.version, found.digest, None)
    run = ask(registry.client.get_run, found.run_id)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    snapshots = tuple(entry.dataset.name for entry in inputs)
    return Lineage(
        found.task, found.version, found.digest, found.run_id, snapshots, dict(run.data.params)
    )


def _snapshots(lake: Lake, ids: Iterable[str]) -> list[dict[str, Any]]:
    """One per id, null what the lake has no more."""
    sql = """SELECT snapshot_id, lake_snapshot, content_hash, created_at FROM snapshots
        WHERE snapshot_id IN (SELECT unnest(?))"""
    names = list(ids)
    found = {row["snapshot_id"]: row for row in lake.read(sql, [names]).to_pylist()}
    nothing = {"lake_snapshot": None, "content_hash": None, "created_at": None}
    return [found.get(name, {"snapshot_id": name, **nothing}) for name in names]


def _settings(params: Mapping[str, str], method: str | None) -> dict[str, str]:
    """What of the task and of the method's resolved settings decides the weights."""
    own = f"{method}."
    return {
        key.removeprefix(own): value
        for key, value in params.items()
        if key in _SETTINGS or key.startswith(("lora.", own))
    }


def _base_name(version: ModelVersion) -> str | None:
    return version.model_name if version.version == BASE else None


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
