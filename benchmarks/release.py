"""What the rules of a release promise, tried through the very Accounts and `decide`.

    python -m benchmarks.release [--runs 2000] [--only NAME]

Each line is one truth: the share of releases that ended in each way. `promise` says which of them
is promised and how much of it there may be.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures import figure
from everlearn.rules import ReleaseRules
from serving.release.rehearse import DAY_SECONDS, Ends, Labelling, Pace, People, Rates, rehearse
from serving.release.states import Phase

BASE, MARGIN = 0.6, 0.03
GUARDS = {"error_rate": Rates(0.99, 0.99), "good": Rates(0.97, 0.97)}


class Scenario(NamedTuple):
    """One truth and what is promised of it."""

    effect: float = 0.0
    base: float = BASE
    people: People = People()
    pace: Pace = Pace()
    rules: Mapping[str, Any] = {}
    rates: Mapping[str, Rates] = {}
    most_units: float = 6000
    promise: tuple[str, float] = ("promoted", 0.05)
    """At most so many end so; at least, where it is negative."""


HALF = People(answering=0.5)
RAMP = (1, 5, 25, 50, 100)
ALONE = {"co_primary": None, "futility_level": 1e-9, "harm_level": 1e-9}
"""Hardly anything but the promote question ends it: what its level is worth."""
A_DAY = 2000
"""Requests, where users return."""
DRAWN: Mapping[str, tuple[float, float | None]] = {
    "for the whole release": (0.0, None),
    "each day": (0.0, DAY_SECONDS),
    "by conversation of 4": (0.25, DAY_SECONDS),
    "by request": (1.0, None),
}
"""How often, as the share of their requests and the seconds after which they are drawn anew."""
LABELLED = {
    "": Labelling(agreement=0.5),
    ", a judge right in 80 %": Labelling(),
    ", a judge right in 90 %": Labelling(agreement=0.9),
    ", a judge that favours the candidate by 10 points": Labelling(favour=0.1),
    ", a judge that favours the champion by 10 points": Labelling(favour=-0.1),
    ", 3 % of it late": Labelling(missing=0.03),
}
"""Labels alone are those beside a judge that says nothing."""
SCENARIOS = {
    **{f"identical, base {base}": Scenario(base=base) for base in (0.1, 0.6, 0.95)},
    **{
        f"identical, harm, base {base}": Scenario(base=base, promise=("rolled_back", 0.10))
        for base in (0.1, 0.6, 0.95)
    },
    "identical, day and night": Scenario(
        people=People(wave=0.1), pace=Pace(units_per_second=0.05), most_units=12_000
    ),
    **{
        f"identical, satisfied answer {times} times as often": Scenario(
            people=People(answering=0.5, satisfied=times)
        )
        for times in (0.8, 0.9, 1.1, 1.2, 1.25, 1.5)
    },
    "identical, 1.1 times and the dissatisfied 0.9 times": Scenario(
        people=People(answering=0.5, satisfied=1.1, dissatisfied=0.9)
    ),
    "identical, everybody answers 1.5 times as often": Scenario(
        people=People(answering=0.5, satisfied=1.5, dissatisfied=1.5)
    ),
    "identical, satisfied 1.5 times, response_bias 1.5": Scenario(
        people=People(answering=0.5, satisfied=1.5), rules={"response_bias": 1.5}
    ),
    **{
        f"identical, {100 * share:.0f} % of the requests fail on both": Scenario(
            rates={"error_rate": Rates(1 - share, 1 - share)}, promise=("rolled_back", 0.10)
        )
        for share in (0.02, 0.2, 0.5)
    },
    **{
        f"identical, the candidate {seconds} s slower, closed {age}": Scenario(
            pace=Pace(20, slower_seconds=seconds, answer_seconds=close),
            rules={"steps": (50, 100)}, promise=("rolled_back", 0.10 if close else 1.0),
        )
        for seconds, age, close in ((5, "with the answer", 0), (5, "at 5 s", 5), (8, "at 5 s", 5))
    },
    **{
        f"{name}, {users} users who return, {unit}": Scenario(
            effect,
            people=People(users=users, taste=0.4, redrawn=redrawn),
            pace=Pace(units_per_second=A_DAY / DAY_SECONDS, epoch_seconds=epoch),
            rules={"max_seconds": 14 * DAY_SECONDS, **({} if effect else ALONE)},
            most_units=14 * A_DAY,
            promise=("promoted", 0.05 if not effect else -0.9 if redrawn else 1.0),
        )
        for name, effect in (("identical", 0.0), ("20 points better", 0.2))
        for users in (20, 100, 500)
        for unit, (redrawn, epoch) in DRAWN.items()
    },
    "5 points better, raters alike": Scenario(
        0.05, rules={"response_bias": 1}, most_units=9000, promise=("promoted", -0.85)
    ),
    "10 points better, raters alike": Scenario(
        0.10, rules={"response_bias": 1}, promise=("promoted", -0.95)
    ),
    "10 points better": Scenario(0.10, people=HALF, most_units=12_000),
    "20 points better": Scenario(0.20, people=HALF, promise=("promoted", -0.95)),
    **{
        f"{-100 * effect:.0f} points worse": Scenario(effect, promise=("promoted", 0.0))
        for effect in (-0.05, -0.10, -0.30)
    },
    **{
        f"{truth}, {share:.0%} labelled{judge}": Scenario(
            effect, people=People(labels=labels._replace(share=share)), most_units=most,
            pace=Pace(A_DAY / DAY_SECONDS), promise=promise,
            rules={"co_primary": None} if effect else ALONE,
        )
        for share, most in ((0.05, 28_000), (0.2, 10_000))
        for judge, labels in LABELLED.items()
        for truth, effect, promise in (
            ("identical", 0.0, ("promoted", 0.05)), ("10 points better", 0.10, ("promoted", -0.5)),
        )
    },
    "identical, a judge alone that favours the candidate by 10 points": Scenario(
        0.1, rules={"co_primary": None}, promise=("promoted", 1.0)
    ),
    **{
        f"not_worse, {name}": Scenario(
            effect, 0.9, rates={"cost": Rates(0.5, 0.95)}, most_units=9000, promise=promise,
            rules={"goal": "not_worse", "margin": MARGIN, "wins": "cost"},
        )
        for name, effect, promise in (
            ("equal", 0.0, ("promoted", -0.85)), ("6 points worse", -0.06, ("promoted", 0.05)),
        )
    },
}  # fmt: skip


def play(scenario: Scenario, runs: int, seed: int = 1) -> Ends:
    """So many releases of it, at level 0.05."""
    rules = ReleaseRules(
        **{
            **{"primary": "thumbs", "guardrails": ("error_rate",), "co_primary": "good"},
            **{"max_seconds": 1e9, "min_dwell_seconds": 100, "steps": RAMP},
            **scenario.rules,
        }
    )
    truth = {
        **GUARDS,
        **scenario.rates,
        "thumbs": Rates(scenario.base, scenario.base + scenario.effect),
    }
    return rehearse(
        rules,
        truth,
        alpha=0.05,
        runs=runs,
        people=scenario.people,
        pace=scenario.pace,
        most_units=scenario.most_units,
        seed=seed,
    )


def kept(scenario: Scenario, ends: Ends, slack: float = 0.0) -> bool:
    """Whether the promise holds, up to the noise of so many runs."""
    phase, share = scenario.promise
    found = ends.share(Phase(phase))
    return found <= share + slack if share >= 0 else found >= -share - slack


def main() -> None:
    """One line a scenario."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    for name, scenario in SCENARIOS.items():
        if asked.only not in name:
            continue
        began = time.process_time()
        ends = play(scenario, asked.runs)
        shares = {
            str(phase): round(count / asked.runs, 4)
            for phase, count in Counter(ends.phases).most_common()
        }
        median = float(np.median(ends.units))
        phase, share = scenario.promise
        figure(
            f"release: {name}",
            ends.share(Phase(phase)),
            phase,
            goal=f"{'>=' if share < 0 else '<='} {abs(share)}",
            ends=shares,
            units_median=median if np.isfinite(median) else None,
            days_median=round(float(np.median(ends.seconds)) / DAY_SECONDS, 2),
            cpu_seconds=round(time.process_time() - began, 1),
        )


if __name__ == "__main__":
    main()
