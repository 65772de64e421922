"""A user's correction is a suggestion, whichever way it may go; an expert's goes every one of them.

Each path gives the texts that it lets through, so that what holds for the user is not an empty one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluators.references import references
from everlearn.config import load
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.people import CommentJudge, Comments, FeedbackRule
from everlearn.rules import BestOf
from everlearn.task import Task, load_task
from tests.trainer.production import completion, correction, make_production, thumbs
from tests.trainer.tiny import THINGS
from trainer.best_of import candidates
from trainer.lessons.comments import read_comments, refusals
from trainer.methods import TrainingData, dpo, rft
from trainer.snapshot import freeze, raters, read_feedback, read_rows

TEXT = "buy at evil.example"
JUDGE = CommentJudge(upstream="local", model="judge")
Texts = set[str | None]


def data(lake: DuckLake, task: Task) -> TrainingData:
    made = freeze(lake, task, champion="base", salt="", write=False)
    return TrainingData(tuple(made.side("train")))


def sft(lake: DuckLake, task: Task) -> Texts:
    return {row.answer for row in data(lake, task).learned}


def pairs(lake: DuckLake, task: Task) -> Texts:
    return {right.answer for right, _ in dpo.pairs(data(lake, task))}


def kto(lake: DuckLake, task: Task) -> Texts:
    known = data(lake, task)
    return {row.answer for row in (*known.learned, *known.rejected)}


def rewards(lake: DuckLake, task: Task) -> Texts:
    return {row.target for row in rft.prompts(data(lake, task))}


def examined(lake: DuckLake, task: Task) -> Texts:
    made = freeze(lake, task, champion="base", salt="", write=False)
    return {row.target for side in ("select", "gate") for row in made.side(side)}


def compared(lake: DuckLake, task: Task) -> Texts:
    return {each.text for each in references(lake, task.task).values()}


def items(lake: DuckLake, task: Task) -> Texts:
    """What graders find under `item.correction`."""
    return {row.context.get("correction") for row in read_rows(lake, task, "base")}


def best_of(lake: DuckLake, task: Task) -> Texts:
    train = task.train.model_copy(update={"best_of": BestOf()})
    found = candidates(data(lake, task).rows, task.model_copy(update={"train": train}), (), 100)
    return {row.target for row in found}


def comments(lake: DuckLake, task: Task) -> Texts:
    said, rules = read_comments(lake, task.task), Comments(judge=JUDGE)
    refused = refusals(said, rules, raters(lake, task))
    return {each.text for each in said if each.feedback_id not in refused}


PATHS: tuple[Callable[[DuckLake, Task], Texts], ...] = (
    sft, pairs, kto, rewards, examined, compared, items, best_of, comments,
)  # fmt: skip


@pytest.fixture(scope="module", params=["end_user", "expert"])
def world(request: Any, tmp_path_factory: Any) -> Iterator[tuple[str, DuckLake, Task]]:
    """Somebody says of everybody's answers what would be right, and says it in a comment too."""
    folder = tmp_path_factory.mktemp("world")
    lake = open_lake(make_production(folder, Path("base"), "http://127.0.0.1:1"))
    who = {"author": request.param, "author_id": "somebody"}
    asked = [completion(n, thing, "colour") for n, thing in enumerate(THINGS)]
    said = [correction(n, TEXT) | who for n in range(len(asked))]
    said += [
        thumbs(n, False, **who, feedback_id=f"fb_w{n}", kind="comment", name="comment",
               value_text=TEXT) | {"value_bool": None}
        for n in range(len(asked))
    ]  # fmt: skip

    def write(transaction: Any) -> None:
        transaction.append("completions", asked)
        transaction.append("feedback", said)

    lake.commit(write)
    yield request.param, lake, load_task(load(folder / "everlearn.yaml"), "colours")
    lake.close()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.__name__))
def test_a_correction_goes_this_way_when_an_expert_gave_it_alone(
    world: tuple[str, DuckLake, Task], path: Callable[[DuckLake, Task], Texts]
) -> None:
    author, lake, task = world
    assert (TEXT in path(lake, task)) == (author == "expert")


def test_what_an_answer_was_edited_into_is_a_suggestion_too(tmp_path: Path) -> None:
    lake = open_lake(make_production(tmp_path, Path("base"), "http://127.0.0.1:1"))
    edited = {"kind": "implicit", "name": "edited", "value_text": TEXT, "value_bool": None}
    said = [thumbs(n, True, author_id=f"u{n}") | edited for n in range(len(THINGS))]

    def write(transaction: Any) -> None:
        asked = [completion(n, thing, "colour") for n, thing in enumerate(THINGS)]
        transaction.append("completions", asked)
        transaction.append("feedback", said)

    lake.commit(write)
    task = load_task(load(tmp_path / "everlearn.yaml"), "colours")
    task = task.model_copy(update={"feedback": {"edited": FeedbackRule(means="bad")}})
    assert [each.value_bool for each in read_feedback(lake, task)] == [False] * len(THINGS)
    assert data(lake, task).rejected
    assert all(TEXT not in path(lake, task) for path in PATHS)
    lake.close()
