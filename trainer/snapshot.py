"""A dataset frozen from the lake: read, judge, admit, split, write.

- Only this task's answered completions; what was not answered is no example.
- The rows are written whole to `snapshot_rows`, so a snapshot never changes afterwards.
- `content_hash` is over the sorted hashes of the rows used: equal data, equal hash.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from evaluators.pending import said
from evaluators.trust import Standing
from everlearn.chat import template_options
from everlearn.errors import NotFound
from everlearn.graders import Execution, FeedbackGrader, JsonSchema
from everlearn.ids import new_id
from everlearn.lake.store import Lake, Transaction
from everlearn.task import Task, heldout_grader
from trainer.admit import admit, dropped
from trainer.age import current
from trainer.best_of import read_drawn, with_pairs
from trainer.distil import elsewhere, from_elsewhere
from trainer.implicit import implied
from trainer.judge import Judgement, judged, preferred
from trainer.lessons.rows import displeased, latest, taught
from trainer.raters import held, rater_of, standings, weighed
from trainer.reward import needs_reference, reward_grader
from trainer.rows import Row, from_lake, parsed, to_lake
from trainer.split import by_unit, without_leaks
from trainer.verdicts import by_verdicts, heard, seconded

MAX_REPLAY_ROWS = 1000
"""Ordinary answers read at most; a run shows a few hundred of them to the model."""

_ANSWERS = """
    SELECT c.completion_id, c.unit, c.messages, c.tools, c.answer, c.response_text, c.sampling,
        c.forced, c.finish_reason, c.trainable, c.version, c.upstream, c.model_served,
        c.prompt_token_ids, c.completion_token_ids, c.template_hash, c.received_at, c.metadata,
        c.arm, c.logprobs, c.endpoint
    FROM completions c WHERE c.task = ? AND c.status IN ('ok', 'imported')
"""
_FEEDBACK = """
    SELECT f.completion_id, f.other_completion_id, f.kind, f.name, f.value_bool, f.value_number,
        f.value_text,
        f.author, f.author_id, f.key_id, f.weight, f.received_at
    FROM feedback_joined f SEMI JOIN completions c
        ON f.completion_id = c.completion_id AND c.task = ? AND c.status IN ('ok', 'imported')
    WHERE f.kind IN ('binary', 'scalar', 'implicit', 'correction', 'preference')
        AND NOT f.ambiguous
    ORDER BY f.given_at, f.feedback_id
"""
_JUDGED = f"""{_ANSWERS} AND c.completion_id IN (
    SELECT unnest([f.completion_id, f.other_completion_id]) FROM feedback_joined f)
"""
_ORDINARY = f"""{_ANSWERS.replace("?", "$1")} AND c.version = $2 AND c.trainable
    AND c.forced IS NULL AND coalesce(c.unit, '') NOT IN (SELECT unnest($3::VARCHAR[]))
    AND c.completion_id NOT IN (
    SELECT each FROM (SELECT unnest([f.completion_id, f.other_completion_id]) AS each
        FROM feedback_joined f WHERE f.author <> 'end_user'
            OR coalesce(f.author_id, '/' || f.key_id, '') NOT IN (SELECT unnest($3::VARCHAR[])))
    WHERE each IS NOT NULL)
    ORDER BY hash(c.completion_id) LIMIT {MAX_REPLAY_ROWS}
"""
"""Nobody who is heard has said anything of them, and nobody asked for them who is quarantined."""
_SAID = ("kind", "name", "value_bool", "value_number", "value_text", "author", "author_id",
    "key_id", "weight")  # fmt: skip
_VERDICTS = """
    SELECT completion_id, evaluator, arg_max(value, created_at) AS value FROM scores
    WHERE task = ? AND evaluator IN (SELECT unnest(?)) AND value IS NOT NULL GROUP BY ALL
