"""One sentence of an expert becomes weights: a real lake, a real judge server, a real model that
can follow what it is told, and SFT and DPO on what it taught itself."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.responses import Response

from evaluators.judge.comments import instructions
from everlearn.cli import main
from everlearn.config import Service, load
from everlearn.errors import NotEnoughEvidence
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.prompts import side_of
from everlearn.task import Task, load_task
from registry.versions import ModelVersion
from tests.builders import make_service
from tests.evaluators.judge_server import JudgeServer, judge_server, says
from tests.trainer.production import START, completion, correction, make_task, thumbs
from tests.trainer.tiny import THINGS, WORDS, build_model, colour, question
from trainer.evidence import answer
from trainer.lessons.board import Standing
from trainer.lessons.rows import latest
from trainer.lessons.school import teach
from trainer.lessons.sorting import read_desk
from trainer.methods import Method, TrainingData, dpo, sft
from trainer.snapshot import freeze
from trainer.workbench import Workbench, fit

pytestmark = pytest.mark.slow

RULE = "shade is colour"
SALT = ""
PERCENT = 30


@pytest.fixture(scope="module")
def follower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is right about shades when the rule stands in its prompt, and only then."""
    import torch

    torch.set_num_threads(1)
    return build_model(tmp_path_factory.mktemp("follower"), rules=[RULE])


@dataclass
class Judge:
    """What the scripted judge says; it finds a thing's shade in the request."""

    sorts: dict[str, dict[str, str]] = field(default_factory=dict)
    """By comment."""
    pairs: list[list[int]] = field(default_factory=list)
    asked: int = 0

    def __call__(self, body: dict[str, Any]) -> Response:
        self.asked += 1
        prompt, sent = (message["content"] for message in body["messages"])
        data = json.loads(sent.split("\n")[1])
        if prompt == instructions("contradict"):
            return says(json.dumps({"reason": "", "pairs": self.pairs}))(body)
        if prompt == instructions("comment"):
            return says(json.dumps(self.sorts[data["comment"]]))(body)
        keeps = data["answer"] == colour(data["request"].split()[-1])
        return says(json.dumps({"reason": "", "label": "yes" if keeps else "no"}))(body)


@dataclass(frozen=True)
class World:
    """Production before anybody said a word on the training side."""

    service: Service
    lake: DuckLake
    judge: Judge
    server: JudgeServer
    lines: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        return load_task(self.service, "colours")

    def say(self, number: int, text: str, **overrides: Any) -> None:
        """An expert's comment on the answer of that number."""
        fields = {
            **{"feedback_id": f"fb_say{number}", "kind": "comment", "name": "comment"},
            **{"value_bool": None, "value_text": text, "author": "expert", "author_id": "eve"},
            **overrides,
        }
        row = thumbs(number, True, **fields)
        self.lake.commit(lambda transaction: transaction.append("feedback", [row]))

    def teach(self) -> list[Standing]:
        champion = ModelVersion("colours", "base", self.task.base_model)
        return teach(
            self.service, self.task, self.lake, champion, salt=SALT, report=self.lines.append
        )


@pytest.fixture
def world(tmp_path: Path, follower: Path) -> Iterator[World]:
    content = make_task(tmp_path, follower)
    content["heldout"] = {"percent": PERCENT}
    with judge_server() as server:
        judge = Judge()
        server.answer = judge
        judging = {"base_url": server.address, "kind": "openai"}
        local = {"base_url": "http://127.0.0.1:8100/v1", "kind": "vllm"}
        make_service(tmp_path, upstreams={"local": local, "judging": judging})
        content["comments"] = {"judge": {"upstream": "judging", "model": "judge"}}
        (tmp_path / "tasks" / "colours.yaml").write_text(yaml.safe_dump(content))
        service = load(tmp_path / "everlearn.yaml")
        lake = open_lake(service)
        yield World(service, fill(lake), judge, server)
        lake.close()


