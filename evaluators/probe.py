"""`everlearn judges probe`: what moves a judge that should not.

The judge is asked about answers that it has, and about copies that are no better and no worse:

- itself: the same question again;
- trivial edit: white space at the end, which nobody sees;
- verbosity: a friendly sentence at the end, which says nothing;
- position (of pairwise judges): an answer against its copy, in both places;
- self-preference: by how much it rates answers of its own model kinder than people do, beyond what
  it does for others' answers; from the scores and labels that are there.

Verdicts are taken on 0 to 1. A bias stands out when its 95 % interval leaves 0. Nothing is kept:
the questions are paid for from the day's money of judges, as any.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluators.bulk import grade_all, in_background
from evaluators.experts import Label, expert_labels
from evaluators.fill import label_salt, scale
from evaluators.graders import build
from evaluators.graders.base import Base
from evaluators.pending import readable
from evaluators.references import references
from evaluators.types import Item, Sample, Score
from everlearn.config import Service
from everlearn.errors import InputError, NotEnoughEvidence
from everlearn.graders import Judging, PairwiseModel
from everlearn.lake.store import Lake
from everlearn.task import Task

PADDING = "\n\nI hope this helps! Please let me know if you have any further questions."
EDIT = " \n"
MIN_ANSWERS = 5
"""Fewer say nothing about a judge."""

_ANSWERS = """
SELECT completion_id, [] AS evaluators, messages, tools, answer, response_text, finish_reason,
    metadata, version, arm, NULL AS feedback_digest, NULL AS feedback
FROM completions WHERE task = $1 AND status = 'ok' AND response_text IS NOT NULL
ORDER BY received_at DESC LIMIT $2
"""
_SCORED = """
SELECT c.completion_id, c.model_served, arg_max_null(s.value, s.created_at) AS value
FROM completions c JOIN scores s USING (completion_id)
WHERE s.task = $1 AND s.evaluator = $2 AND s.evaluator_version = $3
    AND completion_id IN (SELECT unnest($4::VARCHAR[])) GROUP BY ALL
"""

Pair = tuple[Sample, Item]


@dataclass(frozen=True)
class Probe:
    """One bias of one judge."""

    judge: str
    probe: str
    answers: int
    shift: float | None
    """On a scale of 0 to 1; None: too few answers to say."""
    lower: float
    upper: float
    flipped: float | None
    """Share of verdicts that changed sides."""
    note: str

    @property
    def stands_out(self) -> bool:
        """Whether chance alone would hardly do it."""
        return self.shift is not None and (self.lower > 0 or self.upper < 0)


def probe(
    service: Service, task: Task, lake: Lake, *, grader: str | None = None, limit: int = 20
) -> list[Probe]:
    """Every judge of the task, or that one, on its newest answers; NotEnoughEvidence without."""
    specs = [each for each in task.graders if isinstance(each, Judging)]
    chosen = [each for each in specs if grader in (None, each.name)]
    if not chosen:
        known = ", ".join(each.name for each in specs) or "none"
        raise InputError(f"task {task.task}: no judge {grader or ''!r}; there are: {known}")
    pairs = _pairs(lake, task, limit)
    if len(pairs) < MIN_ANSWERS:
        raise NotEnoughEvidence(
            f"task {task.task}: {len(pairs)} answers to probe a judge with; {MIN_ANSWERS} at least"
        )
    labels = expert_labels(lake, task, label_salt(service))
    found: list[Probe] = []
    for spec in chosen:
        found += (
            _pairwise(service, task, spec, pairs)
            if isinstance(spec, PairwiseModel)
            else (_pointwise(service, task, spec, pairs))
        )
        found.append(_own_model(lake, task, spec, labels))
    return found


def measured(judge: str, name: str, shifts: Sequence[float], note: str, **more: Any) -> Probe:
    """The mean of paired differences with Student's interval."""
    if len(shifts) < MIN_ANSWERS:
        few = f"{note}: {len(shifts)} verdicts are too few"
        return Probe(judge, name, len(shifts), None, -1.0, 1.0, None, few)
    mean, half = statistics.fmean(shifts), _half(shifts)
    flipped = more.get("flipped")
    return Probe(judge, name, len(shifts), mean, mean - half, mean + half, flipped, note)


def _pointwise(service: Service, task: Task, spec: Judging, pairs: Sequence[Pair]) -> list[Probe]:
    def ask(change: Callable[[str], str]) -> list[float | None]:
        changed = [(_with(sample, change), item) for sample, item in pairs]
        return _values(service, task, spec, changed)

    before = ask(str)
    return [
        _moved(spec.name, name, before, ask(change), note)
        for name, change, note in (
            ("itself", str, "asked the same again"),
            ("trivial edit", lambda text: text + EDIT, "white space at the end"),
            ("verbosity", lambda text: text + PADDING, "a sentence more that says nothing"),
        )
    ]


