"""What the day came to: a table, and a picture of it from left to right."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from everlearn.errors import EverlearnError
from examples.text2sql import charts
from examples.text2sql.report import Measure
from examples.text2sql.report import table as text
from examples.text2sql.traffic import Record

if TYPE_CHECKING:
    from examples.text2sql.day.run import Plan

__all__ = ["Day", "Kind", "Look", "settled", "table", "text", "verb", "write"]

Kind = Literal["people", "drift", "kill", "broker", "release", "trouble"]
BACK = 0.95
"""Of jargon right, before a drift and again after it."""
WORSE_POINTS = 0.03
"""By which a promoted version may look worse than the champion before, on the users' own notes."""
SETTLE_SECONDS = 180.0


class Look(NamedTuple):
    """Share of unseen jargon answered right at some second of the day."""

    second: float
    task: str
    right: float


@dataclass
class Day:
    """All that was written down; seconds since the first user."""

    started: float
    tasks: tuple[str, ...]
    looks: list[Look] = field(default_factory=list)
    happened: list[tuple[float, Kind, str]] = field(default_factory=list)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Release events by task."""
    records: dict[str, list[Record]] = field(default_factory=dict)
    capture: Mapping[str, Any] = field(default_factory=dict)
    spoiled: tuple[str, str] | None = None
    """Task and version that somebody released although it is bad."""
    memory_bytes: int = 0


def verb(words: Sequence[str]) -> str:
    """What `everlearn WORDS` prints; EverlearnError where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "everlearn", *words],
        stdout=subprocess.PIPE, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        raise EverlearnError(f"`everlearn {' '.join(words)}` ended with {done.returncode}")
    return done.stdout


def settled() -> Mapping[str, Any]:
    """`everlearn status` of capture, once everything acknowledged is stored or time is up."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found: Mapping[str, Any] = json.loads(verb(["status", "--json"]))["capture"]
        if found["missing"] == 0 or time.monotonic() > deadline:
            return found
        time.sleep(2)


def table(day: Day, plan: "Plan") -> list[Measure]:
    """The rows that say whether the loop held."""
    everybody = [record for records in day.records.values() for record in records]
    failed = sum(record.error is not None for record in everybody)
    available = 1 - failed / max(1, len(everybody))
    bad = bad_promotions(day)
    promoted = sum(
        event["event"] == "promoted" for events in day.events.values() for event in events
    )
    rows = [
        *(_recovery(day, task, plan) for task in day.tasks),
        Measure("versions promoted, of which worse", f"{promoted}, {len(bad)}", "0 worse", not bad),
        Measure("spoiled version", *_spoiled(day)),
        Measure(
            "availability (users never retry)",
            f"{available:.2%}, {failed} of {len(everybody)} failed",
            ">= 99.9 %",
            available >= 0.999,
        ),
        Measure(
            "events acknowledged, stored, missing, doubled",
            ", ".join(str(day.capture[key]) for key in _CAPTURE),
            "0 missing, 0 doubled",
            day.capture["missing"] == 0 and day.capture["duplicates"] == 0,
        ),
        Measure(
            "memory of everything, at most",
            f"{day.memory_bytes / 2**30:.1f} GB",
            "<= 8 GB",
            day.memory_bytes <= 8 * 2**30,
            closes=False,
        ),
    ]
    return rows


_CAPTURE = ("acknowledged", "stored", "missing", "duplicates")


def _recovery(day: Day, task: str, plan: "Plan") -> Measure:
    """Jargon right before the first drift, and how long each drift took to be learned."""
    ends = (plan.first_drift, plan.second_drift, plan.end)
    starts = (0.0, plan.first_drift, plan.second_drift)
    took = [back_after(day, task, start, end) for start, end in zip(starts, ends, strict=True)]
    told = ["never" if each is None else f"{each / 60:.0f} min" for each in took]
    return Measure(
        f"{task}: jargon at {BACK:.0%} from the start, after drift 1, after drift 2",
        ", ".join(told),
        "each, without a verb",
        all(each is not None for each in took),
    )


def back_after(day: Day, task: str, start: float, end: float) -> float | None:
    """Seconds from `start` to the first look that is right often enough; None: not before `end`."""
    for look in day.looks:
        if look.task == task and start < look.second <= end and look.right >= BACK:
            return look.second - start
    return None


def bad_promotions(day: Day) -> list[tuple[str, str]]:
    """(task, version) promoted although users of it were worse served than the champion's then."""
    found = []
    for task, events in day.events.items():
        champion = "base"
        for event in events:
            if event["event"] != "promoted":
                continue
            version = event["version"]
            begun = min(each["second"] for each in events if each["version"] == version)
            window = (begun, event["second"])
            new, old = (_share(day, task, each, window) for each in (version, champion))
            worse = new is not None and old is not None and new < old - WORSE_POINTS
            if worse or (task, version) == day.spoiled:
                found.append((task, version))
            champion = version
    return found


def _share(day: Day, task: str, version: str, window: tuple[float, float]) -> float | None:
    """Right answers of the version in that time, as its users know it."""
    right = [
        record.correct
        for record in day.records.get(task, [])
        if (record.version or "base") == version
        and record.error is None
        and window[0] <= record.finished_at - day.started <= window[1]
    ]
    return sum(right) / len(right) if right else None


def _spoiled(day: Day) -> tuple[str, str, bool]:
    """What became of it."""
    told = [
        event["event"]
        for task, events in day.events.items()
        for event in events
        if (task, event["version"]) == day.spoiled
    ]
    ending = told[-1] if told else "never released"
    return ending, "rolled_back", ending == "rolled_back"


def write(day: Day, plan: "Plan", rows: Sequence[Measure], path: Path) -> None:
    """One page that needs no network: the table, the picture and what happened."""
    import jinja2
    from markupsafe import Markup

    template = (Path(__file__).parent / "day.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    looks = {
        task: [(look.second / 60, look.right) for look in day.looks if look.task == task]
        for task in day.tasks
    }
    marks = [(second / 60, kind, words) for second, kind, words in day.happened]
    picture = Markup(charts.day(looks, _arms(day), marks, plan.end / 60))
    path.write_text(
        environment.from_string(template).render(rows=rows, picture=picture, happened=day.happened)
    )


def _arms(day: Day) -> dict[str, list[tuple[float, str, float]]]:
    """By task: minute, version and percent of each step of a release."""
    return {
        task: [(each["second"] / 60, each["version"], each["percent"] or 0.0) for each in events]
        for task, events in day.events.items()
    }
