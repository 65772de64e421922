"""In which language a text probably is: by its script, Latin ones by their small words.

No model and no download; wrong on a text of few words, which it then calls `latin`. Good enough to
see that a share of the questions comes in another language than before.
"""

import re

_SCRIPTS = {
    "cyrillic": r"[\u0400-\u052f]",
    "greek": r"[\u0370-\u03ff]",
    "arabic": r"[\u0600-\u06ff\u0750-\u077f]",
    "hebrew": r"[\u0590-\u05ff]",
    "devanagari": r"[\u0900-\u097f]",
    "thai": r"[\u0e00-\u0e7f]",
    "japanese": r"[\u3040-\u30ff]",
    "hangul": r"[\uac00-\ud7af]",
    "han": r"[\u4e00-\u9fff]",
    "latin": r"[A-Za-z\u00c0-\u024f]",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _SCRIPTS.items()}
_SMALL_WORDS = {
    "en": "the of and to is are what how in for with that this my i you",
    "de": "der die das und ist nicht wie ein eine ich sie mit für auf den was",
    "fr": "le la les des et est une un pour que dans avec je vous sur pas",
    "es": "el los las y es una un para que con en por del como mi qué",
    "pt": "o os as e é uma um para que com em por do da não como",
    "it": "il gli di e è una un per che con in non sono della come mi",
    "nl": "de het een en is niet van voor met dat op ik je wat hoe zijn",
    "pl": "i w na nie jest się z do to jak co czy dla po od mi",
}
_WORDS = {name: frozenset(words.split()) for name, words in _SMALL_WORDS.items()}
_WORD = re.compile(r"\w+")
_WIDE = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
SAMPLE = 600
"""Characters of a text that are looked at."""
ENOUGH = 2
"""Small words that make a language."""


def language(text: str) -> str:
    """A language code, the name of a script, or `none` for a text without letters."""
    start = text[:SAMPLE]
    counts = {name: len(pattern.findall(start)) for name, pattern in _PATTERNS.items()}
    if not any(counts.values()):
        return "none"
    if counts["japanese"] and counts["han"]:
        return "japanese"
    script = max(counts, key=lambda name: counts[name])
    if script != "latin":
        return script
    words = [word.casefold() for word in _WORD.findall(start)]
    hits = {name: sum(word in small for word in words) for name, small in _WORDS.items()}
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] >= ENOUGH else "latin"


def words(text: str) -> frozenset[str]:
    """The different words of a text, numbers and the like left out; where no spaces part the words,
    its pairs of characters."""
    found: set[str] = set()
    for word in _WORD.findall(text[: SAMPLE * 10].casefold()):
        if _WIDE.search(word):
            found.update(word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif word.isalpha():
            found.add(word)
    return frozenset(found)
