"""`everlearn grader draft`: a grader from plain language, written by a model and held to people.

- The model sees the rubric and a few labelled answers of the *tune* half. It is told what is wrong
  with a grader that does not compile, and asked again.
- The draft is tried, in the sandbox, on the other labels of that half. The *certify* half, which
  decides whether it may ever gate, is neither shown nor looked at.
- What a draft may be is less than what a task may declare: it calls no address, starts no program,
  asks no other model than the one that wrote it, and reads no feedback, which is what it is to be
  held to.
- Its questions are paid for from the day's money of judges.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.bulk import grade_all, in_background
from evaluators.definition import parse
from evaluators.experts import Label, expert_labels
from evaluators.fill import label_salt
from evaluators.graders import build
from evaluators.graders.base import Base
from evaluators.intervals import Confusion, Interval, confusion, share
from evaluators.judge.budget import budget_of
from evaluators.judge.client import Judge
from evaluators.judge.fence import fenced
from evaluators.judge.verdict import read_object, spoken
from evaluators.judges import middle
from evaluators.pending import Pending, readable
from evaluators.references import references
from evaluators.sandbox import require
from evaluators.types import Score
from everlearn.config import Service
from everlearn.errors import ConfigError, EverlearnError, GraderError, InputError, NotEnoughEvidence
from everlearn.graders import Grader, Judging, ScoreModel
from everlearn.lake.store import Lake
from everlearn.task import Task

ATTEMPTS = 3
MAX_SHOWN, MIN_LABELS = 6, 6
MAX_RUBRIC_CHARS, MAX_ANSWER_CHARS = 20_000, 1500
ALLOWED = (
    "string_check", "text_similarity", "json_schema", "python", "score_model", "label_model",
    "rubric_model",
)  # fmt: skip
_PROMPT = Path(__file__).parent / "judge" / "draft.txt"
_SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "grader": {"type": "string"}},
    "required": ["reason", "grader"],
    "additionalProperties": False,
}
_ROWS = """
SELECT completion_id, [] AS evaluators, messages, tools, answer, response_text, finish_reason,
    metadata, version, arm, NULL AS feedback_digest, NULL AS feedback
FROM completions
WHERE completion_id BETWEEN $1 AND $2 AND completion_id IN (SELECT unnest($3::VARCHAR[]))
    AND response_text IS NOT NULL
ORDER BY completion_id
"""


class NoGrader(EverlearnError):
    """The model wrote none that can be taken."""


class DrafterAway(EverlearnError, OSError):
    """The model that writes graders gave no answer."""

    exit_code = 4


@dataclass(frozen=True)
class Draft:
    """What a model wrote, and the labelled answers that it was shown."""

    grader: Grader
    shown: tuple[str, ...]
    attempts: int
    reason: str


@dataclass(frozen=True)
class Apart:
    """An answer on which grader and expert part."""

    completion_id: str
    answer: str
    expert: bool
    """Whether it is right, as the expert says."""
    value: float
    reason: str | None


@dataclass(frozen=True)
class Tried:
    """A draft against the labels of the tune half that its writer has not seen."""

    labels: int
    units: int
    agreement: Interval | None
    """At 95 %, clustered by unit; None: it has no verdict on any."""
    table: Confusion | None
    unscored: int
    why_unscored: str | None
    circular: int
    """Left out: the right answer it reads is the same expert's word."""
    apart: tuple[Apart, ...]

    @property
    def agreed(self) -> int:
        """Labels that it says the same as; one that it has no verdict on is none."""
        return self.labels - len(self.apart)


@dataclass(frozen=True)
class Example:
    """A label and the answer it is of."""

    label: Label
    row: Pending


