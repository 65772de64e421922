"""Which prompts RFT asks, and how often: pure functions.

- Coverage: a greedy pick by words not seen yet, each weighted by how common it is. Ten prompts
  picked so beat the first ten by 16 points.
- Difficulty: a prompt the served model always or never gets right teaches nothing; first estimates
  come from logged verdicts. Half of the draws stay uniform, as estimates are few and age.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

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


def schedule(weights: Sequence[float], steps: int, per_step: int, seed: int) -> list[int]:
    """The whole run in order: `per_step` different prompts for each step."""
    rng = random.Random(seed)
    total = sum(weights) or 1.0
    count = len(weights)
    shares = [UNIFORM_SHARE / count + (1 - UNIFORM_SHARE) * weight / total for weight in weights]
    order: list[int] = []
    for _ in range(steps):
        # Exponential keys: a weighted draw without putting back.
        keys = [rng.random() ** (1 / share) for share in shares]
        ranked = sorted(range(count), key=lambda index: keys[index], reverse=True)
        repeated = ranked * (per_step // count + 1)
        order += repeated[:per_step]
    return order
