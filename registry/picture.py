"""The exam of a version as a picture: what champion and candidate got, prompt by prompt."""

from pathlib import Path

import numpy as np

from registry.gate import Evidence, Verdict


def draw_exam(path: Path, evidence: Evidence, told: Verdict) -> None:
    """Rows by what both got, the largest gain first; ImportError without matplotlib."""
    from matplotlib.figure import Figure

    rows = [row for row in evidence.rows if row.champion is not None and row.candidate is not None]
    champion = np.array([row.champion for row in rows], dtype=float)
    candidate = np.array([row.candidate for row in rows], dtype=float)
    order = np.lexsort((candidate, candidate - champion))[::-1]
    made = Figure(figsize=(9, 4), layout="constrained")  # not pyplot: it keeps state
    above, below = made.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    place = np.arange(len(rows))
    for scores, name, colour, width in (
        (champion, f"champion {evidence.champion}", "#8a8f98", 5.0),
        (candidate, f"version {evidence.candidate}", "#2a9d5c", 2.0),
    ):
        above.plot(place, scores[order], ".", markersize=width + 3, color=colour, label=name)
    above.set(ylabel=evidence.heldout_grader or "score", title=f"{told.phase}: {told.reason[:110]}")
    above.legend(loc="center right")
    gain = (candidate - champion)[order]
    below.bar(place, gain, width=1.0, color=np.where(gain < 0, "#c8403a", "#2a9d5c"))
    below.axhline(0, color="black", linewidth=0.6)
    below.set(xlabel=f"{len(rows)} gate rows, the largest gain first", ylabel="gain")
    made.savefig(path)
