"""The offline gate: does a candidate deserve live traffic? A pure decision on held-out rows.

- Rows are compared in pairs: the same prompt answered by champion and candidate.
- Rows that an expert reviewed decide, if there are enough of them; else all rows do.
- A row unscored on either side is left out and counted; it is no zero.
- *failed* (evidence against), *inconclusive* (too little evidence) and *passed* are three outcomes.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from everlearn.errors import InputError
from everlearn.task import GateRules
from registry.interval import mean_interval


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One held-out prompt and what the held-out grader gave each answer (null = unscored)."""

    prompt_key: str
    champion: float | None
    candidate: float | None
    unit: str | None = None
    source: str = "user"
    """Who gave the right answer: `expert` or `user`."""


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """Mean scores on the regression suite."""

    champion: float
    candidate: float
    rows: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """`evidence.json` of a training run."""

    task: str
    champion: str
    candidate: str
    rows: list[Row]
    heldout_grader: str = ""
    regression: Suite | None = None
    latency_ratio: float | None = None
    """Candidate's mean seconds per answer over the champion's."""
    length_ratio: float | None = None
    """Candidate's mean completion tokens over the champion's."""


class Phase(StrEnum):
    """How the gate ended."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class Verdict(NamedTuple):
    """The decision, the comparison that decided, and every comparison made."""

    phase: Phase
    reason: str
    comparisons: tuple[str, ...]


def parse(raw: bytes) -> Evidence:
    """The evidence; InputError on JSON of another shape."""
    try:
        return msgspec.json.decode(raw, type=Evidence)
    except msgspec.MsgspecError as error:
        raise InputError(f"evidence.json: {error}") from error


def decide(evidence: Evidence, rules: GateRules) -> Verdict:
    """The verdict; every check is made, so that the record shows all comparisons."""
    checks = [
        _gain(evidence, rules),
        _regression(evidence, rules),
        _ratio("latency_ratio", evidence.latency_ratio, rules.max_latency_ratio),
        _ratio("length_ratio", evidence.length_ratio, rules.max_length_ratio),
    ]
    lines = tuple(line for _, line in checks)
    for phase in (Phase.FAILED, Phase.INCONCLUSIVE):
        deciding = [line for found, line in checks if found is phase]
        if deciding:
            return Verdict(phase, "; ".join(deciding), lines)
    return Verdict(Phase.PASSED, lines[0], lines)


def _gain(evidence: Evidence, rules: GateRules) -> tuple[Phase, str]:
    pairs = _differences(evidence)
    experts = {key: d for key, (d, source) in pairs.items() if source == "expert"}
    chosen = (
        experts if len(experts) >= rules.min_rows else {key: d for key, (d, _) in pairs.items()}
    )
    # Keys are hashes: their order knows nothing of the scores, which the interval asks for.
    differences = [chosen[key] for key in sorted(chosen)]
    unscored = sum(row.champion is None or row.candidate is None for row in evidence.rows)
    who = "expert-reviewed rows" if chosen is experts else "rows"
    rows = f"{len(chosen)} {who}" + (f" ({unscored} unscored)" if unscored else "")
    if len(chosen) < rules.min_rows:
        return Phase.INCONCLUSIVE, f"{rows} < min_rows {rules.min_rows}"
    gain = sum(differences) / len(differences)
    width = max(1.0, *(abs(d) for d in differences))
    low, high = (width * bound for bound in mean_interval([d / width for d in differences]))
    passed = gain > rules.min_gain
    line = (
        f"gain {gain:.2f} {'>' if passed else '<='} min_gain {rules.min_gain:.2f} "
        f"on {rows}, 95% CI {low:.2f} to {high:.2f}"
    )
    return Phase.PASSED if passed else Phase.FAILED, line


def _differences(evidence: Evidence) -> dict[str, tuple[float, str]]:
    """Prompt key to (candidate - champion, source); rows of one prompt are averaged."""
    found: dict[str, list[tuple[float, str]]] = {}
    for row in evidence.rows:
        if row.champion is not None and row.candidate is not None:
            entry = (row.candidate - row.champion, row.source)
            found.setdefault(row.prompt_key, []).append(entry)
    return {
        key: (
            sum(d for d, _ in entries) / len(entries),
            "expert" if any(source == "expert" for _, source in entries) else "user",
        )
        for key, entries in found.items()
    }


def _regression(evidence: Evidence, rules: GateRules) -> tuple[Phase, str]:
    suite = evidence.regression
    if suite is None or suite.rows == 0:
        if rules.regression_suite is None:
            return Phase.PASSED, "no regression suite"
        return Phase.INCONCLUSIVE, f"regression suite {rules.regression_suite} was not run"
    loss = suite.champion - suite.candidate
    passed = loss <= rules.max_regression + 1e-9
    line = (
        f"regression {loss:.3f} {'<=' if passed else '>'} max_regression "
        f"{rules.max_regression:.3f} on {suite.rows} rows "
        f"({suite.champion:.3f} -> {suite.candidate:.3f})"
    )
    return Phase.PASSED if passed else Phase.FAILED, line


def _ratio(name: str, value: float | None, limit: float) -> tuple[Phase, str]:
    if value is None:
        return Phase.PASSED, f"{name} not measured"
    passed = value <= limit
    line = f"{name} {value:.2f} {'<=' if passed else '>'} max_{name} {limit:.2f}"
    return Phase.PASSED if passed else Phase.FAILED, line
