"""From sorted comments to lessons; what came of it is written to the lake.

- What was measured is measured again when the champion or the rows change, not at every call.
- What was taught once stays taught, though the champion has learned it: every candidate starts
  fresh. Only harm, and taking the comment back, end it.
- States and lessons are written in one transaction at the end: a kill loses the round and nothing
  else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from everlearn.ids import new_id
from everlearn.lake.store import Lake, Transaction
from everlearn.task import Task
from trainer.lessons.board import CORRECTIONS, Standing
from trainer.lessons.comments import Known
from trainer.lessons.keeping import Keeping
from trainer.lessons.lift import Lift, Pair, decide, verdict
from trainer.lessons.rows import HINDSIGHT, Lesson, Round, documents, latest
from trainer.lessons.sorting import Desk, Report, declared
from trainer.lessons.teacher import Teacher
from trainer.reward import Grading
from trainer.rows import Row
from trainer.snapshot import answers_of

LEAST_SIGNAL = 0.1
"""Nats by which a token must change in the mean, either way; else the rules leave the answer as it
is."""

Both = tuple[Sequence[str], Sequence[str]]
"""Answers without and with the comment."""


@dataclass(frozen=True, kw_only=True)
class School:
    """Who is asked, about which prompts, and by whom it is judged."""

    task: Task
    teacher: Teacher
    champion: str
    """The version that the teacher is."""
    keeping: Keeping
    quality: Grading
    select: Sequence[Row]
    """Prompts that rules are tried on."""
    train: Sequence[Row]
    """Prompts that are answered again."""
    trains: Callable[[Row], bool]
    """Whether a row is on the training side."""

    def compare(
        self, rows: Sequence[Row], kept_to: Sequence[tuple[str, ...]], answers: Both
    ) -> list[Pair]:
        """Both answers to every row, judged."""
        keeps = [self.keeping(list(zip(kept_to, rows, texts, strict=True))) for texts in answers]
        quality = [self.quality(rows, list(texts)) for texts in answers]
        return [
            Pair(keeps=(keeps[0][i], keeps[1][i]), quality=(quality[0][i], quality[1][i]))
            for i in range(len(rows))
        ]


def learn(
    make: Callable[[], School], task: Task, desk: Desk, lake: Lake, report: Report
) -> list[Standing]:
    """The lift of every rule, and the lessons of those that have it; without any to try no school
    is made, which loads the model."""
    open_ = [each for each in desk.standings() if each.open]
    if not open_:
        found = desk.standings()
        _write(lake, changed(found, desk, task.task), [])
        return found
    school = make()
    answers = answers_of(lake, task, [each.comment.completion_id for each in open_])
    lifts = measure(school, open_, desk.board, answers, report)
    found = desk.standings(lifts)
    teaching = [each for each in found if each.teaches]
    rounds, before = [], latest(lake, task.task)
    if teaching and before.comments != {each.comment.feedback_id for each in teaching}:
        rounds = made_by(school, teaching, answers, before, report)
    _write(lake, changed(found, desk, task.task), rounds)
    return found


def measure(
    school: School,
    open_: Sequence[Standing],
    board: Mapping[str, Known],
    answers: Mapping[str, Row],
    report: Report,
) -> dict[str, Lift]:
    """By rule, on the select rows; of all corrections together, on the prompts they are about."""
    lifts: dict[str, Lift] = {}
    plain: list[str] = []
    for each in open_:
        if each.rule is None or each.rule in lifts:
            continue
        known = board[each.comment.feedback_id]
        old = _still(known, school)
        if old is not None:
            lifts[each.rule] = old
            continue
        plain = plain or school.teacher.plain(school.select)
        ruled = school.teacher.ruled(school.select, [each.rule])
        pairs = school.compare(school.select, [(each.rule,)] * len(ruled), (plain, ruled))
        lift = decide(pairs, _sure(school), school.champion)
        if lift.state == "waiting" and known.state in ("teaching", "learned"):
            lift = replace(lift, state="learned", why=f"taught before; now {lift.why}")
        lifts[each.rule] = lift
        report(f"rule {each.rule!r}: {lift.state}: {lift.why}")
    fixes = [each for each in open_ if each.sort == "correction"]
    if fixes:
        pairs = _corrected(school, fixes, answers)[2]
        lift = lifts[CORRECTIONS] = decide(pairs, _sure(school), school.champion)
        report(f"{len(pairs)} corrections: {lift.state}: {lift.why}")
    return lifts


def made_by(
    school: School,
    teaching: Sequence[Standing],
    answers: Mapping[str, Row],
    before: Round,
    report: Report,
) -> list[dict[str, Any]]:
    """A round of lessons by the task's method."""
    if declared(school.task).method == HINDSIGHT:
        rounds = hindsight(school, teaching, answers)
        better = sum(each["verdict"] == HINDSIGHT for each in rounds)
        report(f"{better} of {len(rounds)} logged answers are lessons in hindsight")
        return rounds
    rounds = revise(school, teaching, answers, before)
    better = sum(each["verdict"] == "better" for each in rounds)
    report(f"{better} of {len(rounds)} prompts answered again are lessons")
    return rounds


