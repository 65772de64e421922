"""One sentence of an expert becomes weights: a real lake, a real judge server, a real model that
can follow what it is told, and SFT and DPO on what it taught itself."""

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from everlearn.cli import main
from everlearn.errors import NotEnoughEvidence
from tests.evaluators.judge_server import says
from tests.trainer.commenting import RULE, SALT, SHADE, World, a_world, right, ruled, taught
from tests.trainer.production import START
from tests.trainer.tiny import THINGS, colour
from trainer.lessons.rows import latest
from trainer.lessons.sorting import read_desk
from trainer.methods import Method, TrainingData, dpo, sft
from trainer.snapshot import freeze
from trainer.workbench import Workbench, fit

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path, follower: Path) -> Iterator[World]:
    with a_world(tmp_path, follower) as made:
        yield made


@pytest.mark.parametrize("method", [sft.METHOD, dpo.METHOD], ids=lambda method: str(method.name))
def test_one_sentence_of_an_expert_is_followed_on_unseen_prompts_and_nothing_else_changes(
    method: Method, world: World, tmp_path: Path
) -> None:
    (standing,) = ruled(world)
    assert (standing.state, standing.rule) == ("teaching", RULE), standing.why
    snapshot = freeze(world.lake, world.task, champion="base", salt=SALT)
    rows = snapshot.side("train")
    lessons = [row for row in rows if row.author == "comment" and row.kind == "correction"]
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
