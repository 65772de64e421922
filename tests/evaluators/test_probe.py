"""What moves a judge that should not, found on judges whose bias is known, over real HTTP."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from fastapi.responses import Response

from evaluators.graders import build
from evaluators.probe import PADDING, Probe, measured, probe
from everlearn.cli.judges import command
from everlearn.errors import InputError, NotEnoughEvidence
from everlearn.lake.store import Transaction
from everlearn.task import Task
from tests.builders import make_service
from tests.evaluators.graders import make_task
from tests.evaluators.judge_server import JudgeServer, judge_server, says
from tests.evaluators.lake import START, Rows

SCORE = {
    "name": "judge", "type": "score_model", "model": "m", "range": [0, 10], "timeout_seconds": 5,
    "input": [{"role": "user", "content": "How good: {{ sample.output_text }}"}],
}  # fmt: skip
PAIRWISE = {"name": "duel", "type": "pairwise_model", "model": "m", "timeout_seconds": 5}
ANSWERS = 8

Judge = Callable[[dict[str, str]], str]
"""What it says of the data that it is shown."""


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


class Bench:
    """Answers of two models, and a judge that does as told."""

    def __init__(self, folder: Path, server: JudgeServer) -> None:
        self.rows, self.server = Rows(folder), server
        upstream = {"base_url": server.address, "kind": "openai"}
        self.service = make_service(folder, upstreams={"local": upstream})
        self.names = [f"cmpl_{number}" for number in range(ANSWERS)]
        server.requests.clear()

    def answered(self, models: tuple[str, ...] = ("m", "other")) -> None:
        prompt = json.dumps([{"role": "user", "content": "q"}])
        self._append("completions", [
            {
                "completion_id": name, "task": "text2sql", "status": "ok", "received_at": START,
                "response_text": f"{'yes' if number % 2 else 'no'} {number}", "messages": prompt,
                "model_served": models[number // 2 % 2], "version": "base", "unit": name,
            }
            for number, name in enumerate(self.names)
        ])  # fmt: skip

    def judged(self, task: Task, value: Callable[[int], float], good: bool = True) -> None:
        """Labels, and the judge's scores of them."""
        version = build(task.grader("judge"), task).version
        self._append("feedback", [
            {
                "feedback_id": f"fb_{name}", "completion_id": name, "kind": "binary",
                "name": "thumbs", "value_bool": good, "author": "expert", "author_id": "ann",
                "received_at": START,
            }
            for name in self.names
        ])  # fmt: skip
        self._append("scores", [
            {
                "completion_id": name, "task": "text2sql", "evaluator": "judge",
                "evaluator_version": version, "value": value(number), "context": "||",
                "created_at": START,
            }
            for number, name in enumerate(self.names)
        ])  # fmt: skip

    def probe(self, judge: Judge, spec: dict[str, Any] = SCORE) -> dict[str, Probe]:
        self.server.answer = lambda body: _told(judge, body)
        task = make_task(self.service.root, spec)
        return {each.probe: each for each in probe(self.service, task, self.rows.lake)}

    def _append(self, table: str, rows: list[dict[str, Any]]) -> None:
        self.rows.lake.commit(partial(_append, table=table, rows=rows))


def _append(transaction: Transaction, table: str, rows: list[dict[str, Any]]) -> None:
    transaction.append(table, rows)


def _told(judge: Judge, body: dict[str, Any]) -> Response:
    line = next(
        line for line in body["messages"][-1]["content"].splitlines() if line.startswith('{"')
    )
    return says(judge(json.loads(line)))(body)


@pytest.fixture
def bench(tmp_path: Path, server: JudgeServer) -> Iterator[Bench]:
    made = Bench(tmp_path, server)
    yield made
    made.rows.lake.close()


def fair(data: dict[str, str]) -> str:
    return "10" if "yes" in data["sample.output_text"] else "2"


def test_a_fair_judge_stands_out_nowhere(bench: Bench) -> None:
    bench.answered()
    found = bench.probe(fair)
    assert set(found) == {"itself", "trivial edit", "verbosity", "self-preference"}
    moved = {name: each.shift for name, each in found.items()}
    assert moved == {"itself": 0, "trivial edit": 0, "verbosity": 0, "self-preference": None}
    assert not any(each.stands_out for each in found.values())
    assert len(bench.server.requests) == 4 * ANSWERS, "asked itself again, not its memory"


def test_a_judge_of_length_stands_out_by_length_alone(bench: Bench) -> None:
    bench.answered()
    found = bench.probe(
        lambda data: "8" if data["sample.output_text"].endswith("questions.") else "4"
    )
    assert [name for name, each in found.items() if each.stands_out] == ["verbosity"]
    assert found["verbosity"].shift == pytest.approx(0.4)
    assert found["verbosity"].flipped == 1.0