"""


@dataclass(frozen=True)
class Snapshot:
    """A frozen dataset."""

    snapshot_id: str
    task: str
    lake_snapshot: int
    rows: tuple[Row, ...]

    @property
    def content_hash(self) -> str:
        """Of what is there: an erasure takes rows out of a frozen dataset."""
        hashes = sorted(row.row_hash for row in self.rows if row.split != "dropped")
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def side(self, split: str) -> list[Row]:
        """The rows of `train`, `select`, `gate` or `dropped`."""
        return [row for row in self.rows if row.split == split]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by kind for each side, and by reason for those dropped."""
        return {
            "train": dict(Counter(row.kind for row in self.side("train"))),
            "select": dict(Counter(row.author or "none" for row in self.side("select"))),
            "gate": dict(Counter(row.author or "none" for row in self.side("gate"))),
            "dropped": dict(Counter(row.dropped_reason or "" for row in self.side("dropped"))),
        }


Refuses = Callable[[Row], str | None]
"""Why a row cannot be rendered by the base model's template; None: it can."""


def freeze(
    lake: Lake,
    task: Task,
    *,
    champion: str,
    salt: str,
    released: Collection[str] = (),
    write: bool = True,
    refuses: Refuses | None = None,
) -> Snapshot:
    """Take a snapshot now; `champion` is the version whose ordinary answers are replayed, `salt`
    that of the installation, `released` are raters whose quarantine an operator has ended."""
    lake_snapshot = lake.snapshot_id()
    rows_read = with_lessons(lake, task, read_rows(lake, task, champion, released))
    rows_read = with_best_of(lake, task, champion, rows_read)
    found = select(rows_read, task, salt, refuses)
    # In the order in which `load` gives them: the same snapshot trains the same weights.
    rows = sorted(found, key=_by_id)
    snapshot = Snapshot(new_id("snap"), task.task, lake_snapshot, tuple(rows))
    if write:
        lake.commit(lambda transaction: _write(transaction, snapshot))
    return snapshot


def select(
    rows: Sequence[Row], task: Task, salt: str = "", refuses: Refuses | None = None
) -> list[Row]:
    """Each row on its side of the border, or dropped with the reason: a pure function."""
    sides = by_unit(current(rows, task.train.max_age_days), task.heldout.percent, salt)
    rewarded = reward_grader(task)
    reference = needs_reference(task, task.grader(heldout_grader(task)))
    asks = rewarded is not None and not needs_reference(task, rewarded)
    admitted: list[Row] = []
    for side in ("train", "select", "gate"):
        admitted += admit(
            [row for row in sides if row.split == side],
            max_per_unit=task.train.max_per_unit,
            must_pass=must_pass(task),
            verdict=heldout_grader(task),
            trust=task.trust,
            exam=side != "train",
            ask=asks if side == "train" else not reference,
        )
    return without_leaks(renderable(admitted, refuses), reference=reference)


def renderable(rows: Sequence[Row], refuses: Refuses | None) -> list[Row]:
    """The rows, those that the template cannot hold dropped with the reason."""
    if refuses is None:
        return list(rows)
    return [
        row if row.split == "dropped" or (why := refuses(row)) is None else dropped(row, why)
        for row in rows
    ]


def load(lake: Lake, snapshot_id: str, task: str) -> Snapshot:
    """A snapshot as it was written, but for what was erased since; NotFound if the task has none of
    that id."""
    query = "SELECT * FROM snapshots WHERE snapshot_id = ? AND task = ?"
    found = lake.read(query, [snapshot_id, task]).to_pylist()
    if not found:
        raise NotFound(
            f"snapshot {snapshot_id!r} of task {task} does not exist; "
            f"`everlearn snapshot {task}` makes one"
        )
    records = lake.read("SELECT * FROM snapshot_rows WHERE snapshot_id = ?", [snapshot_id])
    rows = sorted(map(from_lake, records.to_pylist()), key=_by_id)
    head = found[0]
    return Snapshot(snapshot_id, head["task"], head["lake_snapshot"], tuple(rows))


def must_pass(task: Task) -> list[str]:
    """Deterministic graders that need no reference: an answer they give 0 is never taught."""
    return [
        grader.name
        for grader in task.graders
        if isinstance(grader, JsonSchema)
        or (isinstance(grader, Execution) and grader.reference is None)
    ]