def _pairwise(
    service: Service, task: Task, spec: PairwiseModel, pairs: Sequence[Pair]
) -> list[Probe]:
    """Against a copy of itself: the place is worth what is left between the two orders."""
    against = spec.model_copy(update={"other": "{{item.everlearn_copy}}"})

    def ask(change: Callable[[str], str]) -> list[Score]:
        copies = [
            (_with(sample, change), {**item, "everlearn_copy": sample.output_text})
            for sample, item in pairs
        ]
        return _scores(service, task, against, copies)

    edited, again = ask(lambda text: text + EDIT), ask(lambda text: text + EDIT)
    padded = ask(lambda text: text + PADDING)
    places = [
        (each.sub_scores["first"] or 0.0) - (each.sub_scores["second"] or 0.0)
        for each in edited
        if each.value is not None and each.sub_scores
    ]
    name, copy = spec.name, "against the answer without it"
    return [
        _moved(name, "itself", _taken(edited), _taken(again), "asked the same again"),
        measured(name, "position", places, "in place A against in place B, the same answer"),
        measured(name, "trivial edit", _beyond_tie(edited), f"white space at the end, {copy}"),
        measured(name, "verbosity", _beyond_tie(padded), f"a sentence that says nothing, {copy}"),
    ]


def _own_model(lake: Lake, task: Task, spec: Judging, labels: Sequence[Label]) -> Probe:
    """Judge less people, of its own model's answers less that of the others'."""
    grader = build(spec, task)
    good = {each.completion_id: float(each.good) for each in labels}
    rows: Iterable[Mapping[str, Any]] = ()
    if good:
        params = [task.task, spec.name, grader.version, list(good)]
        rows = lake.read(_SCORED, params).to_pylist()
    sides: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        if row["value"] is not None:
            apart = _unit(grader, row["value"]) - good[row["completion_id"]]
            sides[row["model_served"] == spec.model].append(apart)
    own, others = sides[True], sides[False]
    note = f"{spec.model}'s {len(own)} labelled answers against {len(others)} of others"
    if min(len(own), len(others)) < MIN_ANSWERS:
        few = f"{note}: {MIN_ANSWERS} of each at least"
        return Probe(spec.name, "self-preference", len(own), None, -1.0, 1.0, None, few)
    shift = statistics.fmean(own) - statistics.fmean(others)
    half = (_half(own) ** 2 + _half(others) ** 2) ** 0.5
    return Probe(
        spec.name, "self-preference", len(own), shift, shift - half, shift + half, None, note
    )


def _moved(
    judge: str,
    name: str,
    before: Sequence[float | None],
    after: Sequence[float | None],
    note: str,
) -> Probe:
    both = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    flips = sum((a >= 0.5) != (b >= 0.5) for a, b in both)
    shifts = [b - a for a, b in both]
    return measured(judge, name, shifts, note, flipped=flips / len(both) if both else None)


def _half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean."""
    from scipy.stats import t

    spread = statistics.stdev(values) / len(values) ** 0.5
    return float(t.ppf(0.975, len(values) - 1) * spread)


def _values(
    service: Service, task: Task, spec: Judging, pairs: Sequence[Pair]
) -> list[float | None]:
    grader = build(spec, task)
    scores = _scores(service, task, spec, pairs)
    return [None if each.value is None else _unit(grader, each.value) for each in scores]


def _scores(service: Service, task: Task, spec: Judging, pairs: Sequence[Pair]) -> list[Score]:
    """By a judge made anew: one that remembers what it said would agree with itself for free."""
    grader = build(spec, task, service)
    try:
        return [row[0] for row in grade_all([grader], pairs)]
    finally:
        in_background(grader.aclose())


def _taken(scores: Sequence[Score]) -> list[float | None]:
    return [each.value for each in scores]


def _beyond_tie(scores: Sequence[Score]) -> list[float]:
    return [each.value - 0.5 for each in scores if each.value is not None]


def _unit(grader: Base[Any], value: float) -> float:
    low, high = scale(grader)
    return (value - low) / (high - low)


def _with(sample: Sample, change: Callable[[str], str]) -> Sample:
    content = None if sample.content is None else change(sample.content)
    return replace(sample, output_text=change(sample.output_text), content=content)


def _pairs(lake: Lake, task: Task, limit: int) -> list[Pair]:
    known = references(lake, task.task)
    rows = lake.read(_ANSWERS, [task.task, limit]).to_pylist()
    found = [readable(row, known) for row in rows]
    return [(each.sample, each.item) for each in found if each.fault is None]
