"""A gated version of an adapter that nobody trained."""

import json
from pathlib import Path

from everlearn.ids import new_id
from registry.record import keep
from registry.states import VersionState
from registry.versions import ModelVersion, Registry
from tests.serving.test_verify import greedy_probes
from tests.serving.tiny import make_adapter


def gated(
    registry: Registry,
    task: str,
    base: Path,
    folder: Path,
    *,
    seed: int,
    probes_of: int | None = None,
    std: float = 0.1,
) -> ModelVersion:
    """Its probes may come from another adapter; `std`: how far it is from the base."""
    adapter = make_adapter(base, folder, seed=seed, std=std)
    honest = probes_of is None
    other = adapter if honest else make_adapter(base, folder / "other", seed=probes_of or 0)
    (adapter / "probes.json").write_text(json.dumps(greedy_probes(base, other)))
    (adapter / "everlearn.json").write_text(json.dumps({"template_hash": f"t{seed}"}))
    experiment = registry.client.create_experiment(new_id("exp"))
    run = registry.client.create_run(experiment)
    made = registry.register(
        task, adapter, digest=f"{seed:064d}", model_name=f"{task}-{seed}", run_id=run.info.run_id
    )
    keep(registry, made, "gate", {"phase": "passed", "reason": "gain 0.4 > 0"})
    return registry.transition(task, made.version, VersionState.GATED, "gain")