def hindsight(
    school: School, teaching: Sequence[Standing], answers: Mapping[str, Row]
) -> list[dict[str, Any]]:
    """The logged answers of the training side that do not keep to the rules and that those make
    less likely or likelier, and all others, which stay as they are; a correction stands beside its
    own answer alone.

    A model that is told rules may follow them where they do not hold, so it does not say where that
    is: an answer that keeps to them is not a lesson.
    """
    rules = tuple(dict.fromkeys(each.rule for each in teaching if each.rule is not None))
    about: dict[str, tuple[str, ...]] = {}
    logged = {row.completion_id: row for row in school.train} if rules else {}
    for each in teaching:
        name = each.comment.completion_id
        if each.sort == "correction" and name in answers:
            logged[name] = answers[name]
            about[name] = (*about.get(name, ()), each.comment.text)
    asked = [
        replace(row, kind=HINDSIGHT, target=None, rules=(*rules, *about.get(name, ())))
        for name, row in logged.items()
        if school.trains(row) and row.completion.strip()
    ]
    kept = school.keeping([(tuple(row.rules), row, row.completion) for row in asked])
    keeps = {row.completion_id for row, each in zip(asked, kept, strict=True) if each == 1.0}
    found: list[tuple[Row, Lesson, dict[str, Any]]] = []
    for made in school.teacher.weighed(asked):
        signal, size = fmean(made.signal), fmean(map(abs, made.signal))
        moved = size >= LEAST_SIGNAL and made.row.completion_id not in keeps
        verdict = HINDSIGHT if moved else "kept"
        lesson = Lesson(made.row.completion_id, made.row.completion, None, verdict)
        scores = {"rules": list(made.row.rules), "signal": signal, "size": size}
        found.append((made.row, lesson, scores))
    return documents(found, _head(school, teaching))


def revise(
    school: School, teaching: Sequence[Standing], answers: Mapping[str, Row], before: Round
) -> list[dict[str, Any]]:
    """The training prompts again under all rules, and each correction's own prompt.

    What a lesson has taught the champion (it keeps to the rules untold) stays a lesson.
    """
    rules = tuple(dict.fromkeys(each.rule for each in teaching if each.rule is not None))
    sides: list[tuple[Sequence[Row], Both, list[Pair]]] = []
    if rules:
        both: Both = school.teacher.plain(school.train), school.teacher.ruled(school.train, rules)
        pairs = school.compare(school.train, [rules] * len(both[0]), both)
        sides.append((school.train, both, pairs))
    fixes = [each for each in teaching if each.sort == "correction"]
    if fixes:
        sides.append(_corrected(school, fixes, answers))
    taught = {each.completion_id: each for each in before.lessons if each.better}
    found: dict[str, tuple[Row, Lesson, dict[str, Any]]] = {}
    for rows, (plain, told), pairs in sides:
        for row, old, new, pair in zip(rows, plain, told, pairs, strict=True):
            if not school.trains(row):
                continue
            lesson = Lesson(row.completion_id, old, new, verdict(pair))
            earlier = taught.get(row.completion_id)
            if lesson.verdict == "kept" and earlier is not None:
                lesson = replace(earlier, revised=old)
            scores = {"keeps": pair.keeps, "quality": pair.quality}
            found[row.completion_id] = (row, lesson, scores)
    return documents(list(found.values()), _head(school, teaching))


def _head(school: School, teaching: Sequence[Standing]) -> dict[str, Any]:
    """What all lessons of a round share."""
    return {
        "round_id": new_id("round"),
        "task": school.task.task,
        "comments": sorted(each.comment.feedback_id for each in teaching),
        "teacher": school.champion,
        "created_at": datetime.now(UTC),
    }


def changed(found: Sequence[Standing], desk: Desk, task: str) -> list[dict[str, Any]]:
    """What the lake does not know yet, for table `comments`; who is not heard is not kept."""
    rows = []
    for each in found:
        name = each.comment.feedback_id
        known = desk.board.get(name)
        if known is None:
            continue
        if name not in desk.new and (known.state, known.why) == (each.state, each.why):
            continue
        rows.append(
            {
                **{"feedback_id": name, "completion_id": each.comment.completion_id, "task": task},
                **{key: getattr(known, key) for key in ("sorter", "sort", "rule", "reason")},
                **{"error": known.error if name in desk.new else None},
                **{"state": each.state, "why": each.why, "created_at": datetime.now(UTC)},
                "lift": each.lift.document() if each.lift else known.lift,
            }
        )
    return rows


def _write(lake: Lake, states: list[dict[str, Any]], lessons: list[dict[str, Any]]) -> None:
    def write(transaction: Transaction) -> None:
        for table, rows in (("comments", states), ("lessons", lessons)):
            if rows:
                transaction.append(table, rows)

    if states or lessons:
        lake.commit(write)


def _corrected(
    school: School, fixes: Sequence[Standing], answers: Mapping[str, Row]
) -> tuple[list[Row], Both, list[Pair]]:
    """The prompts that corrections are about: logged answer, the answer after the correction."""
    there = [each for each in fixes if each.comment.completion_id in answers]
    rows = [answers[each.comment.completion_id] for each in there]
    texts = [each.comment.text for each in there]
    both = [row.completion for row in rows], school.teacher.again(rows, texts)
    return rows, both, school.compare(rows, [(text,) for text in texts], both)


def _still(known: Known, school: School) -> Lift | None:
    """What was measured, while champion and number of rows are the same."""
    told = known.lift or {}
    if (told.get("champion"), told.get("tried")) != (school.champion, len(school.select)):
        return None
    return Lift(state=known.state, why=known.why, **told)


def _sure(school: School) -> float:
    return declared(school.task).confidence
