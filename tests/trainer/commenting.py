"""A production whose experts comment: a real lake, a real judge server that says what it is told
to, and a model that can follow a rule when it stands in its prompt."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fastapi.responses import Response

from evaluators.judge.comments import instructions
from everlearn.config import Service, load
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.prompts import side_of
from everlearn.task import Task, load_task
from registry.versions import ModelVersion
from tests.builders import make_service
from tests.evaluators.judge_server import JudgeServer, judge_server, says
from tests.trainer.production import completion, correction, make_task, thumbs
from tests.trainer.tiny import THINGS, WORDS, colour, question
from trainer.evidence import answer
from trainer.lessons.board import Standing
from trainer.lessons.school import teach
from trainer.workbench import Workbench

RULE = "shade is colour"
SALT = ""
PERCENT = 30


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


@contextmanager
def a_world(tmp_path: Path, follower: Path, **comments: Any) -> Iterator[World]:
    """With these settings of `comments`."""
    content = make_task(tmp_path, follower)
    content["heldout"] = {"percent": PERCENT}
    with judge_server() as server:
        judge = Judge()
        server.answer = judge
        judging = {"base_url": server.address, "kind": "openai"}
        local = {"base_url": "http://127.0.0.1:8100/v1", "kind": "vllm"}
        make_service(tmp_path, upstreams={"local": local, "judging": judging})
        content["comments"] = {"judge": {"upstream": "judging", "model": "judge"}, **comments}
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
