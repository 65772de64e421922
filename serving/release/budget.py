"""The lifetime budget of wrong promotions of a task: e-LORD (Zhang et al., arXiv 2506.01452).

    alpha_t = w * (0.10 - sum_{j<t} alpha_j / (R_{j-1} + 1)) * (R_{t-1} + 1)

R counts promotions so far and w is about 3 / expected releases. Over a task's life the expected
share of promotions that were no improvement stays below 10 %. alpha_t is fixed at the start of
a release and spent however the release ends.
"""

import msgspec

LIFETIME_LEVEL = 0.10
PACE = 3.0


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a task's releases have spent."""

    spent: float = 0.0
    """Sum of alpha_j / (R_{j-1} + 1)."""
    promotions: int = 0
    releases: int = 0


def next_level(budget: Budget, expected_releases: int, most: float) -> float:
    """The promotion level of the next release, at most `most`."""
    pace = min(1.0, PACE / expected_releases)
    left = max(0.0, LIFETIME_LEVEL - budget.spent)
    return min(most, pace * left * (budget.promotions + 1))


def spend(budget: Budget, level: float) -> Budget:
    """The budget after a release at this level has started."""
    return Budget(
        spent=budget.spent + level / (budget.promotions + 1),
        promotions=budget.promotions,
        releases=budget.releases + 1,
    )


def promoted(budget: Budget) -> Budget:
    """The budget after a promotion."""
    return msgspec.structs.replace(budget, promotions=budget.promotions + 1)
