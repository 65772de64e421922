"""Runs the gate on a version: decides by an exam's evidence, keeps the record, moves its state."""

from collections.abc import Mapping

import msgspec

from everlearn.errors import InputError
from everlearn.rules import GateRules
from registry.gate import Evidence, Phase, Verdict, decide
from registry.record import keep
from registry.states import VersionState
from registry.versions import BASE, Registry

OPEN = (
    *(VersionState.REGISTERED, VersionState.GATED, VersionState.REJECTED),
    # Stopped without harm: it may try again.
    VersionState.RETIRED,
)
AFTER = {Phase.PASSED: VersionState.GATED, Phase.FAILED: VersionState.REJECTED}


def with_finding(verdict: Verdict, tags: Mapping[str, str]) -> Verdict:
    """What training found out about a version blocks it, whatever its exam says."""
    finding = tags.get("finding")
    if finding is None:
        return verdict
    return Verdict(Phase.FAILED, finding, (finding, *verdict.comparisons))


def judge(
    registry: Registry, evidence: Evidence, rules: GateRules, margin: float | None = None
) -> Verdict:
    """The verdict on the candidate; its state follows unless it is live or did harm."""
    task, version = evidence.task, evidence.candidate
    if version == BASE:
        raise InputError("the base model needs no gate: it is what every version is compared with")
    found = registry.get(task, version)
    verdict = with_finding(decide(evidence, rules, margin), registry.tags(task, version))
    record = {
        **verdict._asdict(),
        "rules": rules.model_dump(mode="json"),
        "margin": margin,
        "evidence": msgspec.to_builtins(evidence),
    }
    keep(registry, found, "gate", record)
    if verdict.phase in AFTER and found.state in OPEN:
        registry.transition(task, version, AFTER[verdict.phase], verdict.reason)
    return verdict