def fill(lake: DuckLake) -> DuckLake:
    """Every owner asks both questions; experts answer for the held-out ones alone, so that there is
    an exam and nothing to learn from."""
    asked = [(thing, word) for thing in THINGS for word in WORDS]
    completions = [completion(number, *each) for number, each in enumerate(asked)]
    right = [
        correction(number, colour(thing))
        for number, (thing, _) in enumerate(asked)
        if not taught(thing)
    ]

    def write(transaction: Any) -> None:
        transaction.append("completions", completions)
        transaction.append("feedback", right)

    lake.commit(write)
    return lake


def taught(thing: str) -> bool:
    return side_of(f"user-{thing}", heldout_percent=PERCENT, salt=SALT) == "train"


OWN = next(number for number, thing in enumerate(THINGS) if taught(thing))
SHADE = OWN * len(WORDS) + WORDS.index("shade")
"""A shade that somebody of the training side asked for, and was told wrong."""


def ruled(world: World) -> list[Standing]:
    """The expert's one sentence, learned from."""
    world.judge.sorts["the shade is the colour"] = {"sort": "rule", "rule": RULE, "reason": ""}
    world.say(SHADE, "the shade is the colour")
    return world.teach()


def right(model: Any, bench: Workbench, word: str) -> float:
    """Share of the unseen things - of units that nothing was taught of - answered right."""
    unseen = [thing for thing in THINGS if not taught(thing)]
    made = answer(model, bench, [question(thing, word) for thing in unseen])
    pairs = zip(made.answers, unseen, strict=True)
    return sum(each.text == colour(thing) for each, thing in pairs) / len(unseen)


@pytest.mark.parametrize("method", [sft.METHOD, dpo.METHOD], ids=lambda method: str(method.name))
def test_one_sentence_of_an_expert_is_followed_on_unseen_prompts_and_nothing_else_changes(
    method: Method, world: World, tmp_path: Path
) -> None:
    (standing,) = ruled(world)
    assert (standing.state, standing.rule) == ("teaching", RULE), standing.why
    snapshot = freeze(world.lake, world.task, champion="base", salt=SALT)
    rows = snapshot.side("train")
    lessons = [row for row in rows if row.author == "comment"]
    shades = [thing for thing in THINGS if taught(thing)]
    assert {row.target for row in lessons} <= {colour(thing) for thing in shades}
    assert len(lessons) >= 0.9 * len(shades)
    # The comment stands in no prompt that is taught.
    assert all(message["role"] != "system" for row in rows for message in row.messages)

    bench = Workbench(world.task, world.task.base_model, tmp_path / "scratch")
    before = bench.adapted(None)
    assert right(before, bench, "shade") <= 0.1
    assert right(before, bench, "colour") >= 0.9
    trained = fit(method.name, method.build(TrainingData(tuple(rows)), bench, None), print)  # type: ignore[arg-type]
    assert right(trained.model, bench, "shade") >= 0.9
    assert right(trained.model, bench, "colour") >= 0.9


def test_a_rule_that_the_model_cannot_follow_waits_and_teaches_nothing(world: World) -> None:
    text = "thing0 is red"
    world.judge.sorts[text] = {"sort": "rule", "rule": text, "reason": ""}
    world.say(SHADE, text)
    (standing,) = world.teach()
    assert standing.state == "waiting"
    assert "not > 0" in standing.why
    assert latest(world.lake, "colours").lessons == ()
    before = freeze(world.lake, world.task, champion="base", salt=SALT)
    assert before.counts["train"] == {"replay": before.counts["train"]["replay"]}


def test_what_was_measured_is_not_measured_again_and_the_judge_sorts_once(world: World) -> None:
    ruled(world)
    asked, made = world.judge.asked, latest(world.lake, "colours")
    (again,) = world.teach()
    assert again.state == "teaching"
    assert world.judge.asked == asked
    assert latest(world.lake, "colours") == made
    (shown,) = read_desk(world.lake, world.task).standings()
    assert (shown.state, shown.why) == (again.state, again.why)