def read_rows(lake: Lake, task: Task, champion: str, released: Collection[str] = ()) -> list[Row]:
    """Every judged answer and a sample of the champion's ordinary ones, before admission."""
    verdicts = _verdicts(lake, task)
    answers = {
        record["completion_id"]: _row(record, verdicts)
        for record in lake.read(_JUDGED, [task.task]).to_pylist()
    }
    given = read_feedback(lake, task)
    answers = known(answers, given)
    told = weighed(given, answers, task, released=released)
    ordinary = lake.read(_ORDINARY, [task.task, champion, held(told, answers)]).to_pylist()
    names = [name for name, why in heard(lake, task).items() if why is None]
    rows = seconded(_all_judged(answers, told, task), task, names)
    own: list[Row] = []
    for record in ordinary:
        row = _row(record, verdicts)
        if not from_elsewhere(record, task):
            own.append(row)
        elif (target := elsewhere(row, task)) is not None:
            rows.append(target)
    rows += by_verdicts(own, task, names)
    return sorted(rows, key=lambda row: row.completion_id)


def read_feedback(lake: Lake, task: Task) -> list[Judgement]:
    """All that was said of the task's answers, what people did read as the task declares it."""
    given = [Judgement(**record) for record in lake.read(_FEEDBACK, [task.task]).to_pylist()]
    name = min(feedback_names(task))
    if task.comments is not None:
        given += displeased(lake, task.task, name)
    return implied(given, task, name)


def known(answers: Mapping[str, Row], given: Iterable[Judgement]) -> dict[str, Row]:
    """The answers with what was said about each, as graders of live answers know it."""
    about: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in given:
        about[each.completion_id].append({key: asdict(each)[key] for key in _SAID})
    return {
        name: replace(row, context={**row.context, **said(about[name])}) if about[name] else row
        for name, row in answers.items()
    }


def answers_of(lake: Lake, task: Task, completion_ids: Iterable[str]) -> dict[str, Row]:
    """These answers of the task by id, as rows that nobody has judged yet."""
    sql = f"{_ANSWERS} AND c.completion_id IN (SELECT unnest(?))"
    records = lake.read(sql, [task.task, sorted(set(completion_ids))]).to_pylist()
    return {record["completion_id"]: _row(record, {}) for record in records}


def raters(lake: Lake, task: Task, released: Collection[str] = ()) -> dict[str, Standing]:
    """How far each rater of the task is believed now."""
    answers = {
        record["completion_id"]: _row(record, {})
        for record in lake.read(_JUDGED, [task.task]).to_pylist()
    }
    return standings(read_feedback(lake, task), answers, task, released=released)


def feedback_names(task: Task) -> set[str]:
    """Which feedback says whether an answer is good."""
    return {g.feedback for g in task.graders if isinstance(g, FeedbackGrader)} or {"thumbs"}


def judge_all(
    answers: Mapping[str, Row],
    given: Sequence[Judgement],
    task: Task,
    *,
    released: Collection[str] = (),
) -> list[Row]:
    """What the feedback makes of the answers by id: pure, but for the work of weighing raters."""
    return _all_judged(answers, weighed(given, answers, task, released=released), task)


def _all_judged(answers: Mapping[str, Row], told: Iterable[Judgement], task: Task) -> list[Row]:
    names = feedback_names(task)
    about: dict[str, list[Judgement]] = defaultdict(list)
    pairs: list[Judgement] = []
    for judgement in told:
        if judgement.kind == "preference":
            pairs.append(judgement)
        elif judgement.kind == "correction" or judgement.name in names:
            about[judgement.completion_id].append(judgement)
    rows = [
        judged(_by(answers[name], said), said, task.scales)
        for name, said in about.items()
        if name in answers
    ]
    rows += [
        preferred(_by(answers[pair.completion_id], [pair]), answers[other], pair)
        for pair in pairs
        if (other := pair.other_completion_id or "") in answers and pair.completion_id in answers
    ]
    return [row for row in rows if row is not None]


