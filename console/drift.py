"""What the looks for drift found, as tables and a curve: only what they wrote down is read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from console.charts import Line, lines
from console.source import Source
from everlearn.errors import NotFound

LOOKS, METRICS, CURVES = 15, 30, 5
_LOOKS = f"""
    SELECT look, event, reason, window_rows, window_since, window_until, reference_since,
        reference_until, created_at
    FROM drift_looks WHERE task = ? ORDER BY look DESC LIMIT {LOOKS}
"""
_METRICS = f"""
    SELECT metric, kind, before, now, shift, p_value, detail, alarm FROM drift
    WHERE task = ? AND look = ? ORDER BY alarm DESC, shift DESC, metric LIMIT {METRICS}
"""
_CURVES = """
    SELECT metric, look, shift FROM drift
    WHERE task = ? AND look BETWEEN ? AND ? AND metric IN (SELECT unnest(?::VARCHAR[]))
"""


class Drift(NamedTuple):
    """Of one task: its latest looks, the newest first, and one of them in figures."""

    looks: list[dict[str, Any]]
    shown: dict[str, Any] | None = None
    metrics: Sequence[dict[str, Any]] = ()
    curve: Markup = Markup("")


def drift(source: Source, task: str, look: int | None = None) -> Drift:
    """The newest look in figures, or the one that is asked for among those that are listed."""
    looks = source.rows(_LOOKS, [task])
    shown = next((row for row in looks if look in (None, row["look"])), None)
    if shown is None:
        if look is not None:
            raise NotFound(f"task {task} has no look {look} among its last {LOOKS}")
        return Drift([])
    metrics = source.rows(_METRICS, [task, shown["look"]])
    return Drift(looks, shown, metrics, _curve(source, task, looks, metrics))


def _curve(
    source: Source, task: str, looks: list[dict[str, Any]], metrics: list[dict[str, Any]]
) -> Markup:
    """How far what has moved most was from the reference at each look."""
    names = [row["metric"] for row in metrics[:CURVES]]
    if len(looks) < 2:
        return Markup("")
    params = [task, looks[-1]["look"], looks[0]["look"], names]
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for row in source.rows(_CURVES, params):
        if row["shift"] is not None:
            points[row["metric"]].append((float(row["look"]), row["shift"]))
    curves = [Line(name, each) for name, each in points.items()]
    return lines(curves, label="share of rows that moved, by look", across="look", low=0.0)