def test_a_comment_that_is_taken_back_takes_its_lessons_with_it(world: World) -> None:
    ruled(world)
    assert latest(world.lake, "colours").lessons
    back = {"feedback_id": "fb_back", "kind": "retraction", "value_text": None}
    world.say(SHADE, "", **back, received_at=START + timedelta(days=1))
    assert latest(world.lake, "colours").lessons == ()
    assert world.teach() == []
    rows = freeze(world.lake, world.task, champion="base", salt=SALT).rows
    assert not [row for row in rows if row.author == "comment"]


def test_displeasure_is_a_thumb_down_and_praise_is_nothing(world: World) -> None:
    world.judge.sorts |= {
        "awful": {"sort": "displeasure", "rule": "", "reason": ""},
        "lovely": {"sort": "nothing", "rule": "", "reason": "praise"},
    }
    world.say(SHADE, "awful")
    world.say(SHADE - 1, "lovely")
    assert {each.sort: each.state for each in world.teach()} == {
        "displeasure": "teaching",
        "nothing": "refused",
    }
    rows = freeze(world.lake, world.task, champion="base", salt=SALT).side("train")
    assert [row.completion_id for row in rows if row.kind == "rejected"] == [f"cmpl_{SHADE:05d}"]


def test_a_judge_that_is_away_leaves_comments_waiting_and_is_tried_three_times(
    world: World,
) -> None:
    world.say(SHADE, "the shade is the colour")
    world.server.answer = says("I would rather not say.")
    for _ in range(5):
        (standing,) = world.teach()
        assert standing.state == "waiting"
        assert "could not be sorted" in standing.why
    assert len(world.server.requests) == 3


def test_a_judge_of_the_task_decides_only_once_it_agrees_with_experts(world: World) -> None:
    path = world.service.tasks_path / "colours.yaml"
    content = yaml.safe_load(path.read_text())
    content["graders"].append(
        {
            **{"type": "label_model", "name": "keeps", "model": "m", "upstream": "judging"},
            **{"labels": ["yes", "no"], "passing_labels": ["yes"]},
            "input": [{"role": "user", "content": "{{item.rule}} {{sample.output_text}}"}],
        }
    )
    content["comments"]["grader"] = "keeps"
    path.write_text(yaml.safe_dump(content))
    world.say(SHADE, "the shade is the colour")
    with pytest.raises(NotEnoughEvidence, match=r"comments\.grader: judge keeps may only advise"):
        world.teach()


def test_two_experts_who_contradict_each_other_are_put_to_an_expert(world: World) -> None:
    ruled(world)
    assert latest(world.lake, "colours").lessons
    text = "shade is shade"
    world.judge.sorts[text] = {"sort": "rule", "rule": text, "reason": ""}
    world.say(SHADE + 2, text, author_id="bob")
    world.judge.pairs = [[1, 2]]
    found = world.teach()
    assert {each.state for each in found} == {"waiting"}
    assert all("an expert decides" in each.why for each in found)
    assert latest(world.lake, "colours").lessons == ()


def test_the_verb_shows_every_comment_and_refuses_a_task_without_a_judge(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ruled(world)
    world.say(SHADE - 1, "I am only a user", author="end_user", author_id="user-1")
    config = str(world.service.root / "everlearn.yaml")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["everlearn", "comments", *words, "--config", config])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code if isinstance(ended.value.code, int) else 0, said.out, said.err

    told = json.loads(call("colours", "--json")[1])
    assert {row["text"]: row["state"] for row in told["comments"]} == {
        "the shade is the colour": "teaching",
        "I am only a user": "refused",
    }
    assert told["lessons"] > 0
    assert "teaching rule" in call("colours")[1]
    path = world.service.tasks_path / "colours.yaml"
    content = yaml.safe_load(path.read_text())
    del content["comments"]
    path.write_text(yaml.safe_dump(content))
    code, _, error = call("colours")
    assert (code, "declares no `comments`" in error) == (2, True)
