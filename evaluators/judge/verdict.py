"""Reads a judge's answer strictly: what is not plainly a verdict is a GraderError, never a zero.

- The verdict is the whole answer: an object, a number, a label, or one line that names it.
- Of an answer with prose around it: an object on lines of its own, or a line that names it, with
  which the answer begins or ends. Judges quote: it must be the only one, and nothing that was
  judged may read the same.
- A key that stands twice in an object is no verdict: one of the two may be a quotation that was not
  escaped.
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from everlearn.chat import THINKING
from everlearn.errors import GraderError

_THINKING = (
    *THINKING,
    ("<thinking>", "</thinking>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
)
_BOX = ("<|begin_of_box|>", "<|end_of_box|>")
_FENCE = re.compile(r"^```\s*(?:json)?\s*(.*?)\s*```$", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(r"(?:```\s*(?:json)?)?\s*", re.IGNORECASE)
_CLOSED = re.compile(r"\s*(?:```)?\s*")
_NUMBER = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:\s*/\s*([0-9]+(?:\.[0-9]+)?))?")
_WRAPPED = re.compile(r"\[\[(.+)\]\]|\\boxed\{(.+)\}")
_WORDS = {"score": "score|rating|grade", "label": "label|verdict|answer|winner"}
_NAMED = {
    key: re.compile(rf"[^\w{{]*(?:(?:final|overall)\s+)?(?:{words})\W*?[:=]\s*(.+)", re.IGNORECASE)
    for key, words in _WORDS.items()
}
MAX_PROSE = 20_000
"""Characters of an answer in whose prose a verdict is looked for."""


def read_score(text: str, low: float, high: float, judged: str = "") -> tuple[float, str | None]:
    """The number of `{"score": 0.5, "reason": "..."}`, `0.5` or `Score: 0.5`, and the reason; `4/5`
    where 5 is the highest. `judged`: all text that is not the judge's."""
    number, reason = _verdict(text, "score", judged)
    if isinstance(number, str):
        found = _NUMBER.fullmatch(_bare(number))
        if found is None or (found[2] and float(found[2]) != high):
            raise GraderError(f"the judge gave no number: {_short(text)}")
        number = float(found[1])
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise GraderError(f"the judge gave no number: {_short(text)}")
    # Compared first: a whole number may be larger than any float.
    if not low <= number <= high or not math.isfinite(number):
        raise GraderError(f"the judge's score {str(number)[:20]} is not in [{low:g}, {high:g}]")
    return float(number), reason


def read_label(text: str, labels: Sequence[str], judged: str = "") -> tuple[str, str | None]:
    """The label of `{"label": "good", "reason": "..."}`, `good` or `Label: good`, and the reason;
    its case does not matter where no two differ by it alone."""
    said, reason = _verdict(text, "label", judged)
    if said in labels:
        return str(said), reason
    bare = _bare(said) if isinstance(said, str) else None
    same = [label for label in labels if bare is not None and label.casefold() == bare.casefold()]
    if len(same) != 1:
        raise GraderError(f"the judge's label {said!r:.80} is none of {', '.join(labels)}")
    return same[0], reason


def spoken(text: str, judged: str = "") -> str:
    """Without the thinking before it: `<think>...</think>`, whose opening may be in the prompt.

    Where the judged text holds the mark too, an answer may quote it: then it must be plain which
    one ends the thinking.
    """
    plain = text.strip().removeprefix("\ufeff").strip()
    for opens, closes in _THINKING:
        marks = plain.count(closes)
        if plain.startswith(opens):
            if not marks:
                raise GraderError(
                    f"the judge's answer ended while it was thinking: {_short(plain)}"
                )
            if marks > 1 and closes in judged:
                raise GraderError(f"the judge's answer quotes {closes}: {_short(plain)}")
            plain = plain.rpartition(closes)[2]
            break
        if marks == 1 and closes not in judged:
            plain = plain.partition(closes)[2]
            break
    return plain.strip().removeprefix(_BOX[0]).removesuffix(_BOX[1]).strip()


def read_object(text: str) -> dict[str, Any]:
    """The JSON object that the judge spoke, in a fence or not; line breaks in its texts may be
    unescaped."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text, strict=False, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise GraderError(f"the judge's answer is no verdict: {_short(text)}") from error
    if not isinstance(value, dict):
        raise GraderError(f"the judge's answer is no verdict: {_short(text)}")
    return value


def _verdict(text: str, key: str, judged: str) -> tuple[Any, str | None]:
    """What stands under `key`, and the reason; of an answer without an object the text itself."""
    plain = spoken(text, judged)
    if "\n" not in plain and not plain.startswith("{"):
        named = _NAMED[key].fullmatch(plain)
        return (named[1] if named else plain), None
    try:
        return _of(read_object(plain), key)
    except GraderError:
        found = list(_aside(plain, key, judged)) if len(plain) <= MAX_PROSE else []
        if len(found) != 1:
            raise
        return found[0]


def _of(verdict: dict[str, Any], key: str) -> tuple[Any, str | None]:
    keys = [each for each in verdict if each.casefold() == key]
    if len(keys) > 1:
        raise GraderError(f"the judge's answer says {key} twice: {_short(str(verdict))}")
    reason = verdict.get("reason")
    return verdict[keys[0]] if keys else None, reason[:500] if isinstance(reason, str) else None


def _aside(text: str, key: str, judged: str) -> Iterator[tuple[Any, str | None]]:
    """Every verdict in a text with prose: those that do not stand where one is believed are given
    as none, so that nothing is believed beside them."""
    told, prose, last = _letters(judged), "", 0
    for start, end, verdict in _objects(text):
        prose, last = prose + text[last:start], end
        keys = [each for each in verdict if each.casefold() == key]
        if keys and _letters(text[start:end]) not in told:
            yield _of(verdict, key) if _alone(text, start, end) else (None, None)
    prose += text[last:]
    if "{" in prose:  # an object that ends nowhere: what stands after it may be a part of it
        yield None, None
    lines = prose.splitlines()
    for place, line in enumerate(lines):
        named = _NAMED[key].fullmatch(line.strip())
        if named and _letters(line) not in told:
            yield (named[1], None) if place in (0, len(lines) - 1) else (None, None)


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Every JSON object of a text that is in no other one, and where it stands."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    start = text.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield start, end, value
        start = text.find("{", end)


def _alone(text: str, start: int, end: int) -> bool:
    """Whether an object stands on lines of its own and begins or ends the text, in a fence or
    not."""
    before, after = text[:start], text[end:]
    if before.rpartition("\n")[2].strip() or not _CLOSED.fullmatch(after.partition("\n")[0]):
        return False
    return bool(_OPENED.fullmatch(before) or _CLOSED.fullmatch(after))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; ValueError where a key stands in it twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made


def _bare(text: str) -> str:
    """Without emphasis and quotes around it: `**4**`, `"yes"`, `[[A]]`, a full stop."""
    plain = text.strip(" \t\r*_`\"'").removesuffix(".").strip(" *_`\"'")
    wrapped = _WRAPPED.fullmatch(plain)
    return (wrapped[1] or wrapped[2]).strip() if wrapped else plain


def _letters(text: str) -> str:
    """Letters and digits alone, by which a quotation is known however it is set."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(each for each in folded if each.isalnum())


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