def examples(service: Service, task: Task, lake: Lake) -> list[Example]:
    """The labelled answers of the tune half, the latest first; NotEnoughEvidence where they are too
    few to show some and try on the others."""
    labels = expert_labels(lake, task, label_salt(service))
    tune = {each.completion_id: each for each in labels if each.half == "tune"}
    rows: list[dict[str, Any]] = []
    if tune:
        rows = lake.read(_ROWS, [min(tune), max(tune), list(tune)]).to_pylist()
    known = references(lake, task.task)
    read = [readable(row, known) for row in rows]
    found = [Example(tune[each.completion_id], each) for each in read if each.fault is None]
    if len(found) < MIN_LABELS:
        raise NotEnoughEvidence(
            f"task {task.task}: {len(found)} labels of the tune half to try a grader on; "
            f"{MIN_LABELS} at least: label more (`everlearn labels fill {task.task}`)"
        )
    return sorted(found, key=lambda each: (each.label.given_at, each.label.completion_id))[::-1]


def writer(task: Task, name: str | None = None) -> Judging:
    """The judge of the task whose model writes; InputError where there is none of that name."""
    judges = [each for each in task.graders if isinstance(each, Judging)]
    for each in judges:
        if name in (None, each.name):
            return each
    known = ", ".join(each.name for each in judges) or "none"
    raise InputError(
        f"task {task.task}: no judge {name or ''!r} whose model could write a grader; there are: "
        f"{known}; name a model with --model (and --upstream)"
    )


def require_free(task: Task, name: str) -> None:
    """InputError for the name of a grader that the task has."""
    if name in {each.name for each in task.every_grader}:
        raise InputError(f"--name {name!r}: task {task.task} has a grader of that name")


def draft(
    service: Service, task: Task, rubric: str, name: str, *, by: Judging, among: Sequence[Example]
) -> Draft:
    """Ask for one until it compiles, `ATTEMPTS` times; NoGrader, or DrafterAway."""
    if not rubric.strip() or len(rubric) > MAX_RUBRIC_CHARS:
        raise InputError(f"--rubric: {len(rubric)} characters; 1 to {MAX_RUBRIC_CHARS} are taken")
    shown = _shown(among)
    asked = _Asked(service, task, by)
    try:
        return asked.draft(rubric, name, shown)
    finally:
        in_background(asked.judge.aclose())


class _Asked:
    """The conversation with the model that writes."""

    def __init__(self, service: Service, task: Task, by: Judging) -> None:
        sampling = by.sampling_params
        if sampling is not None:  # a limit that fits a verdict ends a grader in its middle
            sampling = sampling.model_copy(update={"max_completions_tokens": None})
        self.by = by.model_copy(update={"sampling_params": sampling})
        self.judge = Judge(self.by, service, budget_of(task, service))
        self._service, self._task = service, task

    def draft(self, rubric: str, name: str, shown: Sequence[Example]) -> Draft:
        messages = [
            {"role": "system", "content": _PROMPT.read_text().replace("RUBRIC", rubric.strip())},
            {"role": "user", "content": fenced({"answers": json.dumps([told(e) for e in shown])})},
        ]
        for attempt in range(1, ATTEMPTS + 1):
            try:
                said = in_background(self.judge.ask(messages, _SCHEMA)).text
            except GraderError as error:
                raise DrafterAway(f"no grader was drafted: {error}") from error
            try:
                spec, reason = taken(said, name, self.by, self._task, self._service)
            except (ConfigError, GraderError) as error:
                problem = str(error)[:1000]
                again = f"That cannot be taken: {problem}\nAnswer again, in the same form."
                messages += [
                    {"role": "assistant", "content": said[:MAX_RUBRIC_CHARS]},
                    {"role": "user", "content": again},
                ]
                continue
            ids = tuple(each.label.completion_id for each in shown)
            return Draft(spec, ids, attempt, reason)
        raise NoGrader(f"{self.by.model} wrote no grader in {ATTEMPTS} attempts: {problem}")


