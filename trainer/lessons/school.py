"""Puts together what learning from comments needs: the served model, its prompts, its judges."""

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evaluators.bulk import in_background
from evaluators.judge.budget import budget_of
from evaluators.judge.comments import CommentJudge
from evaluators.judges import require
from everlearn.config import Service
from everlearn.lake.store import Lake
from everlearn.prompts import side_of
from everlearn.task import Task, base_model_path, heldout_grader
from registry.versions import ModelVersion
from trainer.lessons.board import Standing
from trainer.lessons.keeping import ByGrader, ByJudge
from trainer.lessons.learn import School, learn
from trainer.lessons.rows import latest
from trainer.lessons.sorting import Report, declared, read_desk, sort_desk
from trainer.lessons.teacher import Teacher
from trainer.reward import Grading
from trainer.rows import LEARNED, Row
from trainer.snapshot import read_rows
from trainer.workbench import Workbench, quiet


def teach(
    service: Service,
    task: Task,
    lake: Lake,
    champion: ModelVersion,
    *,
    salt: str,
    report: Report,
    released: Collection[str] = (),
) -> list[Standing]:
    """Sort what is new, try it, answer again; where every comment stands then. The model is loaded
    only if there is something to try. A grader that asks a model must be one that may decide."""
    rules = declared(task)
    if rules.grader is not None:
        named = [task.grader(rules.grader)]
        require(task, named, "comments.grader", lake=lambda: lake, salt=lambda: salt)
    judge = CommentJudge(rules, service, budget_of(task, service))
    try:
        desk = sort_desk(read_desk(lake, task, released), judge, task, lake, report)
        rows = read_rows(lake, task, champion.version, released)
        made = latest(lake, task.task)
        first = [each.completion_id for each in made.lessons if each.better]
        first += [each.completion_id for each in desk.comments]
        with _school(service, task, judge, champion) as school_of:

            def make() -> School:
                return school_of(*pools(rows, task, salt, first))

            return learn(make, task, desk, lake, report)
    finally:
        in_background(judge.aclose())


def pools(
    rows: Sequence[Row], task: Task, salt: str, first: Sequence[str] = ()
) -> tuple[list[Row], list[Row], Callable[[Row], bool]]:
    """Prompts to try rules on (select), to answer again (train; those of `first` before others),
    and who is on the training side. A prompt stands once, with its right answer where it has
    one."""

    def side(row: Row) -> str:
        return side_of(row.unit, heldout_percent=task.heldout.percent, salt=salt)

    order = {name: place for place, name in enumerate(first)}
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.kind not in LEARNED, row.row_hash)):
        if row.trainable and row.forced is None and row.messages:
            best.setdefault(row.key, row)
    ranked = sorted(
        best.values(), key=lambda row: (order.get(row.completion_id, len(order)), row.row_hash)
    )
    most = declared(task).max_prompts
    select = [row for row in ranked if side(row) == "select"][:most]
    train = [row for row in ranked if side(row) == "train"][:most]
    return select, train, lambda row: side(row) == "train"


@contextmanager
def _school(
    service: Service, task: Task, judge: CommentJudge, champion: ModelVersion
) -> Iterator[Callable[..., School]]:
    """A maker of the school, which loads the model; graders are closed at the end."""
    quality = Grading(task, service, task.grader(heldout_grader(task)))
    name = declared(task).grader
    graded = None if name is None else ByGrader(task, service, name)
    with tempfile.TemporaryDirectory(prefix="everlearn-comments-") as scratch:

        def make(
            select: Sequence[Row], train: Sequence[Row], trains: Callable[[Row], bool]
        ) -> School:
            quiet()
            bench = Workbench(task, base_model_path(service, task), Path(scratch))
            return School(
                task=task,
                teacher=Teacher(bench, bench.adapted(champion.path)),
                champion=champion.version,
                keeping=graded or ByJudge(judge),
                quality=quality,
                select=select,
                train=train,
                trains=trains,
            )

        try:
            yield make
        finally:
            quality.close()
            if graded is not None:
                graded.close()
