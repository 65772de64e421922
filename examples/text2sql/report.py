"""What the loop reached: a table for the terminal and `report.html` for people who look."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from examples.text2sql import charts


@dataclass(frozen=True)
class Measure:
    """One row of the table: what, the figure, what it must reach, whether it does."""

    what: str
    value: str
    target: str
    ok: bool
    closes: bool = True
    """Whether the loop counts as closed only with it; seconds depend on the machine."""


@dataclass
class Story:
    """Everything the report shows; seconds count from the start of the loop."""

    answers: list[tuple[float, str, bool]] = field(default_factory=list)
    """(second, version, right) of every answer that a user judged by running it."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Release events: second, version, event, percent, reason."""
    tried: dict[str, float] = field(default_factory=dict)
    """Method to held-out score."""
    chosen: str | None = None
    training_reason: str = ""
    reward: list[tuple[float, float]] = field(default_factory=list)
    """(step, mean reward) of reinforcement fine-tuning."""
    phases: list[tuple[str, float, float]] = field(default_factory=list)
    """(name, start, end)."""
    measures: list[Measure] = field(default_factory=list)


def ramp_series(events: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Percent of traffic over time for each version that was released."""
    series: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        series.setdefault(event["version"], []).append((event["second"], event["percent"] or 0.0))
    return series


def write(story: Story, path: Path, *, fast: bool) -> None:
    """Render the report; it needs no network to be read."""
    end = max((end for _, _, end in story.phases), default=1.0)
    marks = {
        f"{event['event']} {event['version']}": event["second"]
        for event in story.events
        if event["event"] in ("started", "promoted", "rolled_back")
    }
    pictures = {
        "accuracy": charts.accuracy_by_version(story.answers, 5.0 if fast else 10.0, marks),
        "ramp": charts.ramp(ramp_series(story.events), end),
        "methods": charts.methods(story.tried, story.chosen),
        "reward": charts.curve(story.reward, "mean reward") if story.reward else "",
        "timeline": charts.timeline(story.phases),
    }
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (Path(__file__).parent / "report.html.j2").read_text()
    )
    path.write_text(
        template.render(
            charts={name: Markup(text) for name, text in pictures.items()},
            measures=story.measures,
            events=story.events,
            training_reason=story.training_reason,
            made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            versions=_versions(),
            fast=fast,
        )
    )


def table(measures: Sequence[Measure]) -> str:
    """The measures as aligned text."""
    rows = [("what", "measured", "must reach", "")] + [
        (measure.what, measure.value, measure.target, "yes" if measure.ok else "NO")
        for measure in measures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(
        line.rstrip() for line in [lines[0], "  ".join("-" * w for w in widths), *lines[1:]]
    )


def _versions() -> str:
    names = ("torch", "transformers", "trl", "peft", "mlflow", "duckdb")
    parts = [f"{name} {version(name)}" for name in names]
    return f"Python {platform.python_version()}, " + ", ".join(parts)
