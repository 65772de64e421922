"""The offline gate: does a candidate deserve live traffic? A pure decision on an exam's rows.

- The interval decides: *passed* when the gain is above the floor with confidence, *failed* when it
  is below, else *not enough evidence*, with the number of rows that would do.
- Rows are compared in pairs: the same prompt answered by champion and candidate.
- Rows that an expert reviewed decide, if there are enough of them; else all rows do.
- A row unscored on either side is left out and counted; it is no zero.
- The floor is `min_gain`, or minus the margin of a release that aims at `not_worse`.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from everlearn.rules import GateRules
from registry.interval import mean_bounds


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
    """What an exam found: kept in `decisions/gate.json` of the version's run."""

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
    champion_cost: float | None = None
    candidate_cost: float | None = None
    """Mean cost of an answer, of an upstream that has a price."""


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


def decide(evidence: Evidence, rules: GateRules, margin: float | None = None) -> Verdict:
    """The verdict; every check is made, so that the record shows all comparisons.

    `margin`: of a release that aims at `not_worse`.
    """
    checks = [
        _gain(evidence, rules, margin),
        _regression(evidence, rules),
        _ratio("latency_ratio", evidence.latency_ratio, rules.max_latency_ratio),
        _ratio("length_ratio", evidence.length_ratio, rules.max_length_ratio),
    ]
    lines = (*(line for _, line in checks), _costs(evidence))
    for phase in (Phase.FAILED, Phase.INCONCLUSIVE):
        deciding = [line for found, line in checks if found is phase]
        if deciding:
            return Verdict(phase, "; ".join(deciding), lines)
    return Verdict(Phase.PASSED, lines[0], lines)


def _gain(evidence: Evidence, rules: GateRules, margin: float | None) -> tuple[Phase, str]:
    pairs = _differences(evidence)
    experts = [d for d, source in pairs.values() if source == "expert"]
    differences = experts if len(experts) >= rules.min_rows else [d for d, _ in pairs.values()]
    unscored = sum(row.champion is None or row.candidate is None for row in evidence.rows)
    who = "expert-reviewed rows" if differences is experts else "rows"
    rows = f"{len(differences)} {who}" + (f" ({unscored} unscored)" if unscored else "")
    if len(differences) < max(2, rules.min_rows):
        return Phase.INCONCLUSIVE, f"{rows} < min_rows {max(2, rules.min_rows)}"
    name, floor = ("min_gain", rules.min_gain) if margin is None else ("-margin", -margin)
    width = max(1.0, *(abs(d) for d in differences))
    found = mean_bounds(differences, rules.confidence, width)
    gain, sure = f"gain {found.mean:.3f}", f"at {100 * rules.confidence:g} % confidence"
    against = f"{name} {floor:.3f} on {rows}"
    if found.low > floor:
        coin = f"a version that is at {name} passes in {100 * (1 - rules.confidence):.0f} %"
        return Phase.PASSED, f"{gain}, {sure} at least {found.low:.3f} > {against}; {coin}"
    if found.high < floor:
        return Phase.FAILED, f"{gain}, {sure} at most {found.high:.3f} < {against}"
    needed = found.rows_for(floor, len(differences))
    would = (
        "no number of rows like these would tell"
        if needed is None
        else (f"about {needed} rows like these would tell")
    )
    return Phase.INCONCLUSIVE, (
        f"not enough evidence: {gain}, {sure} between {found.low:.3f} and {found.high:.3f}, "
        f"against {against}: {would}"
    )


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


def _costs(evidence: Evidence) -> str:
    def cost(value: float | None) -> str:
        return "not known" if value is None else f"{value:.3g}"

    own, champions = cost(evidence.candidate_cost), cost(evidence.champion_cost)
    return f"cost per answer {own}, champion's {champions}"
