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
- `unreviewed`: so many words, and experts looked at so few of them, as chance hardly leaves where
  they look at a share of everybody's, and more raters like that than chance explains: the busiest
  of them, until an expert looks at more of their words. Without experts nobody is that.

Not found: a few patient people who behave like everybody else. The share that one rater may have
of what is taught bounds those (`trainer.admit`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, log1p, sqrt
from typing import Any

Item = tuple[str, str]
"""Prompt and answer: what a word is about, whoever asked."""

START = 0.75
"""Accuracy of a rater nobody knows; with `PRIOR` as many words as that is worth."""
PRIOR = 4.0
CAP = 1.0
MINUTE = 60.0
CONSENSUS = 3
"""Raters on one answer before their consensus says something about one of them."""
ONE_SIDED_VOTES, ONE_SIDED_CHANCE = 20, 1e-6
ALIKE_VOTES, ALIKE_SHARE, ALIKE_RATERS = 10, 0.7, 3
RARE_SHARE = 0.25
"""Of all raters: a word that more of them say makes nobody alike."""
NEW_RATERS, NEW_SHARE = 10, 0.2
"""Raters new in the same minute with one word on one answer, and their share of that minute."""
UNSEEN_CHANCES, UNSEEN_DEVIATIONS = (0.05, 0.01, 0.001), 4.0
"""That an expert looked at so few of a rater's words; and how many standard deviations more words
than chance explains such raters have to say together."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One word of a rater on one answer."""

    rater: str
    item: Item
    good: bool
    at: float
    """Unix seconds."""
    expert: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What a rater's word weighs; nothing while he is quarantined."""

    weight: float
    quarantined: str | None = None
    """Why."""


def review(
    votes: Iterable[Vote], *, max_per_minute: int, released: Collection[str] = ()
) -> dict[str, Standing]:
    """Every rater's standing, experts apart: they are believed. `released`: by an operator."""
    words = sorted(votes, key=lambda vote: (vote.at, vote.rater, vote.item))
    users = [vote for vote in words if not vote.expert]
    reasons = {
        **dict.fromkeys(_new_accounts(users), "new_accounts"),
        **dict.fromkeys(_alike(users), "alike"),
        **dict.fromkeys(_one_sided(users), "one_sided"),
        **dict.fromkeys(_too_fast(users, max_per_minute), "rate"),
    }
    rest = [vote for vote in words if vote.expert or vote.rater not in reasons]
    reasons |= dict.fromkeys(_unreviewed(rest), "unreviewed")
    held = {rater: reason for rater, reason in reasons.items() if rater not in released}
    weights = learn([vote for vote in words if vote.expert or vote.rater not in held])
    standings = {rater: Standing(weight) for rater, weight in weights.items()}
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


def _too_fast(votes: Sequence[Vote], limit: int) -> set[str]:
    """More than `limit` words in some minute."""
    times: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        times[vote.rater].append(vote.at)
    return {
        rater
        for rater, at in times.items()
        if any(later - sooner < MINUTE for sooner, later in zip(at, at[limit:], strict=False))
    }


def _one_sided(votes: Sequence[Vote]) -> set[str]:
    """So many of one kind that the others' share of it would hardly ever bring it about."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for vote in votes:
        counts[vote.rater][vote.good] += 1
    bad, good = (sum(each[kind] for each in counts.values()) for kind in (0, 1))
    found = set()
    for rater, mine in counts.items():
        number = sum(mine)
        others = bad + good - number
        if number < ONE_SIDED_VOTES or not others:
            continue
        # One word more of each kind, so that what nobody else said is rare and not impossible.
        share = (good - mine[1] + 1) / (others + 2)
        likely = min(_at_least(mine[1], number, share), _at_least(mine[0], number, 1 - share))
        if likely < ONE_SIDED_CHANCE:
            found.add(rater)
    return found


def _at_least(successes: int, trials: int, share: float) -> float:
    """Chance of so many successes or more."""
    return sum(
        exp(
            lgamma(trials + 1) - lgamma(each + 1) - lgamma(trials - each + 1)
            + each * log(share) + (trials - each) * log1p(-share)
        )
        for each in range(successes, trials + 1)
    )  # fmt: skip


def _alike(votes: Sequence[Vote]) -> set[str]:
    """Raters whose rare words are nearly the same as those of two others or more."""
    raters: dict[tuple[Item, bool], set[str]] = defaultdict(set)
    for vote in votes:
        raters[vote.item, vote.good].add(vote.rater)
    most = max(ALIKE_RATERS, RARE_SHARE * len({vote.rater for vote in votes}))
    rare = {word: who for word, who in raters.items() if 1 < len(who) <= most}
    said: Counter[str] = Counter()
    for word, who in raters.items():
        if len(who) == 1 or word in rare:
            said.update(who)
    heard = {rater for rater, number in said.items() if number >= ALIKE_VOTES}
    both: Counter[tuple[str, str]] = Counter()
    for who in rare.values():
        known = sorted(who & heard)
        both.update((one, other) for i, one in enumerate(known) for other in known[i + 1 :])
    like: dict[str, set[str]] = defaultdict(set)
    for (one, other), number in both.items():
        if number >= ALIKE_SHARE * (said[one] + said[other] - number):
            like[one].add(other)
            like[other].add(one)
    return {rater for rater, others in like.items() if len(others) + 1 >= ALIKE_RATERS}


def _unreviewed(votes: Sequence[Vote]) -> set[str]:
    """The busiest of those whom experts looked at too rarely, as many as chance does not explain.

    How much experts look at is the mean over raters, so that many words of a few move it little.
    """
    looked = {vote.item for vote in votes if vote.expert}
    said: dict[str, set[Item]] = defaultdict(set)
    for vote in votes:
        if not vote.expert:
            said[vote.rater].add(vote.item)
    seen = {rater: len(items & looked) for rater, items in said.items()}
    number = {rater: len(items) for rater, items in said.items()}
    share = sum(seen[rater] / number[rater] for rater in said) / max(1, len(said))
    if not 0 < share < 1:
        return set()
    chance = {
        rater: _at_least(number[rater] - seen[rater], number[rater], 1 - share) for rater in said
    }
    found: set[str] = set()
    for rare in UNSEEN_CHANCES:
        few = sorted((rater for rater in said if chance[rater] <= rare), key=number.__getitem__)
        expected = rare * sum(number.values())
        deviation = sqrt(rare * sum(each**2 for each in number.values()))
        words = sum(number[rater] for rater in few)
        if words > expected + UNSEEN_DEVIATIONS * deviation:
            while words > expected:
                words -= number[few[-1]]
                found.add(few.pop())
    return found


def _new_accounts(votes: Sequence[Vote]) -> set[str]:
    """Raters who all came within a minute to say the same of one answer."""
    first: dict[str, float] = {}
    for vote in votes:
        first.setdefault(vote.rater, vote.at)
    minutes = Counter(int(vote.at // MINUTE) for vote in votes)
    groups: dict[tuple[int, Item, bool], set[str]] = defaultdict(set)
    for vote in votes:
        if vote.at - first[vote.rater] < MINUTE:
            groups[int(vote.at // MINUTE), vote.item, vote.good].add(vote.rater)
    return {
        rater
        for (minute, _, _), who in groups.items()
        if len(who) >= NEW_RATERS and len(who) >= NEW_SHARE * minutes[minute]
        for rater in who
    }
