"""Shadow pairs: who is better, asked of a judge before anybody meets the candidate.

Both versions answer the same prompt, the candidate unseen, and a pairwise judge compares them in
both orders. A pair's value is 1 where the candidate is better, 0.5 for a tie, 0 where it is worse,
and the score of a release bets on it as on a unit of an even draw:

    x = s * ((value - 1/2) / 2 - h0 / 4)

so h0 is wins less losses, and ties cost nothing. E[value | past] <= 1/2 for a version that is no
better, and by Ville's inequality it is taken for better with the release's level at most.

- A person makes one pair in an epoch: nobody's taste counts as often as he asks.
"""

import math
from typing import Any

from everlearn.rules import ReleaseRules
from serving.release.accounts import ABOVE, BELOW, Account
from serving.release.analysis import Question
from serving.release.decide import MetricEvidence
from serving.release.states import Phase

SPREAD = (0.5, 0.25)
"""Mean and variance by which pairs are bet on: as if all were won or lost, half of them."""


def account(rules: ReleaseRules, paths: int = 1) -> Account:
    """Of one comparison, or of many at once: is it worse, better, not better by enough.

    A judge is wrong at times, and what is won by it less than what is gained: half of
    `smallest_effect` is worth waiting for.
    """
    asked = (BELOW, ABOVE, Question(rules.smallest_effect / 2, -1))
    return Account("shadow_pairs", asked, ratio=False, paths=paths, fixed=SPREAD)


def add(account: Account, value: Any) -> None:
    """Count one pair in each comparison."""
    account.add_each(1.0, 0.5, value)


def ends(found: MetricEvidence, rules: ReleaseRules, level: float, seconds: float) -> Phase | None:
    """How a comparison ends that has gone on for so long; None: it goes on. A crossing stays one,
    so looking late is not wrong."""
    if found.promote >= math.log(1 / level):
        return Phase.PROMOTED
    if found.futility >= math.log(1 / rules.futility_level):
        return Phase.STOPPED
    return Phase.INCONCLUSIVE if seconds >= rules.max_seconds else None
