"""A judge's guidelines are learned from labels it may be tuned on, and it earns its vote anew."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.responses import Response

from evaluators.align import Aligned, align, held, keep
from evaluators.experts import half
from evaluators.fill import label_salt
from evaluators.graders import build
from evaluators.judges import standings
from everlearn.cli import main
from everlearn.errors import InputError, NotEnoughEvidence
from everlearn.lake.store import Transaction
from everlearn.prompts import prompt_key
from everlearn.task import Task, load_task
from tests.evaluators.judge_server import JudgeServer, judge_server, says
from tests.evaluators.lake import START, Rows

TASK: dict[str, Any] = {
    "task": "text2sql", "base_model": "base", "upstream": "local",
    "graders": [
        {"name": "sound", "type": "score_model", "model": "judge",
         "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
         "sampling_params": {"max_completions_tokens": 5}},
        {"name": "check", "type": "string_check", "operation": "eq",
         "input": "{{ sample.output_text }}", "reference": "yes"},
        {"name": "moody", "type": "score_model", "model": "judge",
         "input": [{"role": "user", "content": "{{ item.thumbs }}"}]},
        {"name": "parts", "type": "rubric_model", "model": "judge",
         "criteria": [{"name": "why", "text": "it gives a reason"}]},
        {"name": "better", "type": "pairwise_model", "model": "judge",
         "criterion": "which gives a reason", "other": "the other one"},
    ],
    "release": {"primary": "check"},
}  # fmt: skip
GOOD, BAD = "A right answer says because.", "Long answers are right."


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


class World:
    """People want a reason ("because"); the judge takes whoever is sure, until it is told."""

    def __init__(self, folder: Path, server: JudgeServer) -> None:
        self.rows, self.server, self.folder = Rows(folder), server, folder
        config = yaml.safe_load((folder / "everlearn.yaml").read_text())
        config["upstreams"]["local"]["base_url"] = server.address
        (folder / "everlearn.yaml").write_text(yaml.safe_dump(config))
        self.service = self.rows.service.model_validate(
            {**self.rows.service.model_dump(), "upstreams": config["upstreams"]}
        )
        self.file = folder / "tasks" / "text2sql.yaml"
        self.salt, self.number = label_salt(self.rows.service), 0
        self.start()

    def start(self) -> None:
        """As at first, but for the lake."""
        shutil.rmtree(self.folder / "tasks")
        (self.folder / "tasks").mkdir()
        self.file.write_text(yaml.safe_dump(TASK))
        self.written = [GOOD]
        self.server.requests.clear()
        self.server.answer = self.answer

    @property
    def task(self) -> Task:
        return load_task(self.service, "text2sql")

    def labelled(self, side: str, *answers: tuple[str, bool]) -> None:
        """An answer with an expert's label each, of a user of its own, on that side of the
        split: certify, held or learn."""
        completions, feedback = [], []
        for text, good in answers:
            self.number += 1
            name, at = f"cmpl_{self.number:04}", START + timedelta(seconds=self.number)
            completions.append({
                "completion_id": name, "task": "text2sql", "status": "ok", "received_at": at,
                "response_text": text, "unit": name, "version": "v1",
                "messages": json.dumps([{"role": "user", "content": self._prompt(side)}]),
            })  # fmt: skip
            feedback.append({
                "feedback_id": f"fb_{name}", "completion_id": name, "kind": "binary",
                "name": "thumbs", "value_bool": good, "author": "expert", "author_id": "ann",
                "received_at": at,
            })  # fmt: skip
        self.rows.lake.commit(partial(_append, table="completions", rows=completions))
        self.rows.lake.commit(partial(_append, table="feedback", rows=feedback))

    def tuned(self) -> None:
        """Ten labels to learn from and ten held; the judge is wrong about half of them. By the
        certified ones the guidelines would be the worst there are."""
        self.labelled("certify", *[("because certified", False), ("sure certified", True)] * 8)
        for side in ("learn", "held"):
            self.labelled(
                side,
                *[("sure, because of ann", True), ("sure of it", False)] * 3,
                *[("because it is so", True), ("who knows", False)] * 2,
            )

    def align(self, name: str = "sound") -> Aligned:
        return align(self.service, self.task, self.rows.lake, name)

    def answer(self, body: dict[str, Any]) -> Response:
        """Deterministic, as a rule; guidelines are written from the list, the last for ever."""
        first, last = body["messages"][0]["content"], body["messages"][-1]["content"]
        if first.startswith("You write guidelines"):
            text = self.written[0] if len(self.written) == 1 else self.written.pop(0)
            return says(json.dumps({"reason": "so", "guidelines": text}))(body)
        data = json.loads(next(line for line in last.splitlines() if line.startswith('{"')))
        said = data.get("sample.output_text") or data.get("answer")
        # Of a pair the one that is judged stands once first, once second.
        place = "B" if data.get("answer A") == "the other one" else "A"
        said = said or data[f"answer {place}"]
        met = ("because" if GOOD in first + last else "sure") in said
        if "answer A" in data:
            label = place if met else "A" if place == "B" else "B"
            return says(json.dumps({"reason": "so", "label": label}))(body)
        if "CRITERION" in first or "one criterion" in first:
            return says(json.dumps({"reason": "so", "label": "yes" if met else "no"}))(body)
        return says(json.dumps({"reason": "so", "score": float(met)}))(body)

    @property
    def questions(self) -> list[dict[str, str]]:
        """What the model that writes was shown."""
        asked = [each["messages"] for each in self.server.requests]
        found = [e for e in asked if e[0]["content"].startswith("You write guidelines")]
        lines = [
            next(line for line in each[1]["content"].splitlines() if line.startswith('{"'))
            for each in found
        ]
        return [json.loads(line) for line in lines]

    def _prompt(self, side: str) -> str:
        for tries in range(10_000):
            text = f"q{self.number}/{tries}"
            key = prompt_key([{"role": "user", "content": text}])
            tune = half(self.salt, key) == "tune"
            if side == ("certify" if not tune else "held" if held(self.salt, key) else "learn"):
                return text
        raise AssertionError(side)


def _append(transaction: Transaction, table: str, rows: list[dict[str, Any]]) -> None:
    transaction.append(table, rows)


@pytest.fixture
def world(tmp_path: Path, server: JudgeServer) -> Iterator[World]:
    made = World(tmp_path, server)
    yield made
    made.rows.lake.close()


@pytest.fixture(scope="module")
def _tuned(tmp_path_factory: pytest.TempPathFactory, server: JudgeServer) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("tuned"), server)
    made.tuned()
    yield made
    made.rows.lake.close()


@pytest.fixture
def tuned(_tuned: World) -> World:
    """Labels that nothing here adds to."""
    _tuned.start()
    return _tuned


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, output and errors of `everlearn judges align text2sql ...`."""

    def run(world: World, *words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(world.folder)
        monkeypatch.setattr(sys, "argv", ["everlearn", "judges", "align", "text2sql", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), *capsys.readouterr()

    return run


def test_guidelines_raise_agreement_and_the_judge_earns_its_vote_anew(
    tuned: World, verb: Run
) -> None:
    before = tuned.file.read_text()
    code, out, _ = verb(tuned, "sound")
    assert code == 0
    assert "sound: without 0.500 [" in out
    assert "with    1.000 [" in out
    assert "on 10 held labels of 10 users; 10 more were learned from" in out
    written = tuned.folder / "tasks" / "judges" / "sound.1.txt"
    assert written.read_text() == f"{GOOD}\n"
    assert tuned.file.read_text() == before, "a person takes them, not the verb"
    old = build(tuned.task.grader("sound"), tuned.task).version
    content = yaml.safe_load(before)
    content["graders"][0]["guidelines"] = "judges/sound.1.txt"
    tuned.file.write_text(yaml.safe_dump(content))
    assert build(tuned.task.grader("sound"), tuned.task).version != old
    standing = standings(tuned.rows.lake, tuned.task, tuned.salt)[0]
    assert (standing.may_gate, standing.reason) == (False, "no certified label yet")


def test_labels_that_certify_are_neither_shown_nor_looked_at(tuned: World) -> None:
    found = tuned.align()
    assert found.better
    assert (found.before.labels, found.after.labels, found.learned_from) == (10, 10, 10)
    asked = json.dumps(tuned.server.requests)
    assert "because it is so" in asked
    assert "certified" not in asked


def test_what_is_held_is_not_shown_to_the_model_that_writes(world: World) -> None:
    world.labelled("learn", *[("sure of it", False), ("because learned", True)] * 5)
    world.labelled("held", *[("sure held", False), ("because held", True)] * 5)
    assert world.align().better
    (question,) = world.questions
    assert "because learned" in question["answers"]
    assert "held" not in json.dumps(question)
    limited = ["max_tokens" in each for each in world.server.requests]
    assert limited.count(False) == 1, "a verdict's limit would cut guidelines"


def test_what_did_not_help_is_told_and_another_is_asked_for(tuned: World) -> None:
    tuned.written = [BAD, "{{ inputs }} are right", GOOD]
    found = tuned.align()
    assert (found.guidelines, found.after.agreed) == (GOOD, 10)
    tried = [json.loads(each["tried in vain"]) for each in tuned.questions]
    assert tried == [[], [BAD], [BAD, ""]]


def test_guidelines_that_do_not_agree_more_are_not_kept(tuned: World, verb: Run) -> None:
    tuned.written = [BAD]
    code, out, _ = verb(tuned, "sound")
    assert code == 1
    assert "nothing written: no guidelines were found that agree more" in out
    assert not (tuned.folder / "tasks" / "judges").exists()


def test_what_helps_only_where_it_was_learned_is_not_kept(world: World) -> None:
    world.labelled("learn", *[("sure of it", False), ("because it is so", True)] * 5)
    world.labelled("held", *[("sure of it", True), ("because it is so", False)] * 5)
    found = world.align()
    assert (found.guidelines, found.better) == (GOOD, False)
    assert (found.before.agreed, found.after.agreed) == (10, 0)


def test_the_next_file_stands_beside_the_old_one(tuned: World, verb: Run) -> None:
    content = yaml.safe_load(tuned.file.read_text())
    content["graders"][0]["guidelines"] = "words/mine.txt"
    (tuned.folder / "tasks" / "words").mkdir()
    (tuned.folder / "tasks" / "words" / "mine.txt").write_text(BAD)
    tuned.file.write_text(yaml.safe_dump(content))
    code, out, _ = verb(tuned, "sound", "--json")
    found = json.loads(out)
    assert (code, found["file"], found["guidelines"]) == (0, "words/sound.1.txt", GOOD)
    assert found["after"]["agreement"]["value"] == 1.0
    assert len(found["before"]["apart"]) == 5
    assert tuned.questions[0]["guidelines"] == BAD
    assert keep(tuned.task, tuned.align()) == "words/sound.2.txt"


@pytest.mark.parametrize(
    ("name", "asked"), [("parts", "it gives a reason"), ("better", "which gives a reason")]
)
def test_judges_of_our_own_words_are_aligned_too(tuned: World, name: str, asked: str) -> None:
    found = tuned.align(name)
    assert (found.before.agreed, found.after.agreed) == (5, 10)
    assert asked in tuned.questions[0]["the judge is asked"]
    path = keep(tuned.task, found)
    content = yaml.safe_load(tuned.file.read_text())
    grader = next(each for each in content["graders"] if each["name"] == name)
    old = build(tuned.task.grader(name), tuned.task).version
    tuned.file.write_text(yaml.safe_dump({**content, "graders": [{**grader, "guidelines": path}],
                                          "release": {"primary": name}}))  # fmt: skip
    assert build(tuned.task.grader(name), tuned.task).version != old


def test_an_optimizer_of_mlflow_may_take_the_place_of_ours(tuned: World) -> None:
    from mlflow.entities import Trace
    from mlflow.genai.judges import AlignmentOptimizer, Judge, make_judge
    from mlflow.genai.utils.trace_utils import extract_response_from_trace

    class Told(AlignmentOptimizer):  # type: ignore[misc]
        def align(self, judge: Judge, traces: list[Trace]) -> Judge:
            self.said = [
                (extract_response_from_trace(each), each.info.assessments[0].value)
                for each in traces
            ]
            text = f"{GOOD} {{{{ outputs }}}} to {{{{ inputs }}}}"
            return make_judge(name=judge.name, instructions=text, model=judge.model)

    optimizer = Told()
    found = align(tuned.service, tuned.task, tuned.rows.lake, "sound", optimizer=optimizer)
    assert found.guidelines == f"{GOOD} the answer to the request"
    assert found.better
    assert ("sure of it", False) in optimizer.said
    assert len(optimizer.said) == 10


def test_too_few_labels_are_not_enough(world: World, verb: Run) -> None:
    world.labelled("learn", *[("sure", True)] * 9)
    world.labelled("held", *[("sure", True)] * 7)
    with pytest.raises(NotEnoughEvidence, match="9 labels of the tune half to learn from and 7 to"):
        world.align()
    assert verb(world, "sound")[0] == 3
    assert world.server.requests == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [("check", "no judge 'check'; there are: sound, moody, parts, better"),
     ("moody", "it reads feedback"), ("nobody", "no judge 'nobody'")],
)  # fmt: skip
def test_what_guidelines_are_not_for_is_refused(tuned: World, name: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        tuned.align(name)


def test_a_judge_that_is_away_is_exit_4(tuned: World, verb: Run) -> None:
    tuned.server.answer = says("I would rather not say")
    code, _, err = verb(tuned, "sound")
    assert code == 4
    assert "judge sound has no verdict: the judge gave no number: 'I would rather not say'" in err
