"""How similar two texts are, 0 to 1, by the libraries everybody compares with.

- `bleu`: sacrebleu's sentence BLEU (13a tokens, effective order). `gleu`, `meteor`: nltk, on words
  with case folded; METEOR without WordNet: equal words and stems match, synonyms do not.
- `rouge_*`: F1 of rouge-score, on words of any script with case folded. `fuzzy_match`: rapidfuzz's
  ratio.
- Of a script that puts no spaces between words (Chinese, Japanese, Thai, Khmer ...) each character
  is a word: a sentence would be one, and any two of them strangers.
- `cosine` needs an embedding model and is asked for elsewhere (`judge/embeddings.py`).
- The time of each is bounded: texts past `MAX_CHARACTERS` or `max_words` are not compared.

The libraries are imported when a metric is first used: nltk alone takes seconds.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from everlearn.errors import GraderError

MAX_CHARACTERS = 100_000
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)

Function = Callable[[str, str], float]


@dataclass(frozen=True)
class Metric:
    """One metric; `load` imports its library."""

    name: str
    load: Callable[[], Function]
    max_words: int = MAX_CHARACTERS
    """Fewer where the time grows with the product of both lengths."""
    by_words: bool = True

    def __call__(self, text: str, reference: str) -> float:
        """The similarity; GraderError for texts that are too long to compare."""
        if not self._fits(reference):
            raise GraderError(f"{self.name}: the reference is too long to compare")
        if not self._fits(text):
            if len(text) > 4 * len(reference):
                return 0.0
            raise GraderError(f"{self.name}: the text is too long to compare")
        if not text.strip() or not reference.strip():
            return float(text.strip() == reference.strip())
        if self.by_words:
            text, reference = _apart(text), _apart(reference)
        return min(1.0, max(0.0, self.load()(text, reference)))

    def _fits(self, text: str) -> bool:
        return len(text) <= MAX_CHARACTERS and (
            len(text) <= self.max_words or len(_apart(text).split()) <= self.max_words
        )


def _apart(text: str) -> str:
    """With spaces between the words of scripts that have none."""
    return _UNSPACED.sub(r" \g<0> ", text)


def _words(text: str) -> list[str]:
    return text.casefold().split()


@functools.cache
def _fuzzy() -> Function:
    from rapidfuzz import fuzz

    return lambda text, reference: float(fuzz.ratio(text, reference)) / 100


@functools.cache
def _bleu() -> Function:
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    return lambda text, reference: float(bleu.sentence_score(text, [reference]).score) / 100


@functools.cache
def _gleu() -> Function:
    from nltk.translate.gleu_score import sentence_gleu

    return lambda text, reference: float(sentence_gleu([_words(reference)], _words(text)))


class _NoSynonyms:
    """Stands in for WordNet, which is a download."""

    def synsets(self, word: str) -> Sequence[Any]:
        return ()


@functools.cache
def _meteor() -> Function:
    from nltk.translate.meteor_score import single_meteor_score

    def meteor(text: str, reference: str) -> float:
        words = (_words(reference), _words(text))
        return float(single_meteor_score(*words, wordnet=_NoSynonyms()))

    return meteor


class _Words:
    """Of any script: the library's own tokenizer knows a to z."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.casefold())


@functools.cache
def _rouge(kind: str) -> Function:
    from rouge_score.rouge_scorer import RougeScorer

    words = _Words()
    scorer = RougeScorer([kind], tokenizer=words)

    def rouge(text: str, reference: str) -> float:
        # One word has no pairs and an emoji no words: equal texts would have nothing in common.
        ours, theirs = words.tokenize(text), words.tokenize(reference)
        if ours == theirs:
            return float(bool(ours) or text.split() == reference.split())
        return float(scorer.score(reference, text)[kind].fmeasure)

    return rouge


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("fuzzy_match", _fuzzy, by_words=False),
        Metric("bleu", _bleu),
        Metric("gleu", _gleu),
        Metric("meteor", _meteor, max_words=3_000),
        *(Metric(f"rouge_{n}", functools.partial(_rouge, f"rouge{n}")) for n in range(1, 6)),
        Metric("rouge_l", functools.partial(_rouge, "rougeL"), max_words=2_000),
    )
}
