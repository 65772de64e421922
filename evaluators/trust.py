"""How far a rater is believed: pure functions over what raters said.

Nobody is believed on his own word. A rater's weight starts low, rises with agreement with experts
and with the consensus of the others (Dawid and Skene's estimate, by crowd-kit), falls with
disagreement, and is capped. What looks like a machine or a crowd hired for the day is quarantined
with the reason, until an operator releases it:

- `rate`: more pieces in a minute than a person gives.
- `one_sided`: at least `ONE_SIDED_VOTES` words, and so many of one kind as the others' share of
  that kind would bring about once in a million times.
- `alike`: three raters or more who say the same of the same answers, which hardly anybody else
  does. A team that is asked to rate the same answers is that too: give it experts' keys.
- `new_accounts`: many raters nobody had heard of, with one word on one answer, within a minute.
- `contradicted`: experts contradicted more of his words than others' errors explain, of few words
  looked at one. Ends by itself when they confirm more of them.
- `unreviewed`: experts looked at so few of the answers that he was the first to speak of as chance
  hardly leaves where they look at a share of everybody's, and more raters are like that than chance
  explains: the busiest of them, until an expert looks at more of theirs. Without experts nobody is.

Not found: a few patient people who behave like everybody else, where no expert meets them. The
label queue sends experts to everybody (`evaluators.audit`); the share that one rater may have of
what is taught bounds the rest (`trainer.admit`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.suspicion import (
    Item,
    Vote,
    alike,
    contradicted,
    met,
    new_accounts,
    one_sided,
    too_fast,
    unreviewed,
)

START = 0.75
"""Accuracy of a rater nobody knows; with `PRIOR` as many words as that is worth."""
PRIOR = 4.0
CAP = 1.0
CONSENSUS = 3
"""Raters on one answer before their consensus says something about one of them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a rater's word weighs; nothing while he is quarantined."""

    weight: float
    quarantined: str | None = None
    """Why."""
    met: bool = False
    """An expert has found something that he brought to be as he said."""


def review(
    votes: Iterable[Vote], *, max_per_minute: int, released: Collection[str] = ()
) -> dict[str, Standing]:
    """Every rater's standing, experts apart: they are believed. `released`: by an operator."""
    words = sorted(votes, key=lambda vote: (vote.at, vote.rater, vote.item))
    users = [vote for vote in words if not vote.expert]
    reasons = {
        **dict.fromkeys(contradicted(words), "contradicted"),
        **dict.fromkeys(new_accounts(users), "new_accounts"),
        **dict.fromkeys(alike(users), "alike"),
        **dict.fromkeys(one_sided(users), "one_sided"),
        **dict.fromkeys(too_fast(users, max_per_minute), "rate"),
    }
    rest = [vote for vote in words if vote.expert or vote.rater not in reasons]
    reasons |= dict.fromkeys(unreviewed(rest), "unreviewed")
    held = {rater: reason for rater, reason in reasons.items() if rater not in released}
    weights = learn([vote for vote in words if vote.expert or vote.rater not in held])
    known = met(words)
    standings = {rater: Standing(weight, met=rater in known) for rater, weight in weights.items()}
    return standings | {rater: Standing(0.0, reason) for rater, reason in held.items()}


def learn(votes: Sequence[Vote]) -> dict[str, float]:
    """Weights from 0 to `CAP` by rater, from agreement with experts, else with the consensus."""
    experts = {vote.item: float(vote.good) for vote in votes if vote.expert}
    users = {(vote.rater, vote.item): vote.good for vote in votes if not vote.expert}
    by_item = Counter(item for _, item in users)
    open_ = {
        (rater, item): good
        for (rater, item), good in users.items()
        if item not in experts and by_item[item] >= CONSENSUS
    }
    known = {**_consensus(open_), **experts}
    agreed: dict[str, float] = defaultdict(float)
    compared: dict[str, int] = defaultdict(int)
    for (rater, item), good in users.items():
        if item in known:
            agreed[rater] += known[item] if good else 1 - known[item]
            compared[rater] += 1
    return {
        rater: _weight(agreed[rater], compared[rater]) for rater in {rater for rater, _ in users}
    }


def _weight(agreed: float, compared: int) -> float:
    accuracy = (PRIOR * START + agreed) / (PRIOR + compared)
    return min(CAP, max(0.0, 2 * accuracy - 1))


def _consensus(votes: Mapping[tuple[str, Item], bool]) -> dict[Item, float]:
    """Chance that an answer is good, as its raters say, each by the errors he makes."""
    if not votes:
        return {}
    import warnings

    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    items = sorted({item for _, item in votes})
    numbers = {item: number for number, item in enumerate(items)}
    data = pd.DataFrame(
        [(numbers[item], rater, int(good)) for (rater, item), good in sorted(votes.items())],
        columns=["task", "worker", "label"],
    )
    with warnings.catch_warnings():
        # crowd-kit calls pandas in a way that pandas 4 will not know.
        warnings.simplefilter("ignore", DeprecationWarning)
        chances: Any = DawidSkene(n_iter=20).fit(data).probas_
    if 1 not in chances:
        return dict.fromkeys(items, 0.0)
    return {items[number]: float(chance) for number, chance in chances[1].items()}