def test_a_judge_that_white_space_moves_stands_out(bench: Bench) -> None:
    bench.answered()
    found = bench.probe(lambda data: "3" if data["sample.output_text"].endswith("\n") else "6")
    assert [name for name, each in found.items() if each.stands_out] == ["trivial edit"]


def test_a_judge_that_changes_its_mind_flips(bench: Bench) -> None:
    bench.answered()
    asked: dict[str, int] = {}

    def fickle(data: dict[str, str]) -> str:
        text = data["sample.output_text"]
        asked[text] = asked.get(text, 0) + 1
        return "9" if asked[text] % 2 else "1"

    assert bench.probe(fickle)["itself"].flipped == 1.0


def test_a_place_that_decides_is_found_in_a_pairwise_judge(bench: Bench) -> None:
    bench.answered()
    found = bench.probe(lambda data: '{"reason": "first", "label": "A"}', PAIRWISE)
    assert [name for name, each in found.items() if each.stands_out] == ["position"]
    assert found["position"].shift == 1.0

    def longer(data: dict[str, str]) -> str:
        return json.dumps({"label": max("AB", key=lambda side: len(data[f"answer {side}"]))})

    found = bench.probe(longer, PAIRWISE)
    assert (found["position"].shift, found["verbosity"].shift) == (0.0, 0.5)
    found = bench.probe(lambda data: '{"label": "tie"}', PAIRWISE)
    assert not any(each.stands_out for each in found.values())


def test_a_judge_that_is_kinder_to_its_own_model_than_people_are(bench: Bench) -> None:
    bench.names = [f"cmpl_{number:02}" for number in range(24)]
    bench.answered()
    task = make_task(bench.service.root, SCORE)
    bench.judged(task, lambda number: 9.0 if number // 2 % 2 == 0 else 4.0 + number % 2)
    own = bench.probe(fair)["self-preference"]
    assert own.stands_out
    assert own.shift == pytest.approx(0.45)
    assert own.note == "m's 12 labelled answers against 12 of others"


@pytest.mark.parametrize("shifts", [[], [1.0], [1.0] * 4])
def test_a_few_verdicts_say_nothing(shifts: list[float]) -> None:
    found = measured("j", "itself", shifts, "asked again")
    assert (found.shift, found.stands_out) == (None, False)
    assert "too few" in found.note


def test_students_interval_of_known_differences() -> None:
    found = measured("j", "verbosity", [0.0, 0.2, 0.4, 0.1, 0.3], "x")
    assert found.shift == pytest.approx(0.2)
    assert found.lower == pytest.approx(0.2 - 0.19632, abs=1e-4)
    assert found.stands_out


def test_a_judge_that_is_down_is_not_known_to_be_fair(bench: Bench) -> None:
    bench.answered()
    found = bench.probe(lambda data: "I would rather not")
    assert [each.shift for each in found.values()] == [None] * 4


def test_what_cannot_be_probed_is_said(bench: Bench) -> None:
    task = make_task(bench.service.root, SCORE)
    with pytest.raises(NotEnoughEvidence, match="0 answers to probe a judge with; 5 at least"):
        probe(bench.service, task, bench.rows.lake)
    with pytest.raises(InputError, match="no judge 'nobody'; there are: judge"):
        probe(bench.service, task, bench.rows.lake, grader="nobody")


def test_the_verb_says_what_stands_out_and_judges_task_stays(bench: Bench) -> None:
    task = {
        "task": "text2sql", "base_model": "base", "upstream": "local", "graders": [SCORE],
        "release": {"primary": "judge"},
    }  # fmt: skip
    (bench.service.tasks_path / "text2sql.yaml").write_text(yaml.safe_dump(task))
    bench.answered()
    config = ["--config", str(bench.service.root / "everlearn.yaml")]
    lover = PADDING[-10:]
    bench.server.answer = lambda body: _told(
        lambda data: "8" if data["sample.output_text"].endswith(lover) else "4", body
    )
    told = CliRunner().invoke(command, ["probe", "text2sql", *config])
    assert (told.exit_code, told.output.count("stands out")) == (1, 1)
    assert "judge: verbosity: +0.400" in told.output
    bench.server.answer = lambda body: _told(fair, body)
    told = CliRunner().invoke(command, ["probe", "text2sql", "--json", *config])
    assert (told.exit_code, len(json.loads(told.output))) == (0, 4)
    for arguments in (["text2sql", "--json"], ["--json", "text2sql"]):
        shown = CliRunner().invoke(command, [*arguments, *config])
        assert json.loads(shown.output)["task"] == "text2sql"
