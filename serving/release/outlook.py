"""What a release can expect of the traffic at hand: base rate, units per second, units needed."""

import time
from typing import NamedTuple

from everlearn.lake.store import Lake
from serving.release.decide import last_stage
from serving.release.simulate import QUANTILES, Forecast, forecast
from serving.release.states import Release

EFFECTS = (0.05, 0.10, 0.20, 0.40)
RECENT_SECONDS = 3600.0


class Outlook(NamedTuple):
    """Before the start."""

    base_rate: float
    units_per_second: float
    """New units with a score of the primary metric; 0 where there was no traffic lately."""
    forecasts: list[Forecast]

    def lines(self) -> list[str]:
        """For people."""
        names = " / ".join(f"{100 * quantile:.0f} %" for quantile in QUANTILES)
        rows = [
            f"champion's mean {self.base_rate:.2f}, "
            f"{self.units_per_second:.2f} scored units per second lately",
            f"if the gain is: promoted, and scored units until then ({names} of such releases)",
        ]
        for found in self.forecasts:
            units = " / ".join("never" if value is None else str(value) for value in found.units)
            rows.append(f"  {found.effect:+.2f}: {100 * found.promoted:3.0f} %, {units}")
        return rows


def outlook(lake: Lake, task: str, release: Release) -> Outlook:
    """Simulated with the rules and the level of this release; 0.2 s an effect."""
    rules = release.parsed_rules
    sql = """
        SELECT avg(scores.value) AS mean, count(DISTINCT completions.unit) AS units,
            epoch(max(completions.received_at)) - epoch(min(completions.received_at)) AS seconds
        FROM scores JOIN completions USING (completion_id)
        WHERE scores.task = ? AND scores.evaluator = ? AND scores.value IS NOT NULL
            AND completions.received_at >= to_timestamp(?)
    """
    since = time.time() - RECENT_SECONDS
    row = lake.read(sql, [task, rules.primary, since]).to_pylist()[0]
    base = 0.5 if row["mean"] is None else min(1.0, max(0.0, float(row["mean"])))
    rate = row["units"] / row["seconds"] if row["seconds"] else 0.0
    per_stage = min(1000, max(1, round(rate * rules.min_dwell_seconds)))
    effects = [effect for effect in EFFECTS if base + effect <= 1.0] or [EFFECTS[0]]
    if release.alpha <= 0 or last_stage(rules) < 0:
        return Outlook(base, rate, [])
    found = forecast(base, effects, rules, alpha=release.alpha, units_per_stage=per_stage)
    return Outlook(base, rate, found)
