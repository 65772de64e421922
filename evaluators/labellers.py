"""How far the people who label agree with each other, on answers that more than one of them judged.

No judge can be held to more than that. Krippendorff's alpha over everybody (1 perfect, 0 as by
chance), on right and wrong; and for each pair of people Cohen's kappa.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from evaluators.experts import read_answers, read_said
from evaluators.intervals import confusion
from everlearn.lake.store import Lake
from everlearn.opinion import voices
from everlearn.task import Task

Word = Mapping[str, bool]
"""Right or wrong, by labeller."""


@dataclass(frozen=True)
class Pair:
    """Two labellers on the answers that both judged."""

    one: str
    other: str
    answers: int
    equal: int
    kappa: float | None
    """None where one of them says one thing only."""


@dataclass(frozen=True)
class Labellers:
    """Everybody on the answers that more than one judged."""

    answers: int
    people: int
    agreement: float | None
    """Share of pairs of labels on one answer that are equal."""
    alpha: float | None
    """None while everybody says the same of every answer."""
    pairs: list[Pair]
    """Those with most answers first."""

    def __str__(self) -> str:
        if self.agreement is None:
            return (
                "labellers: no answer was judged by two people; `labels.overlap_percent` asks "
                "two of some"
            )
        alpha = "not defined" if self.alpha is None else f"{self.alpha:.2f}"
        lines = [
            f"labellers: {self.people} agree on {self.agreement:.1%} of {self.answers} answers "
            f"that more than one judged, alpha {alpha}"
        ]
        for each in self.pairs[:10]:
            kappa = "not defined" if each.kappa is None else f"{each.kappa:.2f}"
            equal = f"{each.equal} of {each.answers} alike"
            lines.append(f"  {each.one} and {each.other}: {equal}, kappa {kappa}")
        return "\n".join(lines)


def labellers(lake: Lake, task: Task) -> Labellers:
    """By what stands in the lake."""
    said = read_said(lake, task)
    words = [
        _word(said[row["completion_id"]], row["response_text"], task)
        for row in read_answers(lake, said)
    ]
    return agreement_of([word for word in words if len(word) > 1])


def agreement_of(said: Sequence[Word]) -> Labellers:
    """Of answers that two or more judged."""
    both: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for word in said:
        for one, other in combinations(sorted(word), 2):
            both[one, other].append((word[one], word[other]))
    pairs = [
        Pair(one, other, len(rows), sum(a == b for a, b in rows), confusion(rows).kappa)
        for (one, other), rows in both.items()
    ]
    pairs.sort(key=lambda pair: (-pair.answers, pair.one, pair.other))
    compared = sum(pair.answers for pair in pairs)
    return Labellers(
        answers=len(said),
        people=len({name for word in said for name in word}),
        agreement=sum(pair.equal for pair in pairs) / compared if compared else None,
        alpha=_alpha(said),
        pairs=pairs,
    )


def _word(rows: Sequence[Mapping[str, Any]], answer: str, task: Task) -> dict[str, bool]:
    """Each labeller's last word on one answer, as `opinion` reads it; what says neither is none."""
    by_person: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_person[str(row["author_id"] or row["key_id"] or "")].append(row)
    found = {}
    for name, own in by_person.items():
        heard, _ = voices(own, answer, {row["name"] for row in own}, task.scales)
        if name and heard and heard[-1].value != 0.5:
            found[name] = heard[-1].value > 0.5
    return found


def _alpha(said: Sequence[Word]) -> float | None:
    if len({good for word in said for good in word.values()}) < 2:
        return None
    # Imported here: it brings pandas.
    import pandas as pd
    from crowdkit.metrics.data import alpha_krippendorff

    rows = [(number, name, good) for number, word in enumerate(said) for name, good in word.items()]
    return float(alpha_krippendorff(pd.DataFrame(rows, columns=["task", "worker", "label"])))
