"""What experts said of answers, as labels to hold judges against.

- Labels are split once, by a salted hash of the prompt: on *tune* a judge may be fitted, on
  *certify* it is measured. The same prompt never stands on both.
- A label is of the random share when the queue says that chance asked for it, and the hash agrees.
"""

import hmac
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from evaluators.fill import chance
from evaluators.references import Reference, asked
from everlearn.lake.schema import feedback_state
from everlearn.lake.store import Lake
from everlearn.opinion import opinion, voices
from everlearn.prompts import prompt_key
from everlearn.task import Task
from everlearn.tolerant import UNREADABLE, loads

Half = Literal["tune", "certify"]
CRITERION = "rubric."
"""Names of the feedback that says whether an answer meets a criterion begin so."""

_SAID = f"""
SELECT target AS completion_id, kind, name, value_bool, value_number, value_text, author, author_id,
    key_id, weight, given_at, tags
FROM ({feedback_state("(SELECT * FROM feedback WHERE author = 'expert' AND task = $1)")})
WHERE state = 'joined' AND NOT ambiguous AND kind IN ('binary', 'scalar', 'implicit', 'correction')
ORDER BY given_at, feedback_id
"""
_CRITERIA = f"""
SELECT target AS completion_id, substr(name, {len(CRITERION) + 1}) AS criterion, value_text,
    author_id, key_id, given_at, tags
FROM ({feedback_state("(SELECT * FROM feedback WHERE author = 'expert' AND task = $1)")})
WHERE state = 'joined' AND NOT ambiguous AND kind = 'label' AND starts_with(name, '{CRITERION}')
    AND value_text IN ('yes', 'no')
ORDER BY given_at, feedback_id
"""
_ANSWERS = """
SELECT completion_id, unit, version, messages, tools, response_text, status FROM completions
WHERE completion_id BETWEEN $1 AND $2 AND completion_id IN (SELECT unnest($3::VARCHAR[]))
    AND response_text IS NOT NULL
"""


@dataclass(frozen=True)
class Label:
    """What an expert says of one answer in the end."""

    completion_id: str
    good: bool
    rater: str
    unit: str
    version: str | None
    half: Half
    given_at: datetime
    probability: float | None
    """Of the random share: that chance asked for it."""
    references: frozenset[str]
    """Digests of the right answers to this prompt that the same expert gave."""


def expert_labels(lake: Lake, task: Task, salt: str) -> list[Label]:
    """Of every answer that an expert judged; `salt`: `fill.label_salt`."""
    said = read_said(lake, task)
    answers = read_answers(lake, said)
    keyed = [(row, key) for row in answers if (key := _key(row)) is not None]
    known = _Known(_references(keyed, said), salt)
    found = [_label(task, row, key, said[row["completion_id"]], known) for row, key in keyed]
    return [each for each in found if each is not None]


def criterion_labels(lake: Lake, task: Task, salt: str) -> dict[str, list[Label]]:
    """By criterion: of every answer whether it meets it, as the latest expert says."""
    met: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in lake.read(_CRITERIA, [task.task]).to_pylist():
        met[row["completion_id"]][row["criterion"]] = row
    if not met:
        return {}
    said = read_said(lake, task)
    keyed = [(a, key) for a in read_answers(lake, {*said, *met}) if (key := _key(a)) is not None]
    known = _Known(_references(keyed, said), salt)
    found: dict[str, list[Label]] = defaultdict(list)
    for answer, key in keyed:
        for criterion, row in met.get(answer["completion_id"], {}).items():
            good = row["value_text"] == "yes"
            found[criterion].append(_made(answer, key, [row], known, good=good))
    return found


Said = Mapping[str, list[dict[str, Any]]]
"""What experts said, by completion, the latest last."""


def read_said(lake: Lake, task: Task) -> Said:
    """Of every answer."""
    said: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in lake.read(_SAID, [task.task]).to_pylist():
        said[row["completion_id"]].append(row)
    return said


def read_answers(lake: Lake, ids: Collection[str]) -> list[dict[str, Any]]:
    """Those answers, without what was not answered."""
    return lake.read(_ANSWERS, [min(ids), max(ids), list(ids)]).to_pylist() if ids else []


def half(salt: str, key: str) -> Half:
    """On which half a prompt's labels stand, for ever."""
    digest = hmac.digest(salt.encode(), f"certify|{key}".encode(), "sha256")
    return "certify" if digest[0] & 1 else "tune"


class _Known(NamedTuple):
    """What a label is made with."""

    told: Mapping[tuple[str, str], set[str]]
    """Digests of right answers by prompt and rater."""
    salt: str


def _label(
    task: Task,
    answer: Mapping[str, Any],
    key: str,
    said: Sequence[Mapping[str, Any]],
    known: _Known,
) -> Label | None:
    heard, _ = voices(said, answer["response_text"], {row["name"] for row in said}, task.scales)
    verdict = opinion(heard)
    if verdict is None or verdict.value == 0.5:
        return None
    return _made(answer, key, said, known, good=verdict.value > 0.5)


def _made(
    answer: Mapping[str, Any],
    key: str,
    said: Sequence[Mapping[str, Any]],
    known: _Known,
    *,
    good: bool,
) -> Label:
    """By who spoke last."""
    name, last = answer["completion_id"], said[-1]
    return Label(
        completion_id=name,
        good=good,
        rater=_rater(last),
        unit=answer["unit"] or name,
        version=answer["version"],
        half=half(known.salt, key),
        given_at=last["given_at"],
        probability=_probability(said, name, known.salt),
        references=frozenset(known.told.get((key, _rater(last)), ())),
    )


def _references(
    answers: Iterable[tuple[Mapping[str, Any], str]], said: Said
) -> dict[tuple[str, str], set[str]]:
    """What each expert vouches for as the right answer to a prompt, as `references` has it."""
    told: dict[tuple[str, str], set[str]] = defaultdict(set)
    for answer, key in answers:
        for row in said.get(answer["completion_id"], ()):
            text = row["value_text"] if row["kind"] == "correction" else None
            if row["kind"] == "binary" and row["value_bool"]:
                text = answer["response_text"]
            if text is not None:
                told[key, _rater(row)].add(Reference(text, 1.0, "expert").digest)
    return told


def _probability(said: Sequence[Mapping[str, Any]], name: str, salt: str) -> float | None:
    """What the queue told with a label; whoever made it up meets the hash."""
    for row in reversed(said):
        try:
            tags = loads(row["tags"] or "{}")
            probability = float(tags["probability"]) if tags.get("asked") == "random" else 0.0
        except (*UNREADABLE, KeyError, TypeError, AttributeError):
            continue
        if 0 < probability <= 1 and chance(salt, name) < probability:
            return probability
    return None


def _key(row: Mapping[str, Any]) -> str | None:
    try:
        return prompt_key(*asked(row))
    except UNREADABLE:
        return None


def _rater(row: Mapping[str, Any]) -> str:
    return str(row["author_id"] or row["key_id"] or "")
