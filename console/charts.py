"""Charts, drawn here as SVG: read without a script, coloured by the style sheet."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 640.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 10.0, 10.0, 24.0
Point = tuple[float, float]


class Line(NamedTuple):
    """One curve; colours go by its place."""

    name: str
    points: Sequence[Point]


def lines(
    curves: Sequence[Line], *, label: str, across: str = "", low: float | None = None,
    high: float | None = None, steps: bool = False,
) -> Markup:  # fmt: skip
    """A chart of some curves over one axis; empty without any point. `steps`: a value holds until
    the next one."""
    curves = [Line(each.name, sorted(each.points)) for each in curves if each.points]
    if not curves:
        return Markup("")
    xs = [x for each in curves for x, _ in each.points]
    ys = [y for each in curves for _, y in each.points]
    bottom = min(ys) if low is None else low
    top = max(ys) if high is None else high
    frame = _Frame(min(xs), max(xs), bottom, top if top > bottom else bottom + 1)
    parts = [_axes(frame, across)]
    for index, each in enumerate(curves):
        points = _stairs(each.points) if steps else each.points
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        parts.append(Markup('<polyline class="s{}" points="{}"/>').format(index % 5, path))
        x, y = each.points[-1]
        dot = Markup('<circle class="d{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>')
        parts.append(dot.format(index % 5, frame.x(x), frame.y(y)))
    svg = Markup('<svg class="chart" viewBox="0 0 640 200" role="img" aria-label="{}">{}</svg>')
    return _legend(curves) + svg.format(label, Markup("").join(parts))


class _Frame(NamedTuple):
    """What stands where."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        width = self.right - self.left or 1.0
        return LEFT + (value - self.left) / width * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM)


def _axes(frame: _Frame, across: str) -> Markup:
    parts = []
    for value in (frame.low, (frame.low + frame.high) / 2, frame.high):
        y = frame.y(value)
        line = Markup('<path class="axis" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}"')
        parts.append(line.format(LEFT, y, WIDTH - RIGHT, LEFT - 6, y + 4))
        parts.append(Markup(' text-anchor="end">{}</text>').format(f"{value:.3g}"))
    text = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    end = f"{frame.right:.3g} {across}".strip()
    parts.append(text.format(LEFT, HEIGHT - 6, "start", f"{frame.left:.3g}"))
    parts.append(text.format(WIDTH - RIGHT, HEIGHT - 6, "end", end))
    return Markup("").join(parts)


def _legend(curves: Sequence[Line]) -> Markup:
    dot = '<span><svg aria-hidden="true" viewBox="0 0 10 10">'
    dot += '<circle class="d{}" cx="5" cy="5" r="4"/></svg> {}</span>'
    rows = [Markup(dot).format(index % 5, each.name) for index, each in enumerate(curves)]
    return Markup('<div class="legend chart-legend">{}</div>').format(Markup("").join(rows))


def _stairs(points: Sequence[Point]) -> list[Point]:
    found = list(points[:1])
    for before, after in pairwise(points):
        found += [(after[0], before[1]), after]
    return found
