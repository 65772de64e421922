"""The report's pictures: matplotlib to inline SVG, readable without a network."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("svg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#6b7280", "#15803d", "#b91c1c", "#1d4ed8", "#a16207")


def accuracy_by_version(
    answers: Sequence[tuple[float, str, bool]], bin_seconds: float, marks: Mapping[str, float]
) -> str:
    """Share of right answers per version over time.

    `answers`: (seconds since start, version, right); `marks`: label to seconds, drawn as lines.
    """
    figure, axes = _axes("seconds since start", "share of right answers")
    bins: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for second, version, right in answers:
        bins[version][int(second // bin_seconds)].append(right)
    for color, (version, counts) in zip(COLORS, bins.items(), strict=False):
        middles = [(index + 0.5) * bin_seconds for index in sorted(counts)]
        shares = [sum(counts[index]) / len(counts[index]) for index in sorted(counts)]
        axes.plot(
            middles, shares, color=color, marker="o", markersize=3, label=f"version {version}"
        )
    _marks(axes, marks)
    axes.set_ylim(-0.03, 1.08)
    axes.legend(loc="lower right", frameon=False)
    return _svg(figure)


def ramp(series: Mapping[str, Sequence[tuple[float, float]]], end: float) -> str:
    """Share of traffic per version: (seconds since start, percent), held until the next point."""
    figure, axes = _axes("seconds since start", "percent of traffic")
    for color, (version, points) in zip(COLORS[1:], series.items(), strict=False):
        seconds = [second for second, _ in points] + [end]
        percents = [percent for _, percent in points] + [points[-1][1]]
        axes.step(seconds, percents, where="post", color=color, label=f"version {version}")
    axes.set_xlim(0, end)
    axes.set_ylim(-3, 108)
    if series:
        axes.legend(loc="upper left", frameon=False)
    return _svg(figure)


def methods(reached: Mapping[str, float], chosen: str | None) -> str:
    """Held-out score that each method reached; the chosen one stands out."""
    figure, axes = _axes("held-out score", "", height=0.5 * len(reached) + 1.2)
    names = list(reached)
    colors = [COLORS[1] if name == chosen else COLORS[0] for name in names]
    bars = axes.barh(names, [reached[name] for name in names], color=colors)
    axes.bar_label(bars, fmt="%.3f", padding=4)
    axes.set_xlim(0, 1.12)
    axes.invert_yaxis()
    return _svg(figure)


def curve(points: Sequence[tuple[float, float]], name: str) -> str:
    """One training metric by step."""
    figure, axes = _axes("step", name)
    axes.plot([step for step, _ in points], [value for _, value in points], color=COLORS[3])
    return _svg(figure)


def timeline(phases: Sequence[tuple[str, float, float]]) -> str:
    """What took how long: (name, start, end) in seconds since start."""
    figure, axes = _axes("seconds since start", "", height=0.36 * len(phases) + 1.0)
    bars = axes.barh(
        [name for name, _, _ in phases],
        [end - start for _, start, end in phases],
        left=[start for _, start, _ in phases],
        color=COLORS[3],
    )
    axes.bar_label(bars, [f"{end - start:.0f} s" for _, start, end in phases], padding=4)
    axes.set_xlim(0, max(end for _, _, end in phases) * 1.1)
    axes.invert_yaxis()
    return _svg(figure)


def day(
    looks: Mapping[str, Sequence[tuple[float, float]]],
    ramps: Mapping[str, Sequence[tuple[float, str, float]]],
    happened: Sequence[tuple[float, str, str]],
    end: float,
) -> str:
    """A day from left to right, in minutes: what was right, who served, what went wrong.

    `looks`: by task (minute, share right); `ramps`: by task (minute, version, percent);
    `happened`: (minute, kind, words).
    """
    figure = Figure(figsize=(11, 2.6 + 1.3 * (len(ramps) + 1)), layout="constrained")
    heights = [2.6, *([1.0] * len(ramps)), 1.2]
    ratios = {"height_ratios": heights}
    rows: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, gridspec_kw=ratios))
    right, served, trouble = rows[0], rows[1:-1], rows[-1]
    for color, (task, points) in zip(COLORS[1:], looks.items(), strict=False):
        right.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, label=task)
    right.axhline(0.95, color="#9ca3af", linestyle="--", linewidth=1)
    right.set_ylim(0, 1.05)
    right.set_ylabel("jargon right")
    right.legend(loc="lower right", frameon=False)
    for axes, (task, moves) in zip(served, ramps.items(), strict=True):
        versions = list(dict.fromkeys(version for _, version, _ in moves))
        for number, version in enumerate(versions):
            steps = [(minute, percent) for minute, own, percent in moves if own == version]
            minutes, percents = zip(*steps, strict=True)
            color = COLORS[1 + number % (len(COLORS) - 1)]
            axes.step([*minutes, minutes[-1] + 0.5], [*percents, percents[-1]], where="post",
                color=color)  # fmt: skip
            axes.annotate(version, (minutes[0], 104), fontsize=8, color=color)
        axes.set_ylim(0, 125)
        axes.set_ylabel(f"{task}\n% traffic", fontsize=8)
    kinds = [kind for kind in ("drift", "people", "kill", "broker") if _of(happened, kind)]
    for row, kind in enumerate(kinds):
        moments = [minute for minute, _ in _of(happened, kind)]
        trouble.plot(moments, [row] * len(moments), "|", markersize=14, color=COLORS[row + 1])
    for minute, _ in _of(happened, "drift"):
        for axes in (right, *served):
            axes.axvline(minute, color="#b91c1c", linestyle=":", linewidth=1)
    trouble.set_yticks(range(len(kinds)), kinds)
    trouble.set_ylim(-0.7, max(len(kinds), 1) - 0.3)
    trouble.set_xlim(0, end)
    trouble.set_xlabel("minutes since the first user")
    return _svg(figure)


def _of(happened: Sequence[tuple[float, str, str]], kind: str) -> list[tuple[float, str]]:
    return [(minute, words) for minute, own, words in happened if own == kind]


def _axes(x: str, y: str, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _marks(axes: Axes, marks: Mapping[str, float]) -> None:
    for label, second in marks.items():
        axes.axvline(second, color="#9ca3af", linestyle=":", linewidth=1)
        axes.annotate(label, (second, 1.08), rotation=90, va="top", ha="right", fontsize=8)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "everlearn"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
