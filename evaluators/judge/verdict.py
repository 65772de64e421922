"""Reads a judge's answer strictly: what is not plainly a verdict is a GraderError, never a zero."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from everlearn.errors import GraderError

_THINK, _THOUGHT = "<think>", "</think>"
_FENCE = re.compile(r"^```\s*(?:json)?\s*(.*?)\s*```$", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$")


def read_score(text: str, low: float, high: float) -> tuple[float, str | None]:
    """The number of `{"score": 0.5, "reason": "..."}` or `0.5`, and the reason."""
    plain = spoken(text)
    number: Any
    if _NUMBER.match(plain):
        number, reason = float(plain), None
    else:
        verdict = read_object(plain)
        number, reason = verdict.get("score"), _reason(verdict)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise GraderError(f"the judge gave no number: {_short(text)}")
    if not math.isfinite(number) or not low <= number <= high:
        raise GraderError(f"the judge's score {number} is not in [{low:g}, {high:g}]")
    return float(number), reason


def read_label(text: str, labels: Sequence[str]) -> tuple[str, str | None]:
    """The label of `{"label": "good", "reason": "..."}` or `good`, and the reason."""
    plain = spoken(text)
    if plain in labels:
        return plain, None
    verdict = read_object(plain)
    label = verdict.get("label")
    if label not in labels:
        raise GraderError(f"the judge's label {label!r:.80} is none of {', '.join(labels)}")
    return str(label), _reason(verdict)


def spoken(text: str) -> str:
    """Without the thinking before it: `<think>...</think>`, whose opening may be in the prompt."""
    plain = text.strip()
    if plain.startswith(_THINK):
        thought, ended, plain = plain.rpartition(_THOUGHT)
        if not ended:
            raise GraderError(f"the judge's answer ended while it was thinking: {_short(thought)}")
    elif plain.count(_THOUGHT) == 1:
        plain = plain.partition(_THOUGHT)[2]
    return plain.strip()


def read_object(text: str) -> dict[str, Any]:
    """The JSON object that the judge spoke, in a fence or not."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        raise GraderError(f"the judge's answer is no verdict: {_short(text)}") from error
    if not isinstance(value, dict):
        raise GraderError(f"the judge's answer is no verdict: {_short(text)}")
    return value


def _reason(verdict: dict[str, Any]) -> str | None:
    reason = verdict.get("reason")
    return reason[:500] if isinstance(reason, str) else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
