"""Asks a judge model about comments: of which sort one is, whether an answer keeps to it, which
rules contradict each other.

- What people wrote is data: one line of JSON between two lines that its own hash is part of, so
  that no text can end them. The instructions stand apart, in a file beside this one.
- A rule is the commenter's: one that speaks of what only the request or the answer says is not
  taken, since whoever wrote those has no say.
- Every failure is a GraderError: such a comment waits.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from evaluators.judge.budget import Budget
from evaluators.judge.client import Judge
from evaluators.judge.verdict import read_label, read_object, spoken
from everlearn.config import Service
from everlearn.errors import GraderError
from everlearn.graders import LabelModel
from everlearn.people import Comments

Sort = Literal["rule", "correction", "displeasure", "nothing"]
SORTS: tuple[Sort, ...] = get_args(Sort)
MAX_CHARACTERS = 4000
"""Of each text that is shown to the judge."""
MAX_RULE = 300
"""Characters of a rule: it stands in every prompt that is answered again."""
MAX_RULES = 50
"""That are looked through for contradictions at once."""
_NAMED = re.compile(r"^\W*(rule|correction|displeasure|nothing)\b\W*(.*)$", re.IGNORECASE)
_WORD = re.compile(r"\w{4,}")
_STRING = {"type": "string"}


@dataclass(frozen=True)
class Sorted:
    """What a comment is."""

    sort: Sort
    rule: str = ""
    reason: str | None = None


class CommentJudge:
    """The model that the task names; belongs to the event loop it is first asked in."""

    def __init__(self, rules: Comments, service: Service, budget: Budget | None = None) -> None:
        spec = LabelModel(
            type="label_model",
            name="comments.judge",
            model=rules.judge.model,
            upstream=rules.judge.upstream,
            timeout_seconds=rules.timeout_seconds,
            input=(),
            labels=SORTS,
            passing_labels=SORTS,
        )
        self._judge = Judge(spec, service, budget)
        self.version = version(rules)

    async def sort(self, comment: str, request: str, answer: str) -> Sorted:
        """Of which sort the comment is; GraderError where that cannot be told."""
        data = {"request": request, "answer": answer, "comment": comment}
        schema = _object(sort={"type": "string", "enum": list(SORTS)}, rule=_STRING)
        found = read_sort(await self._ask("comment", data, schema))
        if found.sort == "rule" and not from_comment(found.rule, comment, f"{request} {answer}"):
            raise GraderError(
                "the judge's rule speaks of what the request or the answer says and the comment "
                f"does not: {found.rule!r:.120}"
            )
        return found

    async def keeps(self, instruction: str, request: str, answer: str) -> bool:
        """Whether the answer keeps to it."""
        data = {"instruction": instruction, "request": request, "answer": answer}
        schema = _object(label={"type": "string", "enum": ["yes", "no"]})
        said = await self._ask("keeps", data, schema)
        label, _ = read_label(said, ("yes", "no"), "\n".join(data.values()))
        return label == "yes"

    async def contradictions(self, rules: Sequence[str]) -> list[tuple[int, int]]:
        """Pairs of places in `rules`, of the first `MAX_RULES`."""
        shown = list(rules[:MAX_RULES])
        if len(shown) < 2:
            return []
        numbered = {str(number): rule for number, rule in enumerate(shown, 1)}
        pair = {"type": "array", "items": {"type": "integer"}}
        schema = _object(pairs={"type": "array", "items": pair})
        return read_pairs(await self._ask("contradict", numbered, schema), len(shown))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._judge.aclose()

    async def _ask(self, prompt: str, data: Mapping[str, str], schema: dict[str, Any]) -> str:
        answer = await self._judge.ask(messages(prompt, data), schema)
        return answer.text


def messages(prompt: str, data: Mapping[str, str]) -> list[dict[str, str]]:
    """The instructions, and the data between two lines that nobody who wrote it could foresee."""
    shown = {key: text[:MAX_CHARACTERS] for key, text in data.items()}
    line = json.dumps(shown, ensure_ascii=False)
    # The line separators that JSON leaves as they are would look like an end of the line.
    line = line.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    fence = f"===== {hashlib.sha256(line.encode(errors='surrogatepass')).hexdigest()[:24]}"
    return [
        {"role": "system", "content": instructions(prompt)},
        {"role": "user", "content": f"{fence}\n{line}\n{fence}"},
    ]


@cache
def instructions(prompt: str) -> str:
    """The prompt of that name."""
    return (Path(__file__).parent / f"{prompt}.txt").read_text().strip()


def version(rules: Comments) -> str:
    """Changes with the model and with the prompt: then a comment is sorted again."""
    content = json.dumps([rules.judge.model_dump(), instructions("comment")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def read_sort(text: str) -> Sorted:
    """The judge's object; else, of a judge that writes none, the one line that begins with a sort
    (`rule: Name the currency.`)."""
    try:
        found = read_object(spoken(text))
    except GraderError:
        return _plain(text)
    sort, rule, reason = found.get("sort"), found.get("rule"), found.get("reason")
    return _checked(str(sort), rule if isinstance(rule, str) else "", reason)


def read_pairs(text: str, count: int) -> list[tuple[int, int]]:
    """Pairs of places from 0, each once; GraderError for what is no list of pairs."""
    found = read_object(spoken(text)).get("pairs")
    if not isinstance(found, list):
        raise GraderError("the judge named no pairs")
    pairs = set()
    for pair in found:
        numbers = pair if isinstance(pair, list) else []
        if len(numbers) != 2 or not all(type(n) is int and 1 <= n <= count for n in numbers):
            raise GraderError(f"the judge named a pair of rules that there is not: {pair!r:.80}")
        if numbers[0] != numbers[1]:
            pairs.add((min(numbers) - 1, max(numbers) - 1))
    return sorted(pairs)


def from_comment(rule: str, comment: str, elsewhere: str) -> bool:
    """Whether a rule is the commenter's: fewer of its words come from the request or the answer
    alone than not."""
    own, told, seen = (_words(text) for text in (rule, comment, elsewhere))
    return 2 * len((own & seen) - told) <= len(own)


def _plain(text: str) -> Sorted:
    named = [found for line in spoken(text).splitlines() if (found := _NAMED.match(line))]
    if len(named) != 1:
        raise GraderError(f"the judge named {len(named) or 'no'} sorts: {text!r:.80}")
    return _checked(named[0][1].lower(), named[0][2].strip(), None)


def _checked(sort: str, rule: str, reason: Any) -> Sorted:
    rule = " ".join(rule.split()) if sort == "rule" else ""
    why = reason[:500] if isinstance(reason, str) else None
    for known in SORTS:
        if known == sort:
            if known == "rule" and not 0 < len(rule) <= MAX_RULE:
                raise GraderError(
                    f"the judge's rule has {len(rule)} characters, not 1 to {MAX_RULE}"
                )
            return Sorted(known, rule, why)
    raise GraderError(f"the judge's sort {sort!r:.80} is none of {', '.join(SORTS)}")


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"reason": _STRING, **properties},
        "required": ["reason", *properties],
        "additionalProperties": False,
    }
