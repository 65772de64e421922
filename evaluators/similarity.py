"""How similar two texts are, 0 to 1, on white-space tokens with case folded.

`cosine` needs an embedding model and `meteor` a thesaurus: neither is here.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from rapidfuzz import fuzz

Metric = Callable[[str, str], float]
Tokens = Sequence[str]


def _tokens(text: str) -> list[str]:
    return text.casefold().split()


def _grams(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _f1(overlap: float, candidate: int, reference: int) -> float:
    return 2 * overlap / (candidate + reference) if candidate + reference else 0.0


def fuzzy_match(candidate: str, reference: str) -> float:
    """Share of characters kept by the cheapest edit."""
    return float(fuzz.ratio(candidate, reference)) / 100


def rouge_n(n: int) -> Metric:
    """F1 of the n-grams that both texts share."""

    def metric(candidate: str, reference: str) -> float:
        ours, theirs = _grams(_tokens(candidate), n), _grams(_tokens(reference), n)
        return _f1((ours & theirs).total(), ours.total(), theirs.total())

    return metric


def rouge_l(candidate: str, reference: str) -> float:
    """F1 of the longest common subsequence of tokens."""
    ours, theirs = _tokens(candidate), _tokens(reference)
    row = [0] * (len(theirs) + 1)
    for token in ours:
        diagonal = 0
        for column, other in enumerate(theirs, 1):
            above = row[column]
            row[column] = diagonal + 1 if token == other else max(above, row[column - 1])
            diagonal = above
    return _f1(row[-1], len(ours), len(theirs))


def _clipped(candidate: str, reference: str) -> list[tuple[int, int, int]]:
    """Per order 1 to 4: n-grams shared, of the candidate, of the reference."""
    ours, theirs = _tokens(candidate), _tokens(reference)
    grams = [(_grams(ours, n), _grams(theirs, n)) for n in range(1, 5)]
    return [((a & b).total(), a.total(), b.total()) for a, b in grams]


def bleu(candidate: str, reference: str) -> float:
    """Sentence BLEU-4: mean precision (add-one above order 1) times the brevity penalty."""
    counts = _clipped(candidate, reference)
    shared, total, wanted = counts[0]
    if not shared:
        return 0.0
    logs = [math.log(shared / total)]
    logs += [math.log((hit + 1) / (size + 1)) for hit, size, _ in counts[1:]]
    return min(1.0, math.exp(1 - wanted / total)) * math.exp(sum(logs) / 4)


def gleu(candidate: str, reference: str) -> float:
    """The smaller of precision and recall over all n-grams of orders 1 to 4."""
    counts = _clipped(candidate, reference)
    shared, ours, theirs = (sum(column) for column in zip(*counts, strict=True))
    return shared / max(ours, theirs) if max(ours, theirs) else 0.0


METRICS: dict[str, Metric] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    **{f"rouge_{n}": rouge_n(n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}
