"""A grader from plain language: written by a scripted model, held to people, taken when said so."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.responses import Response

from evaluators.draft import taken, writer
from evaluators.experts import half
from evaluators.fill import label_salt
from evaluators.judges import standings
from evaluators.sandbox import sandbox
from everlearn.cli import main
from everlearn.errors import ConfigError, GraderError
from everlearn.lake.store import Transaction
from everlearn.prompts import prompt_key
from everlearn.task import load_task
from tests.evaluators.judge_server import JudgeServer, answers, judge_server, says
from tests.evaluators.lake import START, Rows

TASK = """\
task: text2sql            # what clients send
base_model: base
upstream: local
graders:
  # the one people asked for
  - name: helpful
    type: score_model
    model: writer
    input: [{role: user, content: "{{ sample.output_text }}"}]
    sampling_params: {max_completions_tokens: 5}
release: {primary: helpful}
"""
SHORT = "def grade(sample, item):\n    return float(len(sample['output_text']) < 10)\n"
PYTHON = {"type": "python", "source": SHORT, "pass_threshold": 0.5}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running
    sandbox().close()


class Bench:
    """A lake with labels, and a model that writes what it is told to."""

    def __init__(self, folder: Path, server: JudgeServer) -> None:
        self.rows, self.server, self.folder = Rows(folder), server, folder
        config = yaml.safe_load((folder / "everlearn.yaml").read_text())
        config["upstreams"]["local"]["base_url"] = server.address
        (folder / "everlearn.yaml").write_text(yaml.safe_dump(config))
        self.file = folder / "tasks" / "text2sql.yaml"
        self.file.write_text(TASK)
        self.rubric = folder / "short.md"
        self.rubric.write_text("A good answer is short.\n")
        self.salt = label_salt(self.rows.service)
        self.number = 0
        server.requests.clear()

    def labelled(self, *goods: bool, on: str = "tune", text: str | None = None) -> list[str]:
        """An answer for each, of a user of its own; short where it is right."""
        completions, feedback, names = [], [], []
        for good in goods:
            self.number += 1
            name, at = f"cmpl_{self.number:04}", START + timedelta(seconds=self.number)
            prompt = next(
                text
                for text in (f"q{self.number}/{tries}" for tries in range(1000))
                if half(self.salt, prompt_key([{"role": "user", "content": text}])) == on
            )
            completions.append({
                "completion_id": name, "task": "text2sql", "status": "ok", "received_at": at,
                "response_text": text or ("short" if good else "very long indeed"),
                "messages": json.dumps([{"role": "user", "content": prompt}]), "unit": name,
                "version": "v1",
            })  # fmt: skip
            feedback.append({
                "feedback_id": f"fb_{name}", "completion_id": name, "kind": "binary",
                "name": "thumbs", "value_bool": good, "author": "expert", "author_id": "ann",
                "received_at": at,
            })  # fmt: skip
            names.append(name)
        self.rows.lake.commit(partial(_append, table="completions", rows=completions))
        self.rows.lake.commit(partial(_append, table="feedback", rows=feedback))
        return names

    def writes(self, *said: Any) -> None:
        """One after the other, the last again and again."""
        texts = [each if isinstance(each, str) else _spoken(each) for each in said]

        def answer(body: dict[str, Any]) -> Response:
            return says(texts[min(len(self.server.requests), len(texts)) - 1])(body)

        self.server.answer = answer

    def shown(self, request: int = 0) -> list[dict[str, str]]:
        """The answers that the model got to see."""
        content = self.server.requests[request]["messages"][1]["content"]
        line = next(line for line in content.splitlines() if line.startswith('{"'))
        found: list[dict[str, str]] = json.loads(json.loads(line)["answers"])
        return found


def _append(transaction: Transaction, table: str, rows: Sequence[dict[str, Any]]) -> None:
    transaction.append(table, list(rows))


def _spoken(grader: dict[str, Any]) -> str:
    return json.dumps({"reason": "it counts", "grader": json.dumps(grader)})


@pytest.fixture
def bench(tmp_path: Path, server: JudgeServer) -> Iterator[Bench]:
    made = Bench(tmp_path, server)
    yield made
    made.rows.lake.close()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, server: JudgeServer) -> Iterator[Bench]:
    """Six labels, for what changes nothing."""
    made = Bench(tmp_path_factory.mktemp("few"), server)
    made.labelled(*[True] * 3, *[False] * 3)
    yield made
    made.rows.lake.close()


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, output and errors of `everlearn grader draft text2sql --rubric short.md ...`."""

    def run(bench: Bench, *more: str) -> tuple[int, str, str]:
        monkeypatch.chdir(bench.folder)
        words = ["grader", "draft", "text2sql", "--rubric", str(bench.rubric), *more]
        monkeypatch.setattr(sys, "argv", ["everlearn", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


def test_a_draft_is_shown_with_its_agreement_and_changes_nothing(bench: Bench, draft: Run) -> None:
    bench.labelled(*[True] * 9, *[False] * 9)
    apart = bench.labelled(True, text="a long answer that people like")
    bench.labelled(*[True] * 5, on="certify", text="of the other half")
    bench.writes(PYTHON)
    code, out, _ = draft(bench)
    assert code == 0
    assert "type: python" in out
    assert "why: it counts" in out
    assert "agreement 1.000 [" in out, "the label apart was among the latest, and shown"
    assert "on 13 labels of 13 users, kappa 1.00; too kind 0, too strict 0; 6 more were" in out
    assert bench.file.read_text() == TASK
    shown = bench.shown()
    assert sorted(each["people_say"] for each in shown) == ["right"] * 3 + ["wrong"] * 3
    assert "a long answer that people like" in {each["answer"] for each in shown}
    asked = json.dumps(bench.server.requests)
    assert "A good answer is short." in asked
    assert "of the other half" not in asked, "what certifies is not shown"
    assert "max_tokens" not in bench.server.requests[0], "a verdict's limit would cut a grader"
    assert apart


def test_where_it_parts_from_people_is_said(bench: Bench, draft: Run) -> None:
    apart = bench.labelled(True, False, text="a long answer that people like")
    bench.labelled(*[True] * 9, *[False] * 9)
    bench.writes(PYTHON)
    code, out, _ = draft(bench, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["labels"] == 14
    assert found["agreement"]["value"] == pytest.approx(13 / 14)
    assert found["agreement"]["lower"] < 13 / 14 < found["agreement"]["upper"]
    assert found["table"]["judge_too_strict"] == 1
    assert [(each["completion_id"], each["expert"]) for each in found["apart"]] == [
        (apart[0], True)
    ]
    assert f"{apart[0]}: people say right, it 0: 'a long answer" in draft(bench)[1]


def test_what_was_shown_is_what_is_accepted_and_it_only_advises(bench: Bench, draft: Run) -> None:
    bench.labelled(*[True] * 9, *[False] * 9)
    bench.writes(PYTHON, {**PYTHON, "source": SHORT + "# another\n"})
    assert draft(bench)[0] == 0
    code, out, _ = draft(bench, "--accept")
    assert (code, len(bench.server.requests)) == (0, 1)
    assert "short advises from now on" in out
    text = bench.file.read_text()
    assert text.startswith(TASK.partition("release")[0]), "what people wrote stays"
    task = load_task(bench.rows.service, "text2sql")
    assert [each.name for each in task.graders] == ["helpful", "short"]
    assert task.grader("short").model_dump()["source"] == SHORT
    assert task.judges.drafted == ("short",)
    standing = standings(bench.rows.lake, task, bench.salt)[1]
    assert (standing.kind, standing.may_gate, standing.reason) == (
        "judge", False, "no certified label yet"
    )  # fmt: skip
    code, _, err = draft(bench, "--accept")
    assert code == 2
    assert "task text2sql has a grader of that name" in err


def test_another_rubric_is_drafted_anew(bench: Bench, draft: Run) -> None:
    bench.labelled(*[True] * 9, *[False] * 9)
    bench.writes(PYTHON, {"type": "string_check", "operation": "eq",
                          "input": "{{sample.output_text}}", "reference": "short"})  # fmt: skip
    draft(bench)
    bench.rubric.write_text("A good answer is `short`.")
    code, out, _ = draft(bench, "--accept", "--name", "short")
    assert (code, len(bench.server.requests)) == (0, 2)
    assert load_task(bench.rows.service, "text2sql").grader("short").type == "string_check"
    assert "type: string_check" in out


REFUSED: dict[str, tuple[Any, str]] = {
    "no object": ("I would count the words.", "is no verdict"),
    "no grader": ({}, "type = None: one of string_check"),
    "an address": ({"type": "endpoint", "url": "http://x.test"}, "type = 'endpoint'"),
    "a program": ({"type": "execution", "language": "command", "command": ["true"]}, "execution"),
    "feedback": ({"type": "feedback", "feedback": "thumbs"}, "type = 'feedback'"),
    "feedback by a template": (
        {"type": "string_check", "operation": "eq", "input": "{{item.thumbs}}", "reference": "1"},
        "it reads feedback",
    ),
    "feedback by code": (
        {"type": "python", "source": "def grade(sample, item):\n    return item['thumbs']\n"},
        "it reads feedback",
    ),
    "an unknown key": ({**PYTHON, "sources": 1}, "unknown key; did you mean 'source'?"),
    "code that does not compile": ({**PYTHON, "source": "def grade(:"}, "does not compile"),
    "a file of its choice": (
        {"type": "score_model", "input": [{"role": "user", "content": "{{sample.output_text}}"}],
         "guidelines": "/etc/passwd"}, "a file is the operator's to name",
    ),
    "another model": (
        {"type": "text_similarity", "evaluation_metric": "cosine", "input": "a", "reference": "b",
         "embedding_model": "m"}, "it needs another model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_model_may_not_write_is_refused(what: str, few: Bench) -> None:
    said, problem = REFUSED[what]
    task = load_task(few.rows.service, "text2sql")
    text = said if isinstance(said, str) else _spoken(said)
    with pytest.raises((ConfigError, GraderError)) as refused:
        taken(text, "short", writer(task), task, few.rows.service)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        _spoken(PYTHON),
        json.dumps({"grader": PYTHON}),
        json.dumps({**PYTHON, "name": "its own name"}),
        f"<think>hm</think>```json\n{_spoken(PYTHON)}\n```",
    ],
)
def test_a_grader_is_read_however_it_is_wrapped(text: str, few: Bench) -> None:
    task = load_task(few.rows.service, "text2sql")
    spec, _ = taken(text, "short", writer(task), task, few.rows.service)
    assert (spec.name, spec.type) == ("short", "python")


def test_what_is_wrong_is_told_and_asked_again(few: Bench, draft: Run) -> None:
    few.server.requests.clear()
    few.writes({**PYTHON, "source": "def grade(:"}, PYTHON)
    code, out, _ = draft(few)
    assert (code, len(few.server.requests)) == (0, 2)
    last = few.server.requests[1]["messages"][-1]
    assert last["role"] == "user"
    assert "does not compile" in last["content"]
    assert "type: python" in out


def test_a_model_that_writes_none_is_told_in_one_line(few: Bench, draft: Run) -> None:
    few.server.requests.clear()
    few.writes("no")
    code, _, err = draft(few)
    assert code == 1
    assert err.startswith("everlearn: writer wrote no grader in 3 attempts: ")
    assert few.file.read_text() == TASK


def test_it_asks_no_model_but_its_writer(few: Bench, draft: Run) -> None:
    few.server.requests.clear()
    rubric = {
        "type": "rubric_model", "model": "somebody-else", "upstream": "elsewhere",
        "criteria": [{"name": "short", "text": "the answer is short"}],
    }  # fmt: skip

    def answer(body: dict[str, Any]) -> Response:
        asked = json.dumps(body["messages"])
        if "The rubric:" in asked:
            return says(_spoken(rubric))(body)
        return says(json.dumps({"label": "no" if "very long" in asked else "yes"}))(body)

    few.server.answer = answer
    code, out, _ = draft(few, "--model", "other-writer", "--json")
    assert code == 0
    assert {each["model"] for each in few.server.requests} == {"other-writer"}
    assert json.loads(out)["agreement"]["value"] == 1.0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SHORT.replace("<", ">="), "not taken: agreement at most"),
        ("def grade(sample, item):\n    return 1 / 0\n", "not taken: it has no verdict on any"),
    ],
)
def test_one_that_people_disagree_with_is_not_taken(
    source: str, words: str, bench: Bench, draft: Run
) -> None:
    bench.labelled(*[True] * 9, *[False] * 9)
    bench.writes({**PYTHON, "source": source})
    code, out, _ = draft(bench, "--accept")
    assert code == 1
    assert words in out
    assert bench.file.read_text() == TASK


def test_without_labels_nobody_is_asked(bench: Bench, draft: Run) -> None:
    bench.labelled(*[True] * 3, False, False)
    bench.labelled(*[True] * 9, on="certify")
    code, _, err = draft(bench)
    assert (code, bench.server.requests) == (3, [])
    assert "5 labels of the tune half to try a grader on; 6 at least" in err


def test_a_model_that_is_away_is_tried_again_later(few: Bench, draft: Run) -> None:
    few.server.requests.clear()
    few.server.answer = answers(401)
    code, _, err = draft(few)
    assert code == 4
    assert "no grader was drafted: the judge answered 401" in err


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--judge", "nobody"], "no judge 'nobody' whose model could write"),
        (["--upstream", "local"], "of --model, which is not given"),
        (["--name", "helpful"], "has a grader of that name"),
        (["--model", "m", "--upstream", "moon"], "not an upstream of the config"),
    ],
)
def test_what_was_typed_wrong_is_said(
    more: list[str], problem: str, few: Bench, draft: Run
) -> None:
    few.server.requests.clear()
    code, _, err = draft(few, *more)
    assert code == 2
    assert problem in err
    assert few.server.requests == []
