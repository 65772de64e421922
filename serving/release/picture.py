"""Pictures of releases: what a simulation came to, and the story of a live one. SVG or PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.errors import InputError
from serving.release.rehearse import Ends
from serving.release.seen import DAY_SECONDS
from serving.release.states import Phase

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
