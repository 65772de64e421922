"""Pictures of releases: what a simulation came to, and the story of a live one. SVG or PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.errors import InputError
from serving.release.budget import LIFETIME_LEVEL, Budget
from serving.release.decide import harm_levels, unit_level
from serving.release.failures import OF
from serving.release.rehearse import Ends
from serving.release.seen import DAY_SECONDS
from serving.release.states import Phase, Release
from serving.release.story import Story

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = {
    Phase.PROMOTED: "#2a9d5c",
    Phase.ROLLED_BACK: "#c8403a",
    Phase.STOPPED: "#8a8f98",
    Phase.INCONCLUSIVE: "#d9b44a",
}


def fit(name: str) -> Path:
    """The path of a picture that can be written so; InputError before any work is done."""
    path = Path(name)
    if path.suffix not in SUFFIXES:
        raise InputError(f"--plot {name}: the name must end with one of {', '.join(SUFFIXES)}")
    return path


def figure(rows: int, height: float) -> tuple[Any, Any]:
    """Figure and axes below one another."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("--plot needs matplotlib: pip install 'everlearn[demo]'") from error
    # Not pyplot: it keeps state, and looks for a screen.
    made = Figure(figsize=(9, height), layout="constrained")
    return made, made.subplots(rows, 1, squeeze=False)[:, 0]


def draw_trial(path: Path, result: Mapping[str, Any], ends: Ends) -> None:
    """Share of the releases that have ended in each way, by day."""
    made, (axes,) = figure(1, 4.5)
    days = ends.seconds / DAY_SECONDS
    last = float(days[np.isfinite(days)].max(initial=0.0)) or 1.0
    grid = np.linspace(0, last, 200)
    shares = [
        [float(np.mean((days <= day) & [each is phase for each in ends.phases])) for day in grid]
        for phase in COLOURS
    ]
    axes.stackplot(grid, shares, labels=[str(phase) for phase in COLOURS], colors=COLOURS.values())
    axes.set(
        xlabel="days",
        ylabel="share of releases",
        ylim=(0, 1),
        xlim=(0, last),
        title=f"{result['task']}: {result['runs']} releases if the effect is "
        f"{result['effect']:+g}, level {result['level']:g}",
    )
    axes.legend(loc="center right")
    made.savefig(path)


def draw_release(path: Path, task: str, release: Release, told: Story, budget: Budget) -> None:
    """Ramp, effect, e-values of the primary metric and of the others, units by arm."""
    made, axes = figure(5, 13)
    rules = release.parsed_rules
    ramp, effect, primary, others, units = axes
    begun = [second for second, _, _ in told.steps]
    ramp.set(ylabel="% of traffic", ylim=(-3, 103))
    if told.effect:
        when, low, high = zip(*told.effect, strict=True)
        effect.fill_between(when, low, high, alpha=0.3, step="post", label="95 %, at every look")
    effect.axhline(0, color="grey", linewidth=0.8)
    if rules.allowance:
        effect.axhline(rules.allowance, linestyle=":", color="grey", label="answering alone")
    effect.set(ylabel=f"effect on {rules.primary}", ylim=(-1, 1))
    own, share = harm_levels(rules, len(rules.metrics))
    levels = {"promote": release.alpha, "harm": own, "futility": rules.futility_level}
    found = [each for _, each in told.evidence]
    seconds = [second for second, _ in told.evidence]
    for name, level in levels.items():
        _path(primary, seconds, [getattr(each.primary, name) for each in found], name, level)
    primary.set(ylabel=f"e-values: {rules.primary}")
    for place, name in enumerate(rules.metrics):
        metric = [each.guardrails[place] for each in found]
        level = unit_level(name, share)
        _path(others, seconds, [one.harm for one in metric], f"harm, {name}", level)
        if name == OF:
            failed = [one.failed.harm for one in metric]
            _path(others, seconds, failed, "harm, failures alone", share - level)
        if name in (rules.beside, rules.wins):
            proven = [one.promote for one in metric]
            _path(others, seconds, proven, f"promote, {name}", release.alpha)
    others.set(ylabel="e-values: the others")
    units.plot(seconds, [each.primary.candidates for each in found], label="candidate")
    champions = [each.primary.units - each.primary.candidates for each in found]
    units.plot(seconds, champions, label="champion")
    units.set(ylabel=f"units: {rules.primary}", xlabel="seconds since the start")
    ends = max([*begun, *seconds, 1.0])
    percents = [percent for _, percent, _ in told.steps]
    if percents:
        ramp.step([*begun, ends], [*percents, percents[-1]], where="post", color="#2b62b8")
    for axis in axes:
        axis.set_xlim(0, ends)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="upper left", fontsize="small")
    left = LIFETIME_LEVEL - budget.spent
    made.suptitle(
        f"{task}: version {release.candidate.version} is {release.phase}; level "
        f"{release.alpha:.3g}, {left:.3g} of {LIFETIME_LEVEL:g} left for later ones\n"
        f"{release.reason}",
        fontsize="small",
        wrap=True,
    )
    made.savefig(path)


def _path(
    axes: Any, seconds: Sequence[float], logs: Sequence[float], name: str, level: float
) -> None:
    """One e-value over time, in powers of ten, with the line at which it decides."""
    line = axes.plot(seconds, [log_e / np.log(10) for log_e in logs], label=name)
    if level > 0:
        axes.axhline(-np.log10(level), linestyle="--", linewidth=0.8, color=line[0].get_color())
    axes.yaxis.set_major_formatter("$10^{{{x:.1f}}}$")