def taken(said: str, name: str, by: Judging, task: Task, service: Service) -> tuple[Grader, str]:
    """What was said: the grader, under our name and asking nobody but its writer, and why.

    ConfigError or GraderError for one that is none, or that a model may not write.
    """
    content, reason = _content(said)
    if content.get("type") not in ALLOWED:
        raise ConfigError(f"type = {content.get('type')!r}: one of {', '.join(ALLOWED)}")
    if "guidelines" in content:
        raise ConfigError("guidelines: a file is the operator's to name")
    content = {**content, "name": name}
    if content["type"] in ("score_model", "label_model", "rubric_model"):
        content |= {"model": by.model, "upstream": by.upstream}
    spec = parse(content)
    if content.get("evaluation_metric") == "cosine":
        raise ConfigError("evaluation_metric = 'cosine': it needs another model")
    if build(spec, task, service).needs_feedback:
        raise ConfigError("it reads feedback, which is what it is compared with")
    return spec, reason


def measure(
    service: Service, task: Task, spec: Grader, among: Sequence[Example], *, shown: Sequence[str]
) -> Tried:
    """Run it on the labelled answers that its writer was not shown."""
    grader = build(spec, task, service)
    if grader.runs_code:
        require(service.sandbox)
    left = [each for each in among if each.label.completion_id not in shown]
    honest = [each for each in left if not circular(grader, each)]
    pairs = [(each.row.sample, each.row.item) for each in honest]
    try:
        scores = [row[0] for row in grade_all([grader], pairs)]
    finally:
        in_background(grader.aclose())
    return _held(grader, honest, scores, circular=len(left) - len(honest))


def _held(
    grader: Base[Any], among: Sequence[Example], scores: Sequence[Score], *, circular: int
) -> Tried:
    line = middle(grader)
    judged = [(e, s, s.value) for e, s in zip(among, scores, strict=True) if s.value is not None]
    verdicts = [(value >= line, each.label.good) for each, _, value in judged]
    units = [each.label.unit for each, _, _ in judged]
    silent = [score.error or score.reason for score in scores if score.value is None]
    return Tried(
        labels=len(judged),
        units=len(set(units)),
        agreement=share([float(a == b) for a, b in verdicts], units) if judged else None,
        table=confusion(verdicts) if judged else None,
        unscored=len(silent),
        why_unscored=silent[0] if silent else None,
        circular=circular,
        apart=tuple(
            Apart(
                each.label.completion_id, each.row.sample.output_text, each.label.good, value,
                score.reason,
            )
            for each, score, value in judged
            if (value >= line) != each.label.good
        ),
    )  # fmt: skip


def circular(grader: Base[Any], each: Example) -> bool:
    """Whether the right answer that it reads is the word of the expert who labelled."""
    return grader.needs_reference and each.row.reference_digest in each.label.references


def _shown(among: Sequence[Example]) -> list[Example]:
    """A few of both kinds, never more than a third: the others are what it is tried on."""
    most = min(MAX_SHOWN, len(among) // 3)
    kinds: dict[bool, list[Example]] = {True: [], False: []}
    for each in among:
        kinds[each.label.good].append(each)
    good = min(len(kinds[True]), max(most // 2, most - len(kinds[False])))
    return [*kinds[True][:good], *kinds[False][: most - good]]


def told(each: Example) -> dict[str, str]:
    return {
        "request": str(each.row.item.get("prompt") or "")[:MAX_ANSWER_CHARS],
        "answer": each.row.sample.output_text[:MAX_ANSWER_CHARS],
        "people_say": "right" if each.label.good else "wrong",
    }


def _content(said: str) -> tuple[dict[str, Any], str]:
    """The definition in `{"reason", "grader"}`, or said by itself; GraderError for neither."""
    value = read_object(spoken(said))
    inner = value if "type" in value else value.get("grader")
    if isinstance(inner, str):
        inner = read_object(inner.strip())
    if not isinstance(inner, dict):
        raise GraderError('the answer has no "grader" that is a JSON object')
    return inner, str(value.get("reason") or "")[:500]


def model_writer(model: str, upstream: str | None) -> Judging:
    """A model that the task does not name."""
    return ScoreModel(type="score_model", name="draft", model=model, upstream=upstream, input=())
