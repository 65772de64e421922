"""What feedback means: one number from 0 to 1, and one verdict on an answer. Pure functions.

Grader, snapshot and console all ask here, so that a thumb is taught as it was counted.

- A value is read on the scale of its name: `binary` (true/false, 1/0, 1/-1) or lowest to highest.
  What lies off the scale says nothing, and costs nobody else's word.
- Of each rater the latest word counts; a correction outranks his own thumb.
- An expert outranks everybody else: the latest expert's word is the verdict.
- A user's correction is a suggestion: it says nothing until an expert or a grader confirms it.
- Of users the mean by weight counts.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from unicodedata import normalize

Row = Mapping[str, Any]
Scale = Literal["binary"] | tuple[float, float]
Scales = Mapping[str, Scale]

SCALES: Scales = {
    "thumbs": "binary",
    "stars": (1.0, 5.0),
    "rating": (1.0, 5.0),
    "nps": (0.0, 10.0),
    "portkey": (-10.0, 10.0),
}
"""Of the names that need no declaration; any other is from 0 to 1, or true and false."""
UNIT = (0.0, 1.0)


class OffScale(ValueError):
    """A value that its scale does not have."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A rater's word on one answer."""

    value: float
    """0 to 1."""
    kind: str
    expert: bool
    weight: float = 1.0
    correction: str | None = None
    """The right answer, where an expert told it."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What all of them together say."""

    value: float
    """0 to 1; above one half the answer is good."""
    margin: float
    """Summed weight for the answer less that against it."""
    voices: int
    expert: bool = False
    kind: str = "binary"
    correction: str | None = None


def value_of(row: Row, scales: Scales = SCALES) -> float | None:
    """From 0 to 1; None where the row carries no value, OffScale where its scale has none such."""
    if row["kind"] not in ("binary", "scalar", "implicit"):
        return None
    scale = scales.get(row["name"]) or SCALES.get(row["name"]) or UNIT
    if row.get("value_bool") is not None:
        return float(row["value_bool"])
    number = row.get("value_number")
    if number is None:
        return None
    if scale == "binary":
        if number == -1:
            return 0.0
        scale = UNIT
    lowest, highest = scale
    if not lowest <= number <= highest or math.isnan(number):
        raise OffScale(f"{number:g} is not in {lowest:g} to {highest:g}")
    return (float(number) - lowest) / (highest - lowest)


def voices(
    rows: Iterable[Row], answer: str, names: Iterable[str], scales: Scales = SCALES
) -> tuple[list[Voice], list[str]]:
    """Each rater's word on `answer`, the latest last, and what was off its scale. `rows` are in the
    order in which they were given; only feedback of these `names`, and experts' corrections."""
    wanted, latest, strange = set(names), dict[tuple[Any, ...], Voice](), list[str]()
    for index, row in enumerate(rows):
        try:
            voice = _voice(row, answer, wanted, scales)
        except OffScale as error:
            strange.append(f"{row['name']}: {error}")
            continue
        if voice is None:
            continue
        rater = (row.get("author"), row.get("author_id") or row.get("key_id") or index)
        before = latest.pop(rater, None)
        if before is not None and before.correction is not None and voice.correction is None:
            voice = before
        latest[rater] = voice
    return list(latest.values()), strange


def opinion(given: Iterable[Voice]) -> Opinion | None:
    """The verdict; None while nobody that is trusted has said anything."""
    heard = list(given)
    experts = [voice for voice in heard if voice.expert]
    if experts:
        last = experts[-1]
        sign = 1.0 if last.value > 0.5 else -1.0
        return Opinion(last.value, sign, len(experts), True, last.kind, last.correction)
    total = sum(voice.weight for voice in heard)
    if total <= 0:
        return None
    value = sum(voice.weight * voice.value for voice in heard) / total
    margin = sum(voice.weight * (2 * voice.value - 1) for voice in heard)
    return Opinion(value, margin, len(heard))


def _voice(row: Row, answer: str, names: set[str], scales: Scales) -> Voice | None:
    expert = row.get("author") == "expert"
    weight = row.get("weight")
    weight = 1.0 if weight is None else float(weight)
    if row["kind"] == "correction":
        text = row.get("value_text")
        if not expert or text is None:
            return None
        return Voice(float(fold(text) == fold(answer)), "correction", True, weight, text)
    value = value_of(row, scales) if row["name"] in names else None
    return None if value is None else Voice(value, row["kind"], expert, weight)


def fold(text: str) -> str:
    """Answers are the same when they differ in white space only, or in how an accent is written."""
    return " ".join((text if text.isascii() else normalize("NFC", text)).split())
