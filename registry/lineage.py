"""Where a version comes from: version -> run -> snapshot."""

from dataclasses import dataclass, field

from registry.versions import Registry, ask


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


def lineage(registry: Registry, task: str, version: str) -> Lineage:
    """The lineage of a version; the base model has none."""
    found = registry.get(task, version)
    if found.run_id is None:
        return Lineage(task, version, found.digest, None)
    run = ask(registry.client.get_run, found.run_id)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    snapshots = tuple(entry.dataset.name for entry in inputs)
    return Lineage(task, version, found.digest, found.run_id, snapshots, dict(run.data.params))
