"""Which prompts RFT asks, and how often.

- Coverage: a greedy pick by words not seen yet, each weighted by how common it is. Ten prompts
  picked so beat the first ten by 16 points.
- Difficulty: a prompt the model always or never gets right teaches nothing; first estimates come
  from logged verdicts, then from the run's own answers. Half of the draws stay uniform, as
  estimates are few and age.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from everlearn.prompts import last_user_text
from trainer.rows import Row

_WORD = re.compile(r"\w+")
UNIFORM_SHARE = 0.5


def coverage(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most `limit` rows of different prompts, those with the most new common words first."""
    words = {row.key: _words(row) for row in rows}
    counts = Counter(word for found in words.values() for word in found)
    left = {row.key: row for row in rows}
    seen: set[str] = set()
    picked: list[Row] = []
    while left and len(picked) < limit:
        gains = {key: sum(counts[word] for word in words[key] - seen) for key in left}
        best = max(left, key=lambda key: (gains[key], key))
        if gains[best] == 0 and seen:
            # Every word is covered: begin another pass, for other combinations.
            seen = set()
            continue
        seen |= words[best]
        picked.append(left.pop(best))
    return picked


def _words(row: Row) -> set[str]:
    # A prompt without words still counts as one, so that the pick always moves on.
    return set(_WORD.findall(last_user_text(row.messages).casefold())) or {row.key}


def difficulty(verdicts: Mapping[str, Sequence[float]], keys: Sequence[str]) -> list[float]:
    """p (1 - p) of each prompt, p = smoothed mean of its logged verdicts (a half without any)."""
    rates = [(sum(verdicts.get(key, ())) + 1) / (len(verdicts.get(key, ())) + 2) for key in keys]
    return [rate * (1 - rate) for rate in rates]


def draw(weights: Sequence[float], count: int, rng: random.Random) -> list[int]:
    """`count` different prompts, over and over where there are fewer; half of the draw uniform."""
    total, number = sum(weights) or 1.0, len(weights)
    shares = [UNIFORM_SHARE / number + (1 - UNIFORM_SHARE) * each / total for each in weights]
    # Exponential keys: a weighted draw without putting back.
    keys = [rng.random() ** (1 / share) for share in shares]
    ranked = sorted(range(number), key=lambda index: keys[index], reverse=True)
    return (ranked * (count // number + 1))[:count]


class Group(NamedTuple):
    """What the answers to one prompt were given at one step."""

    variance: float
    low: float
    high: float


class Curriculum:
    """The prompts of each step, drawn by what the run's own answers to them were given.

    A draw depends on the seed, the step and what was measured before it, which is kept in `kept`:
    a run that is taken up draws the same.
    """

    def __init__(self, weights: Sequence[float], per_step: int, seed: int, kept: Path) -> None:
        """`weights`: p (1 - p) as logged verdicts have it, until a prompt was asked."""
        self._first, self._per_step, self._seed, self._kept = weights, per_step, seed, kept
        self._seen: list[tuple[int, dict[int, Group]]] = []

    def go_on(self, step: int) -> None:
        """What was measured until `step`; what a run that died measured after it is forgotten."""
        lines = self._kept.read_text().splitlines() if self._kept.exists() else []
        self._seen = [(at, seen) for at, seen in _whole(lines) if at <= step]
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        self._kept.write_text("".join(_line(at, seen) for at, seen in self._seen))

    def of(self, step: int) -> list[int]:
        """The prompts of a step."""
        rng = random.Random(f"{self._seed} {step}")
        return draw(self.weights(), self._per_step, rng)

    def saw(self, step: int, rows: Sequence[int], values: Sequence[float]) -> None:
        """What the answers of a step were given."""
        groups: dict[int, list[float]] = {}
        for row, value in zip(rows, values, strict=True):
            groups.setdefault(row, []).append(value)
        seen = {row: _group(given) for row, given in groups.items()}
        self._seen.append((step, seen))
        with self._kept.open("a") as file:
            file.write(_line(step, seen))

    def weights(self) -> list[float]:
        """p (1 - p) of each prompt: the variance of its reward, on a scale of what rewards there
        were; half of it what was found last, as the model moves."""
        every = [each for _, seen in self._seen for each in seen.values()]
        width = max((each.high for each in every), default=0.0) - min(
            (each.low for each in every), default=0.0
        )
        found = list(self._first)
        for _, seen in self._seen:
            for row, each in seen.items():
                spread = each.variance / width**2 if width else 0.0
                found[row] = (found[row] + spread) / 2
        return found

    def shown(self) -> dict[str, float]:
        """Shares of all prompts: asked by now, and of what was asked last time open (answered now
        well, now badly), or the same every time."""
        latest = {row: each for _, seen in self._seen for row, each in seen.items()}
        opened = sum(each.low < each.high for each in latest.values())
        return {
            "curriculum/asked": len(latest) / len(self._first),
            "curriculum/open": opened / max(1, len(latest)),
        }


def _group(values: Sequence[float]) -> Group:
    mean = fmean(values)
    return Group(fmean([(value - mean) ** 2 for value in values]), min(values), max(values))


def _line(step: int, seen: Mapping[int, Group]) -> str:
    return json.dumps([step, seen]) + "\n"


def _whole(lines: Sequence[str]) -> Iterator[tuple[int, dict[int, Group]]]:
    """Lines until the first that a kill cut short."""
    for line in lines:
        try:
            step, seen = json.loads(line)
        except ValueError:
            return
        yield step, {int(row): Group(*each) for row, each in seen.items()}
