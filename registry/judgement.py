"""Runs the gate on a version: reads its evidence, decides, keeps the record, moves its state."""

from everlearn.errors import InputError
from everlearn.task import GateRules
from registry.gate import Phase, Verdict, decide, parse
from registry.record import artifact, keep
from registry.states import VersionState
from registry.versions import BASE, Registry

OPEN = (
    *(VersionState.REGISTERED, VersionState.GATED, VersionState.REJECTED),
    # Stopped without harm: it may try again.
    VersionState.RETIRED,
)
AFTER = {Phase.PASSED: VersionState.GATED, Phase.FAILED: VersionState.REJECTED}


def judge(registry: Registry, task: str, version: str, rules: GateRules) -> Verdict:
    """The verdict on a version; its state follows unless it is live or did harm."""
    if version == BASE:
        raise InputError("the base model needs no gate: it is what every version is compared with")
    found = registry.get(task, version)
    evidence = parse(artifact(registry, found, "evidence.json"))
    champion = registry.champion(task).version
    verdict = decide(evidence, rules)
    if evidence.champion != champion:
        reason = (
            f"compared with version {evidence.champion}, but {champion} is champion now: retrain"
        )
        verdict = Verdict(Phase.INCONCLUSIVE, reason, verdict.comparisons)
    record = {**verdict._asdict(), "rules": rules.model_dump(mode="json")}
    keep(registry, found, "gate", record)
    if verdict.phase in AFTER and found.state in OPEN:
        registry.transition(task, version, AFTER[verdict.phase], verdict.reason)
    return verdict
