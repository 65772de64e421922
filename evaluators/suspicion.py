"""Raters whose words look like a machine's, or like a hired crowd's: pure functions.

Each gives the raters that it finds; `evaluators.trust` says what becomes of them. The patterns and
what stands against each are in `docs/security.md`.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, log1p, sqrt

Item = tuple[str, str]
"""Prompt and answer: what a word is about, whoever asked."""

MINUTE = 60.0
ONE_SIDED_VOTES, ONE_SIDED_CHANCE = 20, 1e-6
ALIKE_VOTES, ALIKE_SHARE, ALIKE_RATERS = 10, 0.7, 3
RARE_SHARE = 0.25
"""Of all raters: a word that more of them say makes nobody alike."""
NEW_RATERS, NEW_SHARE = 10, 0.2
"""Raters new in the same minute with one word on one answer, and their share of that minute."""
UNSEEN_CHANCES, UNSEEN_DEVIATIONS = (0.05, 0.01, 0.001), 4.0
"""That an expert looked at so few of a rater's words; and how many standard deviations more words
than chance explains such raters have to say together."""
LIKELIER = 8.0
"""Times: how much better a rater's own rate of error explains what experts said of his words than
the others' does."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One word of a rater on one answer."""

    rater: str
    item: Item
    good: bool
    at: float
    """Unix seconds."""
    expert: bool = False
    own: bool = False
    """He asked for the answer himself."""


def too_fast(votes: Sequence[Vote], limit: int) -> set[str]:
    """More than `limit` words in some minute."""
    times: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        times[vote.rater].append(vote.at)
    return {
        rater
        for rater, at in times.items()
        if any(later - sooner < MINUTE for sooner, later in zip(at, at[limit:], strict=False))
    }


def one_sided(votes: Sequence[Vote]) -> set[str]:
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


def alike(votes: Sequence[Vote]) -> set[str]:
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


def contradicted(votes: Sequence[Vote]) -> set[str]:
    """Raters whom experts contradict `LIKELIER` times better than others' errors explain.

    Where only one word was looked at that one does, if others err less than once in eight times.
    Of all his words or of his praise of what he brought: to damn, or to agree with others, costs
    nothing. How often others err is the mean over raters, started at once in four: until experts
    have met a few, nobody is contradicted.
    """
    verdicts = {vote.item: vote.good for vote in votes if vote.expert}
    said = {(vote.rater, vote.item): vote.good for vote in votes if not vote.expert}
    bringers = _brought(votes)
    praised = {word: True for word, good in said.items() if good and bringers[word[1]] == word[0]}
    return _likelier(said, verdicts) | _likelier(praised, verdicts)


def _likelier(said: Mapping[tuple[str, Item], bool], verdicts: Mapping[Item, bool]) -> set[str]:
    looked, wrong = Counter[str](), Counter[str]()
    for (rater, item), good in said.items():
        if item in verdicts:
            looked[rater] += 1
            wrong[rater] += verdicts[item] != good
    errors = sum(wrong[rater] / number for rater, number in looked.items())
    others = (1 + errors) / (4 + len(looked))

    def times(rater: str) -> float:
        own, right = wrong[rater] / looked[rater], looked[rater] - wrong[rater]
        if own <= others:
            return 1.0
        rest = right * log((1 - own) / (1 - others)) if right else 0.0
        return exp(wrong[rater] * log(own / others) + rest)

    return {rater for rater in looked if times(rater) >= LIKELIER}


def _brought(votes: Sequence[Vote]) -> dict[Item, str]:
    """Who stands behind each answer: who asked for it, if he spoke, else who spoke first."""
    found: dict[Item, str] = {}
    for vote in sorted((vote for vote in votes if not vote.expert), key=lambda vote: not vote.own):
        found.setdefault(vote.item, vote.rater)
    return found


def met(votes: Sequence[Vote]) -> set[str]:
    """Raters of whom an expert has found something that they brought to be as they said."""
    verdicts = {vote.item: vote.good for vote in votes if vote.expert}
    bringers = _brought(votes)
    return {
        vote.rater
        for vote in votes
        if not vote.expert
        and verdicts.get(vote.item) is vote.good
        and bringers[vote.item] == vote.rater
    }


def unreviewed(votes: Sequence[Vote]) -> set[str]:
    """The busiest of those whom experts looked at too rarely, as many as chance does not explain.

    Only the answers that a rater brought: joining others' words makes nobody met. How much experts
    look at is the mean over raters, so that many words of a few move it little.
    """
    looked = {vote.item for vote in votes if vote.expert}
    brought = _brought(votes)
    number = Counter(brought.values())
    seen = Counter(rater for item, rater in brought.items() if item in looked)
    share = sum(seen[rater] / number[rater] for rater in number) / max(1, len(number))
    if not 0 < share < 1:
        return set()
    chance = {
        rater: _at_least(number[rater] - seen[rater], number[rater], 1 - share) for rater in number
    }
    found: set[str] = set()
    for rare in UNSEEN_CHANCES:
        few = sorted((rater for rater in number if chance[rater] <= rare), key=number.__getitem__)
        expected = rare * sum(number.values())
        deviation = sqrt(rare * sum(each**2 for each in number.values()))
        words = sum(number[rater] for rater in few)
        if words > expected + UNSEEN_DEVIATIONS * deviation:
            while words > expected:
                words -= number[few[-1]]
                found.add(few.pop())
    return found


def new_accounts(votes: Sequence[Vote]) -> set[str]:
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
