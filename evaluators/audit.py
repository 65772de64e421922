"""Whom experts are sent to: a known share of what every rater said, chance says which. Pure.

- Of each block of so many words of a rater one is drawn, by a hash that is salted with a secret of
  the installation: nobody knows beforehand whether a word will be looked at, and nobody says many
  that none will be. An account that praises garbage only brings `every / 4` rows past it at best,
  in the mean.
- Whom an expert contradicted at the only word that was looked at is asked about once more, before
  everybody else: who erred is heard again, who lies is not.
- What those who were asked have passed over is no way past them: another word of the block is
  drawn in its place.
- What an expert has looked at by himself counts, and is not asked about again.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple


class Word(NamedTuple):
    """What a rater said of one answer."""

    rater: str
    completion_id: str
    good: bool | None
    expert: bool | None
    """Whether an expert found the answer good; None: none has looked at it."""


class Drawn(NamedTuple):
    """An answer to ask experts about."""

    completion_id: str
    place: float
    """0 is asked first, 1 last."""
    again: bool


def draw(
    words: Iterable[Word], *, every: int, salt: str, passed: Collection[str] = ()
) -> list[Drawn]:
    """Of words in the order they were given, one in `every` of each rater; 0: none. `passed`:
    answers that the labellers could not tell about."""
    if every == 0:
        return []
    said: dict[str, list[Word]] = defaultdict(list)
    for word in words:
        said[word.rater].append(word)
    return [each for mine in said.values() for each in _of(mine, every, salt, passed)]


def _of(mine: Sequence[Word], every: int, salt: str, passed: Collection[str]) -> list[Drawn]:
    blocks = [mine[start : start + every] for start in range(0, len(mine), every)]
    chosen = [
        _of_block(block, int(every * _chance(salt, f"{block[0].rater}|{number}")), passed)
        for number, block in enumerate(blocks)
    ]
    found = [
        Drawn(word.completion_id, _chance(salt, word.completion_id), again=False)
        for word in chosen
        if word is not None and word.expert is None
    ]
    looked = [word for word in mine if word.expert is not None]
    rest = [
        word.completion_id
        for word in mine
        if word.expert is None and word.completion_id not in passed
    ]
    if len(looked) == 1 and rest and looked[0].good is (not looked[0].expert):
        first = min(rest, key=lambda name: _chance(salt, name))
        found = [each for each in found if each.completion_id != first]
        found.insert(0, Drawn(first, 0.0, again=True))
    return found


def _of_block(block: Sequence[Word], place: int, passed: Collection[str]) -> Word | None:
    """The word at its place, if the block is as long as that; if it was passed over, the next."""
    if place >= len(block):
        return None
    turned = [*block[place:], *block[:place]]
    return next((word for word in turned if word.completion_id not in passed), None)


def _chance(salt: str, name: str) -> float:
    """From 0 to 1, by nothing but the name."""
    digest = hashlib.sha256(f"audit|{salt}|{name}".encode(errors="surrogatepass")).hexdigest()
    return int(digest[:13], 16) / 2**52