def with_lessons(lake: Lake, task: Task, rows: Sequence[Row]) -> list[Row]:
    """The rows and what comments teach beside them, where the task lets them."""
    if task.comments is None:
        return list(rows)
    made = latest(lake, task.task)
    return taught(rows, answers_of(lake, task, [each.completion_id for each in made.lessons]), made)


def with_best_of(lake: Lake, task: Task, champion: str, rows: Sequence[Row]) -> list[Row]:
    """The rows and the pairs of the champion's own answers, where the task wants them."""
    if task.train.best_of is None:
        return list(rows)
    drawn = read_drawn(lake, task.task, champion)
    asked = answers_of(lake, task, [each.completion_id for each in drawn])
    return with_pairs(rows, asked, drawn, task)


def _by(answer: Row, given: Iterable[Judgement]) -> Row:
    """The answer with the raters who are heard about it, as old as the last word on it."""
    words = list(given)
    heard = {rater_of(each, answer) for each in words if each.author != "expert" and each.weight}
    times = [each.received_at for each in words if each.received_at is not None]
    known_at = max(times, default=answer.known_at)
    met = any(each.met and each.weight for each in words)
    return replace(answer, raters=tuple(sorted(heard)), known_at=known_at, confirmed=met)


def _row(record: Mapping[str, Any], verdicts: Mapping[str, Mapping[str, float]]) -> Row:
    """An answer nobody has judged yet."""
    sampling = parsed(record["sampling"])
    asked = sampling if isinstance(sampling, Mapping) else {}
    return Row(
        completion_id=record["completion_id"],
        unit=record["unit"] or record["completion_id"],
        kind="replay",
        messages=_objects(record["messages"]) or [],
        tools=_objects(record["tools"]),
        options=template_options(asked.get("chat_template_kwargs"), asked.get("reasoning_effort")),
        completion=record["response_text"] or "",
        said=parsed(record["answer"]),
        forced=record["forced"],
        prompt_token_ids=record["prompt_token_ids"],
        completion_token_ids=record["completion_token_ids"],
        logprobs=record["logprobs"],
        template_hash=record["template_hash"],
        trainable=record["trainable"] is not False,
        finish_reason=record["finish_reason"],
        verdicts=verdicts.get(record["completion_id"], {}),
        asked_at=record["received_at"],
        known_at=record["received_at"],
        # Its prompt was served without a template, and is no conversation to train on.
        dropped_reason="plain_prompt" if record["endpoint"] == "completions" else None,
        context={
            "metadata": parsed(record["metadata"]) or {},
            "version": record["version"],
            "arm": record["arm"],
        },
    )


def _objects(value: Any) -> list[Any] | None:
    """A list of objects, as a template takes it; None for what a tolerant upstream took else."""
    found = parsed(value)
    if isinstance(found, list) and all(isinstance(each, Mapping) for each in found):
        return found
    return None


def _verdicts(lake: Lake, task: Task) -> dict[str, dict[str, float]]:
    """Latest scores by completion and grader, of the graders that admission looks at."""
    names = [*must_pass(task), heldout_grader(task)]
    names += task.train.verdicts
    if task.train.distil:
        names += [grader.name for grader in task.graders]
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for record in lake.read(_VERDICTS, [task.task, names]).to_pylist():
        found[record["completion_id"]][record["evaluator"]] = record["value"]
    return found


def _by_id(row: Row) -> tuple[str, str, str]:
    # One answer may stand in several rows: as it is, and with a lesson or a pair made of it.
    return row.completion_id, row.kind, row.row_hash


def _write(transaction: Transaction, snapshot: Snapshot) -> None:
    transaction.append(
        "snapshots",
        [
            {
                "snapshot_id": snapshot.snapshot_id,
                "task": snapshot.task,
                "lake_snapshot": snapshot.lake_snapshot,
                "query": " ".join(_JUDGED.split()),
                "content_hash": snapshot.content_hash,
                "counts": snapshot.counts,
                "created_at": datetime.now(UTC),
            }
        ],
    )
    transaction.append(
        "snapshot_rows", [to_lake(row, snapshot.snapshot_id) for row in snapshot.rows]
    )
